"""What a second worker brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed import tiles, watch
from benchmarks.speed.timing import spread


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """The same volume with one worker and with two, in turns."""
    size, grid = ("1/8 GiB", tiles.SMALL["1/8 GiB"]) if small else ("4 GiB", tiles.SIZES["4 GiB"])
    tiling = tiles.prepare(scratch, tiles.OFTEN)
    source, path = scratch / "source.zarr", scratch / "cells.zarr"
    tiles.write(source, grid, tiling)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(1 if small else 2):
        for workers, done in runs.items():
            tiles.linked(source, path, grid)
            done.append(watch.run("correct", path, workers))
            watch.cleared(path)
    rows = [
        {
            "workers": workers,
            "seconds": spread([each["seconds"] for each in done]),
            "cpu": spread([each["cpu"] for each in done]),
            "steps": {name: spread([each["steps"][name] for each in done]) for name in done[0]["steps"]},
        }
        for workers, done in runs.items()
    ]
    return {"size": size, "rows": rows}


def figures(data: dict[str, Any]) -> dict[str, float]:
    """There is no aim for this one."""
    return {}


def table(data: dict[str, Any]) -> list[str]:
    """One line per number of workers."""
    steps = list(data["rows"][0]["steps"])
    alone = data["rows"][0]["seconds"]["median"]
    lines = [
        f"| workers | seconds (range) | speed-up | CPU seconds | {', s | '.join(steps)}, s |",
        "|---" * (4 + len(steps)) + "|",
    ]
    for row in data["rows"]:
        seconds = row["seconds"]
        parts = " | ".join(f"{row['steps'][name]['median']:.2f}" for name in steps)
        lines.append(
            f"| {row['workers']} | {seconds['median']:.1f} ({seconds['min']:.1f}–{seconds['max']:.1f}) | "
            f"{alone / seconds['median']:.2f}× | {row['cpu']['median']:.1f} | {parts} |"
        )
    return [
        *lines,
        "",
        f"`correct` of {data['size']}, one split per {tiles.OFTEN} cells. Seconds are without start-up, CPU "
        "seconds with it. One worker runs in the driver's own process.",
    ]
