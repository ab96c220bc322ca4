"""Shared fixtures: the real volumes, found once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real() -> Callable[..., np.ndarray]:
    """Loader of one real labelled volume, ``real("plant_ovule_crop/ovule_crop", "labels")``.

    In CI the volumes must be there; elsewhere the test is skipped with the reason.
    """
    folder = Path(os.environ.get("OVERSEG_DATA", DATA))

    def load(name: str, key: str = "labels") -> np.ndarray:
        path = folder / f"{name}.npz"
        if not path.exists():
            message = f"real volume {path} is not here: set OVERSEG_DATA to the folder that holds it"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        with np.load(path) as archive:
            return archive[key]

    return load
