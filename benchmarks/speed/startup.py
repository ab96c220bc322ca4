"""How long it takes until something happens."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.timing import interleaved


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Bare Python, help, and a tiny volume; seconds on the wall, and of the processor."""
    from overseg.volume import create_labels

    labels = np.zeros((12, 24, 24), np.uint32)
    labels[:5, 4:16, 4:16] = 1
    labels[6:, 5:17, 4:16] = 2
    number = count()

    def correct() -> None:
        volume = create_labels(scratch / f"tiny{next(number)}.zarr", labels.shape, labels.dtype, (12, 24, 24))
        volume.write_unit(0, labels)
        _run("-m", "overseg", "correct", volume.location, "--yes", "--voxel-size", "1", "1", "1")

    quick = {"python": lambda: _run("-c", "pass"), "help": lambda: _run("-m", "overseg", "--help")}
    turns = 3 if small else 10
    return {
        name: interleaved(quick, turns, clock) | interleaved({"correct": correct}, 2, clock)
        for name, clock in (("wall", time.perf_counter), ("cpu", _children))
    }


def _run(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def figures(data: dict[str, Any]) -> dict[str, float]:
    """Seconds until help is there."""
    return {"help": data["wall"]["help"]["median"]}


def table(data: dict[str, Any]) -> list[str]:
    """Three commands."""
    names = {
        "python": "`python -c pass`",
        "help": "`overseg --help`",
        "correct": "`overseg correct`, 7 thousand voxels",
    }
    lines = ["| command | seconds (range) | ÷ bare Python | CPU seconds |", "|---|---|---|---|"]
    bare = data["wall"]["python"]["median"]
    for key, name in names.items():
        wall = data["wall"][key]
        lines.append(
            f"| {name} | {wall['median']:.3f} ({wall['min']:.3f}–{wall['max']:.3f}) | "
            f"{wall['median'] / bare:.1f} | {data['cpu'][key]['median']:.3f} |"
        )
    return lines
