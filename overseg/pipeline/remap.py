"""Merges and fills, put into a block of voxels: the one place that says what a corrected voxel is.

A voxel of time t becomes the fill's label where a fill covers it, else its group's smallest label, else it
stays; outside the plan's region it always stays. At a coarser level a voxel is filled when the level-0 voxel
nearest to its centre is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import PlanError
from overseg.kernels.relabel import Names, Runs, Stretches, edit, names
from overseg.kernels.tables import Bool, Int, Labels
from overseg.pipeline.plandata import Fills, Merges
from overseg.pipeline.planfile import fills_of, merges_of, read_header

if TYPE_CHECKING:
    from overseg.volume import Volume

Voxels = npt.NDArray[np.integer[Any]]
_NONE = np.zeros(0, np.int64)
_GROUPS = 16  # row groups of fills that a process keeps: 50 MB at most


@dataclass(frozen=True)
class Edits:
    """What is to be changed in a part of the volume.

    Attributes
    ----------
    merges : Merges
        Sorted by (t, old).
    fills : Fills
        Sorted by (t, z, y, x0), in voxels of level 0; at least those that meet the part.
    region : tuple of (int, int), optional
        Half-open ranges (z, y, x) of level 0 outside which nothing changes: a label may lie there as well.
    """

    merges: Merges
    fills: Fills
    region: tuple[tuple[int, int], ...] | None = None
    _names: dict[tuple[int, str], Names] = field(default_factory=dict, init=False, repr=False, compare=False)

    def names(self, t: int, dtype: np.dtype[np.integer[Any]]) -> Names:
        """The merges of a time point, as far as their labels can occur in voxels of a type."""
        key = (t, dtype.str)
        if key not in self._names:
            at = slice(*np.searchsorted(self.merges.t, [t, t + 1]))
            old, new = self.merges.old[at], self.merges.new[at]
            fits = old <= np.uint64(np.iinfo(dtype).max)
            self._names[key] = names(old[fits], new[fits])
        return self._names[key]


def rewrite(block: Voxels, times: range, maps: Sequence[Int], edits: Edits) -> Runs:
    """Correct a block in place.

    Parameters
    ----------
    block : ndarray of integers, shape (t, z, y, x)
        The original voxels, C-contiguous; they are changed.
    times : range
        Time points of the block.
    maps : sequence of ndarray of int64
        For z, y and x: the level-0 index of every index of the block, not decreasing.
    edits : Edits

    Returns
    -------
    Runs
        What was there before, by flat positions in the block.
    """
    inside = _inside(block.shape[1:], maps, edits.region)
    reach = [(int(axis[0]), int(axis[-1])) for axis in maps]
    parts = []
    for i, t in enumerate(times):
        fills, labels = _stretches(maps, _within(edits.fills, [(t, t), *reach]))
        runs = edit(block[i].reshape(-1), edits.names(t, block.dtype), inside, fills, labels, block.shape[-1])
        parts.append(replace(runs, starts=runs.starts + i * block[i].size))
    columns = ([getattr(part, name) for part in parts] for name in ("starts", "lengths", "values"))
    return Runs(*map(np.concatenate, columns))


def _inside(
    shape: tuple[int, ...], maps: Sequence[Int], region: tuple[tuple[int, int], ...] | None
) -> Stretches:
    """The voxels of a block that lie in the region."""
    spans = [(0, n) for n in shape]
    if region is not None:
        spans = [tuple(np.searchsorted(axis, span)) for axis, span in zip(maps, region, strict=True)]
    if any(start >= stop for start, stop in spans):
        return Stretches(_NONE, _NONE)
    if spans == [(0, n) for n in shape]:
        return Stretches(np.zeros(1, np.int64), np.array([math.prod(shape)]))
    z, y = (np.arange(*span) for span in spans[:2])
    rows = ((z[:, None] * shape[1] + y) * shape[2]).reshape(-1)
    return Stretches(rows + spans[2][0], rows + spans[2][1])


def _stretches(maps: Sequence[Int], fills: Fills) -> tuple[Stretches, Labels]:
    """Where in a block's flat order the level-0 voxel lies in a fill, and the fills' labels."""
    firsts, lasts = (fills.z, fills.y, fills.x0), (fills.z, fills.y, fills.x1 - 1)
    z0, y0, x0 = (np.searchsorted(axis, first) for axis, first in zip(maps, firsts, strict=True))
    z1, y1, x1 = (np.searchsorted(axis, last, "right") for axis, last in zip(maps, lasts, strict=True))
    # A row of level 0 is no row or one of a coarser level; of a finer one it may be several.
    count = np.where(x1 > x0, (z1 - z0) * (y1 - y0), 0)
    fill = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(fill)) - np.repeat(np.cumsum(count) - count, count)
    height = (y1 - y0)[fill]
    z, y = z0[fill] + nth // height, y0[fill] + nth % height
    row = (z * len(maps[1]) + y) * len(maps[2])
    starts, stops = row + x0[fill], row + x1[fill]
    order = np.argsort(starts)
    return Stretches(starts[order], stops[order]), fills.new[fill[order]]


def axis_map(level: Any, base: Any, axis: int, start: int, stop: int) -> Int:
    """Level-0 index nearest to the centre of each voxel ``start .. stop - 1`` of a level, along one axis.

    Parameters
    ----------
    level, base : Level
        The level, and level 0.
    axis : int
        0, 1, 2 for z, y, x.
    start, stop : int
        Half-open range of indices in `level`.

    Returns
    -------
    ndarray of int64, shape (stop - start,)
        Ties go to the smaller index; beyond the volume's ends the last voxel counts.
    """
    index = np.arange(start, stop, dtype=np.float64)
    position = level.translation[axis] + index * level.scale[axis]
    exact = (position - base.translation[axis]) / base.scale[axis]
    # Scales such as 0.13 leave an error in the last bits, which must not decide a tie.
    nearest = np.ceil(np.round(exact, 6) - 0.5).astype(np.int64)
    n = base.shape[axis - 3]
    inside: Int = np.clip(nearest, 0, n - 1)
    return inside


def unit_maps(volume: Volume, level: int, unit: int) -> tuple[Int, Int, Int]:
    """`axis_map` of a unit's box along z, y and x."""
    box = volume.grid(level).box(unit)
    here, base = volume.levels[level], volume.levels[0]
    z, y, x = (axis_map(here, base, axis, span.start, span.stop) for axis, span in enumerate(box))
    return z, y, x


def correct(volume: Volume, level: int, unit: int, data: Voxels, edits: Edits) -> Runs:
    """Correct the voxels of a whole write unit, in the stored axes, in place; gives what was there before."""
    times = volume.grid(level).times(unit)
    block = data.reshape(len(times), *data.shape[-3:])  # any other axis has length one
    return rewrite(block, times, unit_maps(volume, level, unit), edits)


def touched_units(volume: Volume, level: int, touched: Bool) -> Int:
    """Units of a coarser level that may hold a voxel that changes.

    Parameters
    ----------
    volume : Volume
    level : int
    touched : ndarray of bool, shape (units of level 0,)
        Which units of level 0 may change.

    Returns
    -------
    ndarray of int64
        Units of `level` whose box, grown by one voxel of that level, meets a touched unit of level 0.
    """
    coarse, fine = volume.grid(level), volume.grid(0)
    hit = touched.reshape(fine.shape)
    for axis, (n, unit, size) in enumerate(
        zip(coarse.shape, coarse.unit_shape, coarse.array_shape, strict=True)
    ):
        first = np.arange(n) * unit
        last = np.minimum(first + unit, size) - 1
        spatial = axis - (len(coarse.shape) - 3)
        if spatial >= 0:
            # Whoever made the level may have taken any voxel in the neighbourhood of the centre.
            first, last = np.maximum(first - 1, 0), np.minimum(last + 1, size - 1)
            full = axis_map(volume.levels[level], volume.levels[0], spatial, 0, size)
            first, last = full[first], full[last]
        sums = np.concatenate([np.zeros_like(hit[:1], np.int64), np.cumsum(hit, 0)])
        low, high = first // fine.unit_shape[axis], last // fine.unit_shape[axis] + 1
        hit = np.moveaxis(sums[high] - sums[low] > 0, 0, -1)  # after all axes they are in order again
    units: Int = np.flatnonzero(hit)
    return units


def load_edits(folder: str, plan_hash: str, volume: Volume, level: int, units: Sequence[int]) -> Edits:
    """The merges, and the fills that meet the given units, from the plan folder.

    Parameters
    ----------
    folder : str
        The plan folder, whose tables were checked before (`read_plan`).
    plan_hash : str
        The plan's hash: merges, and the fills read last, are kept in memory under it.
    volume : Volume
    level : int
    units : sequence of int
        Units of `level` that are worked on together.
    """
    spans = [unit_maps(volume, level, unit) for unit in units]
    times = [volume.grid(level).times(unit) for unit in units]
    box = [(min(t.start for t in times), max(t.stop for t in times) - 1)]
    box += [
        (min(int(span[axis][0]) for span in spans), max(int(span[axis][-1]) for span in spans))
        for axis in range(3)
    ]
    parts = [
        _within(_fills(folder, plan_hash, group), box)
        for group, places in enumerate(_places(folder, plan_hash))
        if all(low <= last and first <= high for (low, high), (first, last) in zip(places, box, strict=True))
    ]
    parts = parts or [Fills(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE.astype(np.uint64))]
    columns = ([getattr(part, name) for part in parts] for name in vars(parts[0]))
    return Edits(_merges(folder, plan_hash), Fills(*map(np.concatenate, columns)), _region(folder, plan_hash))


def _within(fills: Fills, box: Sequence[tuple[int, int]]) -> Fills:
    """Those that meet a box: first and last time point, layer, row and column."""
    (t0, t1), (z0, z1), (y0, y1), (x0, x1) = box
    rows = (fills.t >= t0) & (fills.t <= t1) & (fills.z >= z0) & (fills.z <= z1)
    rows &= (fills.y >= y0) & (fills.y <= y1) & (fills.x1 > x0) & (fills.x0 <= x1)
    return Fills(*(column[rows] for column in vars(fills).values()))


@functools.lru_cache(maxsize=2)
def _region(folder: str, plan_hash: str) -> tuple[tuple[int, int], ...] | None:
    region = read_header(folder)["settings"].get("region")
    return None if region is None else tuple((int(start), int(stop)) for start, stop in region)


@functools.lru_cache(maxsize=2)
def _merges(folder: str, plan_hash: str) -> Merges:
    import pyarrow.parquet as pq

    return merges_of(pq.read_table(Path(folder) / "plan" / "merges.parquet", use_threads=False))


@functools.lru_cache(maxsize=2)
def _places(folder: str, plan_hash: str) -> list[list[tuple[int, int]]]:
    """Of each row group of the fills: the least and the greatest t, z and y, and all of x."""
    import pyarrow.parquet as pq

    with _readable(folder):
        meta = pq.read_metadata(_path(folder))
        columns = [meta.schema.names.index(name) for name in ("t", "z", "y")]
        places = []
        for group in map(meta.row_group, range(meta.num_row_groups)):
            facts = [group.column(column).statistics for column in columns if group.num_rows]
            spans = [(fact.min, fact.max) for fact in facts] or [(0, -1)] * 3
            places.append([*spans, (0, np.iinfo(np.int64).max)])
        return places


@functools.lru_cache(maxsize=_GROUPS)
def _fills(folder: str, plan_hash: str, group: int) -> Fills:
    """One row group of the fills. Neighbouring tasks want the same ones."""
    import pyarrow.parquet as pq

    with _readable(folder), pq.ParquetFile(_path(folder)) as file:
        return fills_of(file.read_row_group(group, use_threads=False))


def _path(folder: str) -> Path:
    return Path(folder) / "plan" / "fills.parquet"


@contextmanager
def _readable(folder: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise PlanError(
            f"the plan's fills cannot be read: {error}",
            where=str(_path(folder)),
            remedy="restore the plan folder, then run the same command again",
        ) from error
