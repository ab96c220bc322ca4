"""A plan and its application as job arrays of a real SLURM: the same hash and voxels as in one process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from slurm_jobs import left

import overseg
from overseg import jobarray
from overseg.measure import generate_tissue, simulate_splits

pytestmark = [pytest.mark.cluster, pytest.mark.slurm]

TASKS = 3


def submit(folder: Path, *words: object) -> str:
    """An array of tasks that each run a command; what it prints goes into the folder."""
    line = shlex.join([sys.executable, "-m", "overseg", *map(str, words)]) + " --task $SLURM_ARRAY_TASK_ID"
    options = ["--parsable", f"--array=0-{TASKS - 1}", "--mem=1G", "--output", str(folder / "%a.out")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sbatch", *options, "--wrap", line], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def texts(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.out")))


def test_an_array_of_slurm(batch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    tissue = generate_tissue((32, 128, 128), n_cells=150, seed=3)
    broken = simulate_splits(tissue, rate=0.5, seed=5)[0].astype(np.uint16)
    volume, place = tmp_path / "v.zarr", tmp_path / "p.overseg"
    zarr.create_array(str(volume), data=broken, chunks=(2, 32, 32))
    expected, plan = overseg.correct(broken)
    said = ("plan", volume, "--out", place, "--memory", "1GiB")
    jobarray.prepare_plan(volume, TASKS, out=place, memory="1GiB")
    submit(tmp_path, *said)
    assert left() == []
    assert texts(tmp_path).count("units of step 'scan'") == TASKS, texts(tmp_path)
    assert overseg.plan(volume, out=place, memory="1GiB", workers=1).hash == plan.hash
    jobarray.prepare_apply(place, TASKS)
    number = submit(tmp_path, "apply", place)
    subprocess.run(["scancel", f"{number}_1"], check=True)  # what it has not done is made up for
    assert left() == []
    assert "units of step 'write'" in texts(tmp_path)
    overseg.apply(place, finish=True, workers=1)
    np.testing.assert_array_equal(zarr.open_array(str(volume), mode="r")[:], expected)
    assert overseg.verify(place, workers=1).ok
