"""The second stage on a graphics card, against all of the same machine's processors."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed import tiles
from overseg.kernels.scan import scan_array
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.device import find_card
from overseg.pipeline.distances import REACH, Look, Way, looks, measured

_SIZE = (1.0, 1.0)


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Candidates per second by either, and how often the card's bounds are as narrow as is asked for."""
    card = find_card()["card"]
    if card is None:
        return {"device": None}
    tiling = tiles.prepare(scratch, tiles.OFTEN)
    path = tiling.folder / "often.npy"
    labels = np.load(path)
    tables = scan_array(labels, 2)
    candidates = find_candidates(*tables, 2)
    wanted = looks(candidates, tables[0], np.arange(len(candidates)), REACH)[: 64 if small else None]
    cores = os.cpu_count() or 1
    _one(labels, wanted[:4], "cuda")
    begin = time.perf_counter()
    found = _one(labels, wanted, "cuda")
    on_card = time.perf_counter() - begin
    parts = [wanted[i::cores] for i in range(cores)]
    with ProcessPoolExecutor(
        cores, mp_context=get_context("spawn"), initializer=_load, initargs=(path,)
    ) as pool:
        list(pool.map(_exact, [part[:1] for part in parts]))
        begin = time.perf_counter()
        exact = list(pool.map(_exact, parts))
        on_cores = time.perf_counter() - begin
    values = np.empty(found.shape[1:])
    for i, part in enumerate(exact):
        values[i::cores] = part
    inside = (found[1] <= values) & (values <= found[2])
    return {
        "device": card,
        "cores": cores,
        "candidates": len(wanted),
        "seconds": {"card": on_card, "cores": on_cores},
        "inside": float(inside.mean()),
        "width": float(np.median((found[2] - found[1])[:, 0] / np.maximum(values[:, 0], 1e-9))),
    }


_HELD: list[npt.NDArray[Any]] = []


def _load(path: Path) -> None:
    _HELD.append(np.load(path))


def _exact(wanted: list[Look]) -> Any:
    return _one(_HELD[0], wanted, "exact")[0]


def _one(labels: npt.NDArray[Any], wanted: list[Look], way: Way) -> Any:
    return measured(labels.__getitem__, wanted, "full", _SIZE, way)


def figures(data: dict[str, Any]) -> dict[str, float]:
    """How many times faster; none without a device."""
    if data["device"] is None:
        return {}
    return {"gpu": data["seconds"]["cores"] / data["seconds"]["card"]}


def table(data: dict[str, Any]) -> list[str]:
    """Both, or that it was not run."""
    if data["device"] is None:
        return [
            "Not run: this machine has no CUDA device. The same code is tested with torch on the CPU "
            "(`tests/test_kernels_brackets.py`, `tests/test_pipeline_score.py`)."
        ]
    n, seconds = data["candidates"], data["seconds"]
    return [
        "| where | candidates per second |",
        "|---|---|",
        f"| {data['device']}, brackets | {n / seconds['card']:,.0f} |",
        f"| {data['cores']} cores, exact | {n / seconds['cores']:,.0f} |",
        "",
        f"{n:,} candidates. {data['inside']:.2%} of the exact values lie within the card's bounds; width of "
        f"the bounds, median: {data['width']:.2%} of the distance.",
    ]
