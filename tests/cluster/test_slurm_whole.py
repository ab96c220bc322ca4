"""A volume corrected by jobs of a real SLURM: as in one process, whatever becomes of jobs and driver."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from slurm_jobs import left, queue

import overseg
from overseg.errors import InputError
from overseg.measure import generate_tissue
from overseg.measure.simulation import simulate_splits

pytestmark = [pytest.mark.cluster, pytest.mark.slurm]

Config = Callable[..., Path]


@pytest.fixture(scope="module")
def broken() -> np.ndarray:
    tissue = generate_tissue((32, 128, 128), n_cells=150, seed=3)
    return simulate_splits(tissue, rate=0.5, seed=5)[0].astype(np.uint16)


@pytest.fixture(scope="module")
def expected(broken: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, np.ndarray]:
    """Plan hash and corrected voxels in one process."""
    volume = store(tmp_path_factory.mktemp("inline") / "v.zarr", broken)
    plan = overseg.correct(volume, workers=1, voxel_size=(1, 1, 1))
    return plan.summary()["plan_hash"], zarr.open_array(volume)[:]


@pytest.fixture
def config(batch: Callable[..., dict[str, Any]], tmp_path: Path) -> Config:
    def write(**fields: Any) -> Path:
        cluster = "".join(f"{name} = {json.dumps(value)}\n" for name, value in batch(**fields).items())
        file = tmp_path / "run.toml"
        file.write_text(f"voxel_size = [1, 1, 1]\n[cluster]\n{cluster}")
        return file

    return write


def store(path: Path, array: np.ndarray) -> Path:
    zarr.create_array(path, data=array, chunks=(8, 32, 32))
    return path


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "overseg", *map(str, words), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def answer(command: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = command.communicate(timeout=240)
    assert command.returncode == 0, err
    said: dict[str, Any] = json.loads(out)
    return said


def test_plan_and_apply_by_the_config_file(
    broken: np.ndarray, expected: tuple[str, np.ndarray], config: Config, tmp_path: Path
) -> None:
    volume = store(tmp_path / "v.zarr", broken)
    file = config(cores=2, maximum_jobs=1, gpu_jobs=1)
    planned = answer(start("plan", volume, "--config", file))
    assert planned["plan_hash"] == expected[0]
    assert (zarr.open_array(volume)[:] == broken).all()
    answer(start("apply", planned["plan"], "--config", file))
    assert (zarr.open_array(volume)[:] == expected[1]).all()
    assert list((Path(planned["plan"]) / "run" / "jobs").glob("*.err"))


def test_the_driver_may_be_a_job_itself(
    broken: np.ndarray, expected: tuple[str, np.ndarray], config: Config, tmp_path: Path
) -> None:
    volume = store(tmp_path / "v.zarr", broken)
    command = shlex.join(
        [sys.executable, "-m", "overseg", "correct", str(volume), "--yes", "--config", str(config())]
    )
    out = tmp_path / "driver.out"
    subprocess.run(
        ["sbatch", "--mem=1G", "--cpus-per-task=2", f"--output={out}", f"--wrap={command}"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_for(lambda: len(queue("-o", "%i")) > 1)
    wait_for(lambda: not queue("-o", "%i"))
    assert (zarr.open_array(volume)[:] == expected[1]).all(), out.read_text()
    assert "the Dask scheduler runs here" not in out.read_text()  # no login node


def test_whatever_becomes_of_jobs_and_driver(
    broken: np.ndarray, expected: tuple[str, np.ndarray], config: Config, tmp_path: Path
) -> None:
    """The driver is killed, run again, and its jobs are cancelled."""
    volume = store(tmp_path / "v.zarr", broken)
    words = ("correct", volume, "--config", config(maximum_jobs=1), "--yes")
    first = start(*words)
    events = tmp_path / "v.overseg" / "run" / "events.jsonl"

    def done() -> int:
        return events.read_text().count('"event":"done"') if events.exists() else 0

    wait_for(lambda: done() > 0)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert left() == []
    before = done()
    second = start(*words)
    wait_for(lambda: done() > before)
    subprocess.run(["scancel", *queue("-o", "%i")], check=True)
    corrected = answer(second)
    assert len(list((events.parent / "jobs").glob("*.err"))) == 3
    assert corrected["plan_hash"] == expected[0]
    assert (zarr.open_array(volume)[:] == expected[1]).all()


def wait_for(there: Callable[[], bool]) -> None:
    for _ in range(600):
        if there():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to that within a minute")


def test_an_array_in_memory_is_refused(batch: Callable[..., dict[str, Any]], broken: np.ndarray) -> None:
    with pytest.raises(InputError, match="on this machine alone"):
        overseg.correct(broken, voxel_size=(1, 1, 1), cluster=batch())
