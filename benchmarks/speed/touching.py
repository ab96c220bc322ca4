"""Labels that touch: candidates per second, and `correct --kind both` against reading and decoding."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import tiles, watch
from benchmarks.speed.timing import spread
from overseg.measure.examples import Triple
from overseg.measure.joining import Contacts, across_of, cut_and_look, touching_of
from overseg.measure.tissue import generate_tissue

WORKERS = 2
_SIZE: Triple = (1.0, 1.0, 1.0)


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Both stages on one core, and the whole way with two workers."""
    labels = generate_tissue((64, 128, 128) if small else (128, 192, 192), 200 if small else 900, 3, "packed")
    case = cut_and_look(labels, _SIZE, 1)
    everyone = np.arange(len(case.pairs))
    few = everyone[:: max(1, len(everyone) // 200)]
    tables, closer = _per_second(case, everyone, touching_of), _per_second(case, few, across_of)
    size = list(tiles.SMALL)[-1] if small else "1 GiB"
    grid = {**tiles.SIZES, **tiles.SMALL}[size]
    tiling = tiles.prepare(scratch, tiles.OFTEN)
    source, path = scratch / "source.zarr", scratch / "cells.zarr"
    tiles.write(source, grid, tiling)
    runs: dict[str, list[dict[str, Any]]] = {"decode": [], "correct": [], "both": []}
    for _ in range(1 if small else 3):
        for action, said in runs.items():
            tiles.linked(source, path, grid)
            said.append(watch.run(action, path, WORKERS))
            watch.cleared(path)
    last = runs["both"][-1]
    return {
        "candidates": len(case.pairs),
        "tables_per_second": tables,
        "closer_per_second": closer,
        "size": size,
        "workers": WORKERS,
        "seconds": {action: spread([each["seconds"] for each in said]) for action, said in runs.items()},
        "steps": last["steps"],
        "counts": last["counts"],
        "peak": last["peak"],
    }


def _per_second(case: Contacts, rows: Any, measured: Any) -> float:
    """Pairs per second on one core, by the best of three."""
    spans = []
    for _ in range(3):
        begin = time.perf_counter()
        measured(case, rows)
        spans.append(time.perf_counter() - begin)
    return float(len(rows) / min(spans))


def ratio(data: dict[str, Any]) -> float:
    """`correct --kind both` over decode, both after their workers have started."""
    return float(data["seconds"]["both"]["median"] / data["seconds"]["decode"]["median"])


def figures(data: dict[str, Any]) -> dict[str, float]:
    """None that has an aim."""
    del data
    return {}


def table(data: dict[str, Any]) -> list[str]:
    """One line for each figure."""
    seconds, stages = data["seconds"], data["counts"]["decided_by_stage"]
    asked = stages.get("across", 0) / max(1, stages.get("across", 0) + stages.get("contacts", 0))
    return [
        "| what | |",
        "|---|---|",
        f"| candidates per second and core, from the contact graph | {data['tables_per_second']:,.0f} |",
        f"| candidates per second and core, re-sliced as well | {data['closer_per_second']:,.0f} |",
        f"| candidates that needed voxels, {data['size']} of tiled meristem | {asked:.1%} |",
        f"| decode, {data['size']} | {seconds['decode']['median']:.2f} s |",
        f"| `correct` (gaps) | {seconds['correct']['median']:.2f} s |",
        f"| `correct --kind both` | {seconds['both']['median']:.2f} s |",
        f"| `correct --kind both` ÷ (read + decode) | {ratio(data):.1f} |",
        f"| largest worker | {data['peak']['worker'] / 2**20:,.0f} MiB |",
    ]
