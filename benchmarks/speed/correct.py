"""`correct` from end to end against reading and decoding the same volume, both with two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed import tiles, watch
from benchmarks.speed.timing import spread

WORKERS = 2
_TURNS = {"1 GiB": 3, "4 GiB": 2, "16 GiB": 1}


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Every size at both rates of splits, decoding and correcting in turns."""
    turns = dict.fromkeys(tiles.SMALL, 1) if small else _TURNS
    grids = {**tiles.SIZES, **tiles.SMALL}
    rows = []
    for one_per in (tiles.OFTEN, tiles.SELDOM):
        folder = scratch / str(one_per)
        folder.mkdir()
        tiling = tiles.prepare(folder, one_per)
        source = folder / "source.zarr"
        tiles.write(source, grids[list(turns)[-1]], tiling)
        for size, repeats in turns.items():
            rows.append({"size": size, "one_per": one_per})
            rows[-1] |= _one(source, folder / "cells.zarr", grids[size], tiling, repeats)
    return {"rows": rows, "workers": WORKERS}


def _one(source: Path, path: Path, grid: tiles.Grid, tiling: tiles.Tiling, repeats: int) -> dict[str, Any]:
    tiles.linked(source, path, grid)
    decoded, corrected = [], []
    for _ in range(repeats):
        decoded.append(watch.run("decode", path, WORKERS))
        corrected.append(watch.run("correct", path, WORKERS))
        found = tiles.outcome(path.with_suffix(".overseg"), grid, tiling)
        watch.cleared(path)
        tiles.linked(source, path, grid)
    watch.cleared(path)
    last = corrected[-1]
    return {
        "bytes": grid[0] * grid[1] * grid[2] * tiles.TILE_BYTES,
        "decode": spread([each["seconds"] for each in decoded]),
        "correct": spread([each["seconds"] for each in corrected]),
        "steps": {
            name: spread([each["steps"].get(name, 0.0) for each in corrected]) for name in last["steps"]
        },
        "counts": last["counts"],
        "rewritten": last["rewritten"],
        "outcome": found,
    }


def ratio(row: dict[str, Any]) -> float:
    """Correct over decode, both after their workers have started."""
    return float(row["correct"]["median"] / row["decode"]["median"])


def figures(data: dict[str, Any]) -> dict[str, float]:
    """Ratios at 16 GiB, and seconds at 1 GiB."""
    found = {}
    for row in data["rows"]:
        if row["size"] == "16 GiB":
            found[f"correct {row['one_per']}"] = ratio(row)
        if row["size"] == "1 GiB" and row["one_per"] == tiles.OFTEN:
            found["correct 1"] = row["correct"]["median"]
    return found


def _rest(row: dict[str, Any]) -> float:
    return float(row["correct"]["median"] - sum(step["median"] for step in row["steps"].values()))


def table(data: dict[str, Any]) -> list[str]:
    """One line per size and rate."""
    steps = list(dict.fromkeys(name for row in data["rows"] for name in row["steps"]))
    lines = [
        f"| size | one split per | decode, s | correct, s (range) | ÷ decode | {' | '.join(steps)} | rest | "
        "units rewritten | splits joined | other cells merged |",
        "|---" * (9 + len(steps)) + "|",
    ]
    for row in data["rows"]:
        correct, found = row["correct"], row["outcome"]
        parts = " | ".join(f"{row['steps'].get(name, {'median': 0})['median']:.2f}" for name in steps)
        lines.append(
            f"| {row['size']} | {row['one_per']:,} | {row['decode']['median']:.2f} | "
            f"{correct['median']:.2f} ({correct['min']:.2f}–{correct['max']:.2f}) | {ratio(row):.1f} | "
            f"{parts} | {_rest(row):.2f} | {row['rewritten']} of {row['counts']['units_total']} | "
            f"{found['joined']} of {found['splits']} | {found['merges'] - found['same']} |"
        )
    return [
        *lines,
        "",
        f"Seconds on the wall with {data['workers']} workers of 1 GiB each, after they have started, for "
        "`correct` and for zarr's own reading and decoding of all chunks. A step's seconds hold the decoding "
        "that it does.",
    ]
