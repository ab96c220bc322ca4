"""A SLURM for the tests that need one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from slurm_jobs import left

SCRIPT = "deploy/slurm/test-cluster.sh"


@pytest.fixture(scope="session")
def slurm() -> None:
    """A running SLURM, told by SLURM_CONF. In CI it must be there, elsewhere tests are skipped without."""
    if "SLURM_CONF" in os.environ:
        subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30, check=True)
    elif os.environ.get("CI"):
        pytest.fail(f"SLURM is not running: start it with {SCRIPT}")
    else:
        pytest.skip(
            f"SLURM_CONF is not set: `{SCRIPT} run python -m pytest -m slurm tests` starts a SLURM (as root)"
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

    yield settings
    over = left()
    if over:
        subprocess.run(["scancel", *over], check=False)
    assert over == []
