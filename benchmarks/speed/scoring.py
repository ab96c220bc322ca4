"""All candidates scored, against the plain loop of POT over the layers of all candidates, on one core."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import reference
from benchmarks.speed import tiles, watch
from benchmarks.speed.timing import spread

_PAIRS = 3  # layer pairs timed of each part of a candidate, of all that the loop would do
Layers = dict[int, npt.NDArray[np.bool_]]


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Plan with one process, then time the plain loop on a sample of the same candidates."""
    import pyarrow.parquet as pq

    from overseg.model.features import FULL

    grid = (1, 1, 1) if small else tiles.SIZES["1 GiB"]
    tiling = tiles.prepare(scratch, tiles.OFTEN)
    source, path = scratch / "source.zarr", scratch / "cells.zarr"
    tiles.write(source, grid, tiling)
    runs = []
    for _ in range(1 if small else 3):
        tiles.linked(source, path, grid)
        runs.append(watch.run("plan", path, 1))
        table = pq.read_table(path.with_suffix(".overseg") / "plan" / "candidates.parquet")
        watch.cleared(path)
    rows = table.to_pylist()
    looked = int(np.isfinite(np.array([row[FULL[-1]] for row in rows], float)).sum())
    first = [row for row in rows if max(row["a"], row["b"]) < tiling.stride]
    labels = np.load(scratch / "often.npy")
    sample = first[:: max(1, len(first) // (3 if small else 20))]
    each = [_loop(labels, row) for row in sample]
    return {
        "candidates": len(rows),
        "looked": looked,
        "stages": runs[-1]["counts"]["decided_by_stage"],
        "score": spread([run["steps"]["score"] for run in runs]),
        "sampled": len(sample),
        "pairs": spread([pairs for pairs, _ in each]),
        "loop": spread([seconds for _, seconds in each]),
    }


def _loop(labels: npt.NDArray[Any], row: dict[str, Any]) -> tuple[int, float]:
    """How many distances the published features need for one candidate, and the seconds they would take.

    Exact W1 between consecutive layers of both cells and through the gap. Of each cell a few pairs, evenly
    spaced, are timed, and stand for the others.
    """
    a, b = (_layers(labels, row[name]) for name in ("a", "b"))
    gap = row["z"], row["z"] + row["gap"] + 1
    count, seconds = 1, _seconds([(a[gap[0]], b[gap[1]])])
    for part in (a, b) if row["a"] != row["b"] else (a,):
        pairs = [(part[z], part[z + 1]) for z in sorted(part) if z + 1 in part]
        timed = pairs[:: max(1, len(pairs) // _PAIRS)]
        if timed:
            seconds += _seconds(timed) * len(pairs) / len(timed)
        count += len(pairs)
    return count, seconds


def _layers(labels: npt.NDArray[Any], label: int) -> Layers:
    """The label's masks by layer, in the box around it."""
    where = np.nonzero(labels == label)
    corner, end = [int(axis.min()) for axis in where], [int(axis.max()) + 1 for axis in where]
    full = [
        slice(0, n) if axis else slice(*ends)
        for axis, (n, ends) in enumerate(zip(labels.shape, zip(corner, end, strict=True), strict=True))
    ]
    return {corner[0] + i: layer for i, layer in enumerate(labels[tuple(full)] == label) if layer.any()}


def _seconds(pairs: list[tuple[Any, Any]]) -> float:
    begin = time.process_time()
    for one, two in pairs:
        reference.transported(np.argwhere(one), np.argwhere(two))
    return time.process_time() - begin


def times(data: dict[str, Any]) -> float:
    """By how much scoring all candidates is faster than the loop over all."""
    whole = sum(data["loop"]["seconds"]) / data["sampled"] * data["candidates"]
    return float(whole / data["score"]["median"])


def figures(data: dict[str, Any]) -> dict[str, float]:
    """The speed."""
    return {"score": times(data)}


def table(data: dict[str, Any]) -> list[str]:
    """Both ways, and the stages."""
    score, loop, n = data["score"], data["loop"], data["candidates"]
    mean = sum(loop["seconds"]) / data["sampled"]
    pairs = sum(data["pairs"]["seconds"]) / data["sampled"]
    return [
        "| way | seconds for all candidates (range) | ÷ loop |",
        "|---|---|---|",
        f"| POT loop, extrapolated from {data['sampled']} candidates | {mean * n:,.0f} | 1 |",
        f"| overseg | {score['median']:.2f} ({score['min']:.2f}–{score['max']:.2f}) | {times(data):,.0f}× |",
        "",
        "| decided by | candidates | share |",
        "|---|---|---|",
        *(f"| {name} | {count:,} | {count / n:.1%} |" for name, count in sorted(data["stages"].items())),
        f"| (voxels were read for) | {data['looked']:,} | {data['looked'] / n:.1%} |",
        "",
        f"{n:,} candidates. The loop computes what the published features need: exact distances between "
        f"consecutive layers of both cells and through the gap, {pairs:.0f} for a candidate on average, of "
        f"which {2 * _PAIRS + 1} or so were timed. One process each.",
    ]
