"""What grows with the volume, and what does not: the same tissue from 1 to 128 GiB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed import tiles, watch

WORKERS = 2


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Correct each size once, the smallest again at the end; one tile alone says what must be found."""
    grids = tiles.SMALL if small else tiles.SIZES
    tiling = tiles.prepare(scratch, tiles.OFTEN)
    source, path = scratch / "source.zarr", scratch / "cells.zarr"
    tiles.write(source, list(grids.values())[-1], tiling)
    alone = _one(source, path, (1, 1, 1), tiling)
    sizes = [*grids, next(iter(grids))]
    rows = [{"size": size} | _one(source, path, grids[size], tiling) for size in sizes]
    return {"rows": rows, "alone": alone["outcome"], "workers": WORKERS, "cells_per_tile": tiling.cells}


def _one(source: Path, path: Path, grid: tiles.Grid, tiling: tiles.Tiling) -> dict[str, Any]:
    tiles.linked(source, path, grid)
    said = watch.run("correct", path, WORKERS)
    found = tiles.outcome(path.with_suffix(".overseg"), grid, tiling)
    watch.cleared(path)
    count = grid[0] * grid[1] * grid[2]
    return {**said, "outcome": found, "tiles": count, "logical": count * tiles.TILE_BYTES}


def speed(row: dict[str, Any]) -> float:
    """Logical MB/s, after start-up."""
    return float(row["logical"] / row["seconds"] / 1e6)


def smallest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The faster of the two runs of the smallest volume."""
    return max((row for row in rows if row["size"] == rows[0]["size"]), key=speed)


def figures(data: dict[str, Any]) -> dict[str, float]:
    """The largest volume against the smallest."""
    rows = data["rows"]
    large, little = max(rows, key=lambda row: row["tiles"]), smallest(rows)
    found = {"peak worker": max(row["peak"]["worker"] for row in rows) / 2**20}
    if large["size"] == "128 GiB":
        found["MB/s"] = speed(large) / speed(little)
        found["scheduler"] = large["peak"]["driver"] / little["peak"]["driver"]
    return found


def table(data: dict[str, Any]) -> list[str]:
    """One line per size, and what became of the splits."""
    lines = [
        "| size | cells | seconds | MB/s | worker peak, MiB | driver + scheduler peak, MiB | tasks | "
        "partitions | scan tables, MB | journal, MB | units rewritten | merges ÷ (tile alone × tiles) | "
        "splits joined | other cells merged |",
        "|---" * 14 + "|",
    ]
    for row in data["rows"]:
        found, expected = row["outcome"], data["alone"]["merges"] * row["tiles"]
        lines.append(
            f"| {row['size']} | {row['counts']['cells']:,} | {row['seconds']:.1f} | {speed(row):,.0f} | "
            f"{row['peak']['worker'] / 2**20:,.0f} | {row['peak']['driver'] / 2**20:,.0f} | "
            f"{sum(row['tasks'].values()):,} | {row['tasks'].get('reconcile', 1)} | "
            f"{row['bytes']['run/scan'] / 1e6:,.1f} | "
            f"{row['bytes']['run/journal'] / 1e6:,.1f} | "
            f"{row['rewritten']:,} of {row['counts']['units_total']:,} | "
            f"{found['merges']:,} ÷ {expected:,} | {found['joined']:,} of {found['splits']:,} | "
            f"{found['merges'] - found['same']:,} |"
        )
    steps = list(dict.fromkeys(name for row in data["rows"] for name in row["steps"]))
    lines += ["", f"| size | {' | '.join(f'{name}, s' for name in steps)} | rest |"]
    lines += ["|---" * (len(steps) + 2) + "|"]
    for row in data["rows"]:
        parts = " | ".join(f"{row['steps'].get(name, 0):.2f}" for name in steps)
        lines.append(f"| {row['size']} | {parts} | {row['seconds'] - sum(row['steps'].values()):.2f} |")
    return [
        *lines,
        "",
        f"`correct` with {data['workers']} workers of 1 GiB, one split per {tiles.OFTEN} cells. Peaks are "
        "the kernel's (VmHWM) of any single process. At the seams of tiles cells are cut, so the merges of a "
        "whole volume need not be those of its tiles to the last one.",
    ]
