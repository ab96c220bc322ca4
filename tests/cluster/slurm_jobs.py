"""Units for jobs, in a module that workers find, and what the queue says."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any


def queue(*options: str) -> list[str]:
    """Lines of ``squeue``, of jobs of ours."""
    told = subprocess.run(["squeue", "-h", *options], capture_output=True, text=True, timeout=30, check=True)
    return told.stdout.split()


def left() -> list[str]:
    """Jobs that are still there after longer than the last of them looks for its driver."""
    for _ in range(900):
        if not queue("-o", "%i"):
            break
        time.sleep(0.1)
    return queue("-o", "%i")


def unit(x: int, seconds: float, folder: str) -> dict[str, Any]:
    """Leaves a line when it begins and one when it ends."""
    import dask

    with (Path(folder) / str(x)).open("a") as file:
        file.write("begun\n")
    time.sleep(seconds)
    with (Path(folder) / str(x)).open("a") as file:
        file.write("done\n")
    return {
        "square": x * x,
        "job": os.environ["SLURM_JOB_ID"],
        "card": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ["OMP_NUM_THREADS"],
        "pot": os.environ["POT_BACKEND_DISABLE_PYTORCH"],
        "pause": dask.config.get("distributed.worker.memory.pause"),
    }


def units(count: int, seconds: float, folder: Path) -> dict[str, tuple[int, float, str]]:
    return {str(x): (x, seconds, str(folder)) for x in range(count)}


def eats(x: int) -> dict[str, Any]:
    """Takes far more memory than a small job's worker has."""
    ballast = bytearray(500 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    time.sleep(60)
    return {"x": x + len(ballast)}
