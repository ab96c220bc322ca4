"""The memory that each kind of task was predicted to take, and what it took, each in a fresh process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.speed import tiles
from benchmarks.speed.drive import MEMORY
from overseg.cluster import limits
from overseg.cluster.embedded import NOT_FOR_POT
from overseg.cluster.executor import Executor, Results, Unit, call
from overseg.pipeline import distances, fills, scantask, work

_MIB = 2**20


class Apart(Executor):
    """Runs every unit in a process of its own, one after the other, and notes what it took."""

    def __init__(self, memory: int) -> None:
        super().__init__(1, memory)
        self.noted: list[dict[str, Any]] = []

    def _each(self, step: str, fn: Unit, units: Mapping[str, tuple[Any, ...]]) -> Results:
        context = multiprocessing.get_context("spawn")
        for name, args in units.items():
            with ProcessPoolExecutor(1, mp_context=context, initializer=_load) as pool:
                receipt, taken = pool.submit(_measured, step, name, fn, args).result()
            self.noted.append({"step": step, "predicted": predicted(step, args), "taken": taken})
            yield name, receipt


def predicted(step: str, args: tuple[Any, ...]) -> int | None:
    """Bytes beyond what the process takes anyway, as the step that sends the task out works them out."""
    if step == "scan":
        return scantask.predicted_peak(args[1])
    if step == "distances":
        return distances.peak_bytes(args[0], args[1])
    if step == "fill":
        return fills.peak_bytes(args[0], args[1])
    if step in ("check", "write"):
        return work.peak_bytes(args[0].volume)
    return None


def _load() -> None:
    """What any worker has loaded after its first tasks."""
    os.environ.update(dict.fromkeys(NOT_FOR_POT, "1"))
    from overseg.warm import main

    main()


def _measured(step: str, name: str, fn: Unit, args: tuple[Any, ...]) -> tuple[dict[str, Any], int]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = limits.peak_rss()
    receipt = call(step, name, fn, args)
    return receipt, limits.peak_rss() - before


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Correct a volume, task by task."""
    from overseg.pipeline.apply import apply
    from overseg.pipeline.plan import make_plan
    from overseg.pipeline.planfile import write_plan
    from overseg.settings import RunSettings, Settings

    tiling = tiles.prepare(scratch, tiles.OFTEN)
    volume = tiles.write(scratch / "cells.zarr", (1, 1, 1) if small else (1, 2, 2), tiling)
    executor, place = Apart(MEMORY), scratch / "cells.overseg"
    write_plan(place, make_plan(volume, Settings(emd="all"), executor, place))
    apply(place, RunSettings(), executor)
    return {"tasks": executor.noted, "memory": MEMORY}


def figures(data: dict[str, Any]) -> dict[str, float]:
    """The aim for workers is looked at where volumes grow."""
    return {}


def table(data: dict[str, Any]) -> list[str]:
    """The largest task of each kind."""
    lines = [
        "| task | how many | predicted, MiB | measured, MiB | measured ÷ predicted |",
        "|---|---|---|---|---|",
    ]
    for step in dict.fromkeys(task["step"] for task in data["tasks"]):
        some = [task for task in data["tasks"] if task["step"] == step]
        taken = max(task["taken"] for task in some)
        line = f"| {step} | {len(some)} "
        if some[0]["predicted"] is None:
            lines.append(line + f"| – | {taken / _MIB:,.0f} | – |")
            continue
        most = max(task["predicted"] for task in some)
        worst = max(task["taken"] / task["predicted"] for task in some)
        lines.append(line + f"| {most / _MIB:,.0f} | {taken / _MIB:,.0f} | {worst:.2f} |")
    return [
        *lines,
        "",
        "Bytes beyond those of a process that has loaded all code; workers of "
        f"{data['memory'] / 2**30:.0f} GiB; the largest of each kind.",
    ]
