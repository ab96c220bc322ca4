"""Shared fixtures: the real volumes, found once, and a SLURM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SLURM = "deploy/slurm/test-cluster.sh"
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


@pytest.fixture(scope="session")
def slurm() -> None:
    """A running SLURM, told by SLURM_CONF. In CI it must be there, elsewhere tests are skipped without."""
    if "SLURM_CONF" in os.environ:
        subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30, check=True)
    elif os.environ.get("CI"):
        pytest.fail(f"SLURM is not running: start it with {_SLURM}")
    else:
        pytest.skip(
            f"SLURM_CONF is not set: `{_SLURM} run python -m pytest -m slurm tests` starts a SLURM (as root)"
        )


@pytest.fixture
def batch(slurm: None) -> Iterator[Callable[..., dict[str, Any]]]:
    """Settings of a small cluster, and no jobs left behind."""

    def settings(**fields: Any) -> dict[str, Any]:
        return {
            "kind": "slurm",
            "walltime": "00:10:00",
            "memory": "1GiB",
            "maximum_jobs": 2,
            "interface": "lo",
            "patience": "00:02:00",
            **fields,
        }

    from slurm_jobs import left  # a neighbour of the tests that ask for this

    yield settings
    over = left()
    if over:
        subprocess.run(["scancel", *over], check=False)
    assert over == []
