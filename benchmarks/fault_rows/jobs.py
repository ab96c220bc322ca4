"""Jobs of a real SLURM (`deploy/slurm/test-cluster.sh`) that are cancelled, or run out of time."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import overseg
from benchmarks.fault_rows import Row, timed
from overseg.cluster import open_executor
from overseg.cluster.events import parse
from overseg.measure import generate_tissue, simulate_splits
from overseg.settings import build

_CLUSTER = {
    "kind": "slurm",
    "walltime": "00:30:00",
    "memory": "1GiB",
    "maximum_jobs": 2,
    "interface": "lo",
    "patience": "00:05:00",
}
_PROGRAM = """
import json, sys
from overseg.pipeline import fills, scantask, work
scantask._LEAST, scantask._SIDE, work._BATCH_UNITS = 1 << 14, 32, 6
fills._BATCH_WORK = 1 << 20
import overseg
print(overseg.correct(sys.argv[1], emd="all", cluster=json.loads(sys.argv[2])).hash)
"""
_UNITS = Path(__file__).resolve().parents[2] / "tests" / "cluster"


def rows(seed: int, seconds: float) -> list[dict[str, Any]]:
    """As many as the issue asks for, whatever the time."""
    found = [cancelled(seed, 14).plain(), out_of_time(6).plain()]
    for row in found:
        row["command"] = "deploy/slurm/test-cluster.sh run python -m benchmarks.faults jobs"
    return found


def lacking() -> str:
    """What is not here that the rows need."""
    return "" if shutil.which("squeue") else "no SLURM (`deploy/slurm/test-cluster.sh run`)"


def cancelled(seed: int, times: int) -> Row:
    """``scancel`` of a job under `correct`, at any moment after its workers came up."""
    chance = random.Random(seed)
    tissue = generate_tissue((40, 160, 160), n_cells=400, seed=4)
    broken = simulate_splits(tissue, rate=0.5, seed=4)[0].astype(np.uint32)
    after, plan = overseg.correct(broken, emd="all")
    with timed("`scancel` of worker jobs") as row, tempfile.TemporaryDirectory() as folder:
        while row.landed < times:
            row.times += 1
            volume = Path(folder) / f"v{row.times}.zarr"
            zarr.create_array(str(volume), data=broken, chunks=(4, 16, 16))
            words = [sys.executable, "-c", _PROGRAM, str(volume), json.dumps(_CLUSTER)]
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
            for step in chance.sample(["scan", "fill", "write"], min(2, times - row.landed)):
                row.landed += _cancel(run, volume.with_suffix(".overseg"), step)
            found = run.communicate(timeout=600)[0].strip()
            if run.returncode or found != plan.hash:
                raise AssertionError(f"exit {run.returncode}, {found}, expected {plan.hash}")
            np.testing.assert_array_equal(zarr.open_array(str(volume), mode="r")[:], after)
    row.result = f"same hash, same voxels, nobody helped ({row.times} runs)"
    return row


def out_of_time(times: int) -> Row:
    """Jobs of ten seconds under steps that take longer: each worker leaves before, and others come."""
    sys.path.insert(0, str(_UNITS))
    from slurm_jobs import unit, units

    jobs: set[str] = set()
    with timed("walltime expiry") as row, tempfile.TemporaryDirectory() as folder:
        while row.landed < times:
            place = Path(folder) / str(row.times)
            place.mkdir()
            _, run = build(cluster={**_CLUSTER, "walltime": "00:00:10"})
            with open_executor(run) as executor:
                found = dict(executor.run("step", unit, units(40, 0.8, place)))
            if {name: each["square"] for name, each in found.items()} != {str(x): x * x for x in range(40)}:
                raise AssertionError(str(found))
            if {path.read_text() for path in place.iterdir()} != {"begun\ndone\n"}:
                raise AssertionError("a unit was cut off, or ran twice")
            jobs = {each["job"] for each in found.values()}
            row.landed += max(0, len(jobs) - 2)  # those in whose place others came
            row.times += 1
    row.result = f"all units done, none cut off or twice, nobody helped ({row.times} runs)"
    return row


def _cancel(run: subprocess.Popen[str], place: Path, step: str) -> bool:
    """Cancel the job of a worker that has just done something in a step."""
    log = place / "run" / "events.jsonl"
    while run.poll() is None:
        events = parse(log.read_bytes()) if log.exists() else []
        if any(event["event"] == "done" and event["step"] == step for event in events):
            listed = subprocess.run(
                ["squeue", "-h", "-t", "RUNNING", "-o", "%i"], capture_output=True, text=True, check=True
            ).stdout.split()
            if listed:
                subprocess.run(["scancel", listed[-1]], check=True)
                return run.poll() is None
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    for one in (cancelled(2026, 14), out_of_time(6)):
        print(one.plain(), flush=True)
