"""Earth mover's distances against the plain loop of POT, on layers of real cells, on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import reference
from benchmarks.speed.masks import pairs
from benchmarks.speed.timing import spread
from overseg.kernels.transport import Points, emd_between, emd_points

#: Errors are relative to the distance, or to this many pixels where the distance is smaller.
NEAR_ZERO = 0.5


#: The ways to compute a distance between two sets of voxels, in pixels.
WAYS: dict[str, Callable[[Points, Points], float]] = {
    "POT": reference.transported,
    "exact": lambda one, two: emd_points(one, two),
    "fast": lambda one, two: emd_points(one, two, fast=True),
    "fast, with bounds": lambda one, two: emd_between(one, two)[0],
}


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Seconds over all pairs by each way, ways in turns, and the largest errors."""
    chosen = pairs(4 if small else 102)
    points = [pair.points for pair in chosen]
    for way in WAYS.values():
        way(*points[0])
    repeats = 1 if small else 3
    seconds = {name: np.zeros((repeats, len(chosen))) for name in WAYS}
    values = {name: np.zeros(len(chosen)) for name in WAYS}
    for turn in range(repeats):
        for name, way in WAYS.items():
            for i, pair in enumerate(points):
                begin = time.process_time()
                values[name][i] = way(*pair)
                seconds[name][turn, i] = time.process_time() - begin
    return {
        "pairs": len(chosen),
        "volumes": sorted({pair.volume for pair in chosen}),
        "voxels": sorted(round(math.sqrt(pair.one.sum() * pair.two.sum())) for pair in chosen),
        "seconds": {name: spread(each.sum(axis=1).tolist()) for name, each in seconds.items()},
        "times": {name: _times(seconds["POT"], each) for name, each in seconds.items() if name != "POT"},
        "error": {name: _error(values["POT"], each) for name, each in values.items() if name != "POT"},
    }


def _times(plain: Any, own: Any) -> dict[str, float]:
    """By how much faster single pairs are."""
    each = np.sort(plain.sum(axis=0) / np.maximum(own.sum(axis=0), 1e-9))
    return {"median": float(np.median(each)), "worst tenth": float(each[len(each) // 10])}


def _error(true: Any, found: Any) -> dict[str, float]:
    absolute = np.abs(found - true)
    relative = np.sort(absolute / np.maximum(true, NEAR_ZERO))
    return {
        "absolute": float(absolute.max()),
        "worst": float(relative[-1]),
        "p99": float(np.quantile(relative, 0.99)),
    }


def faster(data: dict[str, Any], way: str) -> float:
    """By how much all pairs together are faster than the plain loop."""
    return float(data["seconds"]["POT"]["median"] / data["seconds"][way]["median"])


def figures(data: dict[str, Any]) -> dict[str, float]:
    """Speed, where the answer is right."""
    found = {}
    if data["error"]["exact"]["absolute"] <= 1e-9:
        found["emd exact"] = faster(data, "exact")
    if data["error"]["fast"]["p99"] <= 0.01:
        found["emd fast"] = faster(data, "fast")
    return found


def table(data: dict[str, Any]) -> list[str]:
    """One line per way."""
    lines = [
        "| way | seconds, all pairs (range) | ÷ POT, all | single pairs: median, worst tenth | "
        "error: largest, px | worst, relative | 99th percentile |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, seconds in data["seconds"].items():
        line = f"| {way} | {seconds['median']:.3f} ({seconds['min']:.3f}–{seconds['max']:.3f}) "
        if way == "POT":
            lines.append(line + "| 1 | | | | |")
            continue
        times, error = data["times"][way], data["error"][way]
        lines.append(
            line + f"| {faster(data, way):,.0f}× | {times['median']:,.0f}×, {times['worst tenth']:,.0f}× | "
            f"{error['absolute']:.1e} | {error['worst']:.2%} | {error['p99']:.2%} |"
        )
    masks = data["voxels"]
    return [
        *lines,
        "",
        f"{data['pairs']} pairs of masks of {masks[0]} to {masks[-1]} voxels (median "
        f"{masks[len(masks) // 2]}), 1 to 3 layers apart, from {', '.join(data['volumes'])}. Errors are "
        f"relative to the distance, or to {NEAR_ZERO} px where it is smaller.",
    ]
