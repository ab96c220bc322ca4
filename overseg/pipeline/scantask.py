"""How a volume is cut into scan tasks that fit the memory. The cut shows in no result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from overseg.cluster.executor import Executor
from overseg.errors import InputError, ResourceError, more_memory
from overseg.settings import Settings
from overseg.volume import UnitGrid, Volume

Range = tuple[int, int]
Box = tuple[Range, Range, Range]

_SIDE = 512  # tiny units are grouped into columns of about this many pixels a side
_VOXELS = 1 << 26  # a task of this size takes a second or two, and a killed job loses no more
_BASE = 1 << 24  # bytes that even the smallest task takes
_TABLES = 2.5  # bytes of tables per voxel of a segment; neurites need 1 to 2, cells of 20 voxels across 2
_ROW = 280  # bytes of a row of contacts
_CONTACTS = 0.005  # rows per voxel: three times those of cells of 17 voxels across, for a table that grows
_COLUMN = 16  # bytes per pixel of a unit's layer for the columns of labels that differ
_PARTITION = 1 << 26  # voxels for one partition of the labels: a hundred thousand rows of tables
_LEAST = 1 << 25  # voxels; a smaller task is not worth its files
_SHARE = 8  # tasks per worker that are enough to keep all of them busy


@dataclass(frozen=True)
class ScanTask:
    """A column segment of write units.

    Attributes
    ----------
    name : str
        Names the task's receipt and files; the same place, settings and cut give the same name.
    times, z, y, x : tuple of int
        Half-open ranges in the unit grid, of level 0.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that are scanned: the units', cut at the region.
    axes : tuple of str
        Stored axes.
    unit_shape, array_shape : tuple of int
        Of the stored array.
    max_gap : int
        Layers that may be missing.
    background : tuple of int
        Labels that are no cells.
    partitions : int
        Row groups per table.
    itemsize : int
        Bytes per voxel.
    keep : tuple of bool
        Whether the first and the last layers are kept for a seam.
    contacts : bool
        Whether contacts between labels are counted.
    beside : tuple of bool
        Whether the outermost plane is kept for a seam: at low and high y, at low and high x.
    """

    name: str
    times: Range
    z: Range
    y: Range
    x: Range
    box: tuple[Range, Range, Range]
    axes: tuple[str, ...]
    unit_shape: tuple[int, ...]
    array_shape: tuple[int, ...]
    max_gap: int
    background: tuple[int, ...]
    partitions: int
    itemsize: int
    keep: tuple[bool, bool] = (False, False)
    contacts: bool = False
    beside: tuple[bool, bool, bool, bool] = (False, False, False, False)

    @property
    def grid(self) -> UnitGrid:
        """The write units of level 0."""
        return UnitGrid(self.array_shape, self.unit_shape, self.axes)

    @property
    def steps(self) -> list[list[int]]:
        """Units layer by layer, from the top."""
        z, y, x = [range(*span) for span in (self.z, self.y, self.x)]
        return [[self._unit(i, j, k) for j in y for k in x] for i in z]

    @property
    def time_points(self) -> range:
        """Time points of the task's units."""
        if "t" not in self.axes:
            return range(1)
        size = self.unit_shape[self.axes.index("t")]
        return range(self.times[0] * size, min(self.times[1] * size, self.array_shape[self.axes.index("t")]))

    def _unit(self, z: int, y: int, x: int) -> int:
        places = {"t": self.times[0], "c": 0, "z": z, "y": y, "x": x}
        return self.grid.unit(tuple(places[axis] for axis in self.axes))


def predicted_peak(task: ScanTask) -> int:
    """Bytes that a task will take at most, beyond what the process takes anyway.

    One unit as it is decoded, the layers above every unit of the task and those kept for a seam, and an
    allowance for the tables.
    """
    lags = task.max_gap + 1
    (z0, z1), (y0, y1), (x0, x1) = task.box
    plane = (y1 - y0) * (x1 - x0)
    kept = (1 + sum(task.keep)) * len(task.time_points) * lags * plane * task.itemsize
    unit = list(map(min, task.unit_shape, task.array_shape))
    decoded = 3 * math.prod(unit) * task.itemsize
    columns = math.prod(unit[-2:]) * (_COLUMN + 2 * lags * task.itemsize)
    tables = int(_TABLES * len(task.time_points) * (z1 - z0) * plane)
    return decoded + kept + columns + tables + _contacts(task) + _BASE


def _contacts(task: ScanTask) -> int:
    """Bytes that contacts take at most: planes that wait for a neighbour or a seam, and the rows."""
    if not task.contacts:
        return 0
    times = len(task.time_points)
    depth, height, width = (hi - lo for lo, hi in task.box)
    unit = list(map(min, task.unit_shape, task.array_shape))[-3:]
    waiting = unit[0] * (width + unit[1])
    kept = depth * (sum(task.beside[:2]) * width + sum(task.beside[2:]) * height)
    rows = int(_ROW * _CONTACTS * times * depth * height * width)
    # A plane is copied when it is put beside another, or compressed.
    return times * task.itemsize * (waiting + 2 * kept + 2 * unit[1] * unit[2]) + rows


def plan_scan(vol: Volume, settings: Settings, memory: int, workers: int = 1) -> list[ScanTask]:
    """Cut a volume into tasks that fit the memory. The cut shows in no result.

    Parameters
    ----------
    vol : Volume
        The volume.
    settings : Settings
        `region`, `kind`, `max_gap` and `background` are used.
    memory : int
        Bytes that one task may take.
    workers : int
        Tasks that may run at the same time.

    Returns
    -------
    list of ScanTask

    Raises
    ------
    InputError
        If the region is not inside the volume, or no gap as wide as `max_gap` fits into it.
    ResourceError
        If not even one column of single units fits the memory.
    """
    grid = vol.grid(0)
    region = _region(vol, settings)
    unit = grid.unit_shape[-3:]
    spans = [(lo // u, -(-hi // u)) for (lo, hi), u in zip(region, unit, strict=True)]
    whole = ScanTask(
        name="",
        times=(0, 1),
        z=spans[0],
        y=spans[1],
        x=spans[2],
        box=region,
        axes=grid.axes,
        unit_shape=grid.unit_shape,
        array_shape=grid.array_shape,
        max_gap=settings.max_gap,
        background=settings.background,
        partitions=max(1, -(-math.prod(vol.shape) // _PARTITION)),
        itemsize=vol.dtype.itemsize,
        contacts=settings.kind != "gap",
    )
    if whole.contacts:
        # Until it is known where a task has neighbours: everywhere.
        whole = replace(whole, beside=(True, True, True, True))
    depth, side = _fitting(whole, memory)
    least = predicted_peak(part_of(whole, *_first(whole, depth, side)))
    if least > memory:
        raise ResourceError(
            f"a scan of single {'shards' if vol.levels[0].sharded else 'chunks'} of shape {unit} takes about "
            f"{_mib(least)}, a worker has {_mib(memory)} for it",
            where=vol.location,
            remedy=f"{more_memory(Executor.memory_for(least))}; or store the volume in smaller chunks",
        )
    times = range(grid.shape[grid.axes.index("t")]) if "t" in grid.axes else range(1)
    columns = [(t, y, x) for t in times for y in _cut(whole.y, side[0]) for x in _cut(whole.x, side[1])]
    # Long segments have few seams; short ones keep all workers busy.
    enough = max(1, _SHARE * workers // len(columns))
    worth = _LEAST // math.prod(n * u for n, u in zip(side, unit[1:], strict=True)) // unit[0]
    depth = min(depth, max(worth, -(-(whole.z[1] - whole.z[0]) // enough)))
    segments = _segments(whole, max(depth, least_units(whole)))
    tasks = []
    for t, y, x in columns:
        for i, z in enumerate(segments):
            part = part_of(replace(whole, times=(t, t + 1)), z, y, x)
            part = replace(part, keep=(i > 0, i < len(segments) - 1), beside=_beside(whole, y, x))
            tasks.append(replace(part, name=name_of(vol, part)))
    return tasks


def _beside(whole: ScanTask, y: Range, x: Range) -> tuple[bool, bool, bool, bool]:
    """Whether a column has neighbours to touch at low and high y, at low and high x."""
    front, back = y[0] > whole.y[0], y[1] < whole.y[1]
    left, right = x[0] > whole.x[0], x[1] < whole.x[1]
    on = whole.contacts
    return front and on, back and on, left and on, right and on


def all_units(tasks: Iterable[ScanTask]) -> list[int]:
    """Every unit that the tasks read, sorted."""
    return sorted(unit for task in tasks for units in task.steps for unit in units)


def part_of(whole: ScanTask, z: Range, y: Range, x: Range) -> ScanTask:
    """The task of some of the units, its box cut at the region."""
    unit = whole.unit_shape[-3:]
    box = [
        (max(lo * u, first), min(hi * u, last))
        for (lo, hi), u, (first, last) in zip((z, y, x), unit, whole.box, strict=True)
    ]
    return replace(whole, z=z, y=y, x=x, box=(box[0], box[1], box[2]))


def _region(vol: Volume, settings: Settings) -> Box:
    z, y, x = vol.shape
    region = settings.region or ((0, z), (0, y), (0, x))
    if any(hi > n for (_, hi), n in zip(region, vol.shape, strict=True)):
        raise InputError(
            f"the region {','.join(f'{lo}:{hi}' for lo, hi in region)} is not inside the volume",
            where=f"{vol.location} of shape {vol.shape}",
            remedy="give --region z0:z1,y0:y1,x0:x1 in voxels of the volume",
        )
    layers = region[0][1] - region[0][0]
    if layers == 1:
        raise InputError(
            "there is one layer: nothing lies above or below it that it could be merged with",
            where=f"{vol.location} of shape {vol.shape} (z, y, x)",
            remedy="give the whole stack; if this is one, its axes are in another order",
        )
    if settings.max_gap >= layers:
        raise InputError(
            f"a gap of {settings.max_gap} layers does not fit into {layers} layers",
            where=f"{vol.location} of shape {vol.shape} (z, y, x)",
            remedy="give a smaller --max-gap; if the volume is not that flat, its axes are in another order",
        )
    return region


def _fitting(whole: ScanTask, memory: int) -> tuple[int, tuple[int, int]]:
    """Units of a segment in z, and of a column in y and x, that fit the memory if that can be."""
    unit = whole.unit_shape[-3:]
    plane = math.prod(max(_SIDE, u) for u in unit[1:])
    layers = min(_VOXELS, int(memory / (2 * _TABLES))) // plane
    least = least_units(whole)
    depth, side = max(least, layers // unit[0]), (max(1, _SIDE // unit[1]), max(1, _SIDE // unit[2]))
    while predicted_peak(part_of(whole, *_first(whole, depth, side))) > memory:
        if side != (1, 1):
            side = (max(1, side[0] // 2), max(1, side[1] // 2))
        elif depth > least:
            depth = max(least, depth // 2)
        else:
            break
    return depth, side


def _first(whole: ScanTask, depth: int, side: tuple[int, ...]) -> tuple[Range, Range, Range]:
    """The largest task of a cut, or one as large."""
    z, y, x = (
        (lo, min(lo + n, hi)) for (lo, hi), n in zip((whole.z, whole.y, whole.x), (depth, *side), strict=True)
    )
    return z, y, x


def _cut(span: Range, size: int) -> list[Range]:
    return [(lo, min(lo + size, span[1])) for lo in range(span[0], span[1], size)]


def _segments(whole: ScanTask, depth: int) -> list[Range]:
    """Ranges of units in z, each of which holds at least a window of layers of the region."""
    cuts = _cut(whole.z, depth)
    lags = whole.max_gap + 1
    merged: list[Range] = []
    for span in cuts:
        (lo, hi), _, _ = part_of(whole, span, whole.y, whole.x).box
        if merged and (hi - lo < lags or _layers(whole, merged[-1]) < lags):
            span = (merged.pop()[0], span[1])
        merged.append(span)
    return merged


def _layers(whole: ScanTask, span: Range) -> int:
    (lo, hi), _, _ = part_of(whole, span, whole.y, whole.x).box
    return hi - lo


def least_units(whole: ScanTask) -> int:
    """Units in z that hold a window of layers."""
    return -(-(whole.max_gap + 1) // whole.unit_shape[-3])


def name_of(vol: Volume, task: ScanTask) -> str:
    """Readable place, and a hash of all that the task's files depend on."""
    facts = {name: getattr(task, name) for name in task.__annotations__} | {"dtype": str(vol.dtype)}
    if not task.contacts:
        # As before there were contacts, so that tables of an earlier version are found again.
        del facts["contacts"], facts["beside"]
    mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    (z, _), (y, _), (x, _) = task.box
    return f"t{task.time_points.start}-z{z}-y{y}-x{x}-{mark}"


def _mib(size: int) -> str:
    return f"{-(-size // 2**20)} MiB"
