"""Join scan tasks that lie one above the other or side by side, from what both kept along their border."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import ScanTables
from overseg.kernels.scan import Scanner, scan_seam
from overseg.kernels.touch import TouchScanner
from overseg.pipeline.edges import FACING, edge_path, read_edge, tables_of
from overseg.pipeline.scantables import write_scan
from overseg.pipeline.scantask import Range, ScanTask


@dataclass(frozen=True)
class SeamTask:
    """Two tasks, one above, before or left of the other.

    Attributes
    ----------
    name : str
        Names the seam's receipt and file.
    upper, lower : str
        Names of the two tasks.
    origin : tuple of int
        Voxel (z, y, x) where the lower one starts.
    time_points : range
        Time points of both.
    max_gap, background, partitions, contacts
        As in `ScanTask`.
    axis : int
        Which of (z, y, x) the seam is normal to; all but z join contacts alone.
    facing : tuple of tuple of int
        Which layers face each other, half-open: of those that the upper kept, and of those of the lower.
    """

    name: str
    upper: str
    lower: str
    origin: tuple[int, int, int]
    time_points: range
    max_gap: int
    background: tuple[int, ...]
    partitions: int
    contacts: bool
    axis: int
    facing: tuple[Range, Range]


def plan_seams(tasks: Sequence[ScanTask]) -> list[SeamTask]:
    """The seams between tasks that lie one above the other, and side by side where contacts are counted.

    Side by side a task may face several, of which each has some of its layers: a task that took too much
    memory is halved, and its neighbours are not.
    """
    before: defaultdict[tuple[Any, ...], list[ScanTask]] = defaultdict(list)
    for task in tasks:
        for axis in range(3):
            before[task.times, axis, *_border(task, axis, 1)].append(task)
    return [
        _seam(axis, upper, lower)
        for lower in tasks
        for axis in range(3 if lower.contacts else 1)
        for upper in before.get((lower.times, axis, *_border(lower, axis, 0)), ())
        if axis == 0 or (upper.z[0] < lower.z[1] and lower.z[0] < upper.z[1])
    ]


def _border(task: ScanTask, axis: int, end: int) -> list[Range | int]:
    """Where one end of a task along an axis lies: the same for what lies on the other side, in any layers."""
    spans: list[Range | int] = [task.z, task.y, task.x]
    spans[axis] = (task.z, task.y, task.x)[axis][end]
    return spans[1:] if axis else spans


def _seam(axis: int, upper: ScanTask, lower: ScanTask) -> SeamTask:
    name, z = f"seam{('', '-y', '-x')[axis]}-{lower.name}", lower.box[0][0]
    facing = (0, lower.max_gap + 1), (0, lower.max_gap + 1)
    if axis:
        ours, theirs = lower.box[0], upper.box[0]
        z, after = max(ours[0], theirs[0]), min(ours[1], theirs[1])
        facing = (z - theirs[0], after - theirs[0]), (z - ours[0], after - ours[0])
        if ours != theirs:
            name += f"-{upper.name.rpartition('-')[2]}"
    return SeamTask(
        name=name,
        upper=upper.name,
        lower=lower.name,
        origin=(z, lower.box[1][0], lower.box[2][0]),
        time_points=lower.time_points,
        max_gap=lower.max_gap,
        background=lower.background,
        partitions=lower.partitions,
        contacts=lower.contacts,
        axis=axis,
        facing=facing,
    )


def seam_task(task: SeamTask, out_dir: str) -> dict[str, Any]:
    """Join two tasks that lie side by side, from the layers or planes that both kept.

    Parameters
    ----------
    task : SeamTask
        Which two.
    out_dir : str
        Folder of the scan's files.

    Returns
    -------
    dict
        The receipt: ``path, bytes``.

    Raises
    ------
    PlanError
        If what a task kept is missing or damaged.
    """
    begin = time.perf_counter()
    folder = Path(out_dir)
    upper, lower = (
        read_edge(edge_path(folder, name, which))
        for name, which in zip((task.upper, task.lower), FACING[task.axis], strict=True)
    )
    joined = (_joint(task, *both) for both in zip(upper, lower, strict=True))
    path = folder / f"{task.name}.tables"
    tables = dict(zip(task.time_points, joined, strict=True))
    size = write_scan(path, tables, task.max_gap + 1, task.partitions)
    return {"path": path.name, "bytes": size, "seconds": time.perf_counter() - begin}


def _joint(task: SeamTask, upper: npt.NDArray[Any], lower: npt.NDArray[Any]) -> ScanTables:
    """What joins the layers or planes (z, y, x) before a border to those behind it."""
    if task.axis == 0:
        split = len(upper)
        origin = (task.origin[0] - split, *task.origin[1:])
        both = np.concatenate([upper, lower])
        tables = scan_seam(both, split, origin, task.max_gap, task.background)
    else:
        tables = Scanner(0, (0, 0), task.max_gap, task.background).tables()
    if not task.contacts:
        return tables
    scanner = TouchScanner(task.background)
    above, below = (
        edge[slice(*layers)].take(end, task.axis)
        for edge, layers, end in zip((upper, lower), task.facing, (-1, 0), strict=True)
    )
    scanner.planes(above, below, task.axis, task.origin)
    return replace(tables, **tables_of(scanner))
