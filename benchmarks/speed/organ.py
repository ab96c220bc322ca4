"""On paper: what an organ of 10^13 voxels and 10^8 cells costs on 100 workers, from the growth measured."""

from __future__ import annotations

from typing import Any

VOXELS, CELLS, WORKERS = 1e13, 1e8, 100
#: Memory of a node that a driver may run on, in bytes.
DRIVER = 64 * 2**30

#: A step's tasks, by the names that the executor knows; a step without any runs in the driver.
_TASKS = {
    "scan": ("scan", "seam"),
    "reconcile": ("reconcile", "candidates"),
    "score": ("score", "distances"),
    "fill": ("fill",),
    "apply": ("stamps", "check", "write"),
}
#: Steps that read or write all voxels; the others go with the cells.
_BY_VOXELS = ("scan", "apply")

#: The change that would move each step, should it be the first to break.
CHANGES = {
    "scan": "decoding: a compiled codec pipeline, or chunks that decode faster",
    "reconcile": "more partitions of the labels, each reconciled on a worker",
    "score": "more partitions, or GPU workers for the second stage",
    "decide": "matching within partitions, so that only accepted merges meet in one place",
    "fill": "settling of claims by place, on workers",
    "plan": "merges, fills and unit digests written by the workers, one file each",
    "apply": "fewer units rewritten: smaller chunks in shards do not help, smaller shards do",
    "driver's memory": "tables that stay with the workers: the driver keeps paths and accepted merges",
}


def cost(data: dict[str, Any]) -> dict[str, Any]:
    """Scale the largest volume of the growth benchmark up.

    Seconds go with voxels (scan, apply) or cells (all others), divided among the workers where the step runs
    in tasks, and not where it runs in the driver. Rows of the scan go with the layers of cells, so with cells
    times the cube root of a cell's voxels; the journal with their surface, so with cells times the square of
    it. The driver's memory goes in a straight line with the cells, through the smallest and largest volume.
    """
    rows = data["rows"]
    large, small = max(rows, key=lambda row: row["tiles"]), min(rows, key=lambda row: row["tiles"])
    cells = large["counts"]["cells"]
    by_voxels, by_cells = VOXELS / (large["logical"] / 4), CELLS / cells
    side = (by_voxels / by_cells) ** (1 / 3)  # how much longer than here a cell is
    steps, tasks = {}, 0.0
    for step, seconds in large["steps"].items():
        scale = by_voxels if step in _BY_VOXELS else by_cells
        own = sum(large["tasks"].get(name, 0) for name in _TASKS.get(step, ()))
        share = data["workers"] / WORKERS if own else 1.0
        steps[step] = {"seconds": seconds * scale * share, "where": "workers" if own else "driver"}
        tasks += own * scale
    slope = (large["peak"]["driver"] - small["peak"]["driver"]) / max(1, cells - small["counts"]["cells"])
    return {
        "measured": large["size"],
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps.values()),
        "tasks": tasks,
        "rows": large["rows"] * by_cells * side,
        "tables": large["bytes"]["run/scan"] * by_cells * side,
        "plan": large["bytes"]["plan"] * by_cells,
        "journal": large["bytes"]["run/journal"] * by_cells * side**2,
        "driver": large["peak"]["driver"] + max(0.0, slope) * (CELLS - cells),
    }


def first_to_break(found: dict[str, Any]) -> str:
    """The driver's memory, if a node has less; else the longest step."""
    if found["driver"] > DRIVER:
        return "driver's memory"
    steps = found["steps"]
    return max(steps, key=lambda name: (steps[name]["seconds"], name))


def table(data: dict[str, Any]) -> list[str]:
    """What it would cost, and what would break first."""
    found = cost(data)
    lines = [
        f"From the {found['measured']} volume, {data['workers']} workers, of this machine.",
        "",
        "| | |",
        "|---|---|",
        *(
            f"| {name}, on the {step['where']} | {_time(step['seconds'])} |"
            for name, step in found["steps"].items()
        ),
        f"| **all steps** | **{_time(found['seconds'])}** |",
        f"| tasks | {found['tasks']:,.0f} |",
        f"| rows of layers moved between scan and reconcile | {found['rows']:,.0f} |",
        f"| scan tables | {found['tables'] / 1e9:,.0f} GB |",
        f"| plan | {found['plan'] / 1e9:,.1f} GB |",
        f"| journal | {found['journal'] / 1e9:,.1f} GB |",
        f"| driver's memory | {found['driver'] / 2**30:,.1f} GiB |",
    ]
    first = first_to_break(found)
    return [
        *lines,
        "",
        f"First to break: **{first}**. What would move it: {CHANGES.get(first, 'not known')}.",
    ]


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"
