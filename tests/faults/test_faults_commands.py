"""`correct` and `plan` killed at random moments and run again: the same hash, the same voxels."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from overseg.measure import generate_tissue, simulate_splits

pytestmark = [pytest.mark.fault, pytest.mark.cluster]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "overseg", *map(str, words), "--json"]


def run(*words: object) -> dict[str, object]:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def kill_after(seconds: float, *words: object) -> bool:
    """Start a command, kill its whole process group; whether it was still running."""
    process = subprocess.Popen(
        command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> tuple[Path, np.ndarray, str, np.ndarray, float]:
    """A broken volume, its plan hash and voxels after an undisturbed run, and how long that took."""
    folder = tmp_path_factory.mktemp("patient")
    tissue = generate_tissue((24, 96, 96), n_cells=120, seed=4)
    broken, _ = simulate_splits(tissue, rate=0.5, seed=4)
    array = zarr.create_array(str(folder / "v.zarr"), shape=broken.shape, chunks=(4, 16, 16), dtype="u4")
    array[:] = broken
    shutil.copytree(folder / "v.zarr", folder / "calm.zarr")
    start = time.monotonic()
    said = run("correct", folder / "calm.zarr", "--workers", 2, "--memory", "512MiB")
    spent = time.monotonic() - start
    assert int(str(said["merged"])) > 5
    return (
        folder,
        broken,
        str(said["plan_hash"]),
        zarr.open_array(str(folder / "calm.zarr"), mode="r")[:],
        spent,
    )


@pytest.mark.parametrize("seed", range(4))
def test_correct_killed_and_run_again(patient, tmp_path, seed):
    folder, broken, expected, corrected, spent = patient
    shutil.copytree(folder / "v.zarr", tmp_path / "v.zarr")
    words = ("correct", tmp_path / "v.zarr", "--workers", 2, "--memory", "512MiB")
    chance = random.Random(seed)
    struck = sum(kill_after(chance.uniform(0.3, 1.0) * spent, *words) for _ in range(2))
    said = run(*words)
    assert said["plan_hash"] == expected and 0 <= struck <= 2
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "v.zarr"), mode="r")[:], corrected)
    run("undo", tmp_path / "v.zarr")
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "v.zarr"), mode="r")[:], broken)


def test_correct_with_output_killed_and_run_again(patient, tmp_path):
    folder, broken, expected, corrected, spent = patient
    words = ("correct", folder / "v.zarr", "--output", tmp_path / "copy.zarr", "--workers", 2)
    chance = random.Random(11)
    # A run that ended before its kill has made the copy, and another one would be refused.
    if all(kill_after(chance.uniform(0.3, 0.9) * spent, *words) for _ in range(3)):
        assert run(*words)["plan_hash"] == expected
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "copy.zarr"), mode="r")[:], corrected)
    np.testing.assert_array_equal(zarr.open_array(str(folder / "v.zarr"), mode="r")[:], broken)


@pytest.mark.parametrize("seed", range(2))
def test_plan_killed_and_run_again(patient, tmp_path, seed):
    folder, broken, expected, _, spent = patient
    chance = random.Random(100 + seed)
    words = ("plan", folder / "v.zarr", "--out", tmp_path / "p.overseg", "--workers", 2, "--memory", "512MiB")
    for _ in range(2):
        kill_after(chance.uniform(0.3, 0.8) * spent, *words)
    assert run(*words)["plan_hash"] == expected
    np.testing.assert_array_equal(zarr.open_array(str(folder / "v.zarr"), mode="r")[:], broken)
