"""Write units that cannot be decoded: the labels near them are left alone, and the plan is partial.

1. the scan counts such a unit as background and goes on
2. labels within ``max_gap + 1`` voxels of it, in any direction, are found by reading the shell around it
3. candidates of these labels are kept with the reason ``unread``; no voxel of theirs, and none in the unit,
   is taken by a restored mask
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import DamagedError, PlanError, command_line
from overseg.kernels.tables import Labels
from overseg.pipeline.decide import UNREAD
from overseg.pipeline.halves import halving
from overseg.pipeline.reconcile import Box
from overseg.pipeline.scan import hole_of

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.pipeline.plandata import PlanData
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]

_NAMED = 3  # units in a warning
_BATCH = 16  # units in a task


@dataclass(frozen=True)
class Unread:
    """What could not be read, and who is concerned.

    Attributes
    ----------
    why : dict of int to str
        Reason by unit of level 0.
    labels : dict of int to ndarray of uint64
        Labels near these units by time point, sorted.
    """

    why: Mapping[int, str]
    labels: Mapping[int, Labels]

    def at(self, t: int) -> Labels:
        """Labels at one time point."""
        return self.labels.get(t, np.zeros(0, np.uint64))

    def named(self, volume: Volume) -> list[dict[str, str]]:
        """Units as errors name them, their voxels, and why they cannot be read."""
        return [
            {"unit": volume.unit_name(unit), "voxels": _voxels(volume, unit), "why": self.why[unit]}
            for unit in sorted(self.why)
        ]

    def warnings(self, volume: Volume) -> list[str]:
        """One line for people, if there is anything to say."""
        if not self.why:
            return []
        kind = "shards" if volume.levels[0].sharded else "chunks"
        first = "; ".join(volume.unit_name(unit) for unit in sorted(self.why)[:_NAMED])
        labels = sum(map(len, self.labels.values()))
        return [
            f"{len(self.why):,} {kind} cannot be decoded, and {labels:,} labels near them are left alone "
            f"(reason '{UNREAD}'): {first}. Restore them from a copy and plan again for the whole volume."
        ]


def _voxels(volume: Volume, unit: int) -> str:
    """Where a unit lies, in words that do not depend on where and in which axes the volume is stored."""
    grid = volume.grid()
    times, (z, y, x) = grid.times(unit), grid.box(unit)
    spans = {"t": slice(times.start, times.stop), "z": z, "y": y, "x": x}
    return ", ".join(f"{axis} {span.start}:{span.stop}" for axis, span in spans.items())


def partial_error(plan: PlanData, folder: Path, what: str) -> PlanError:
    """The refusal to write a plan that leaves something alone without having been asked to."""
    first, count = plan.unread[0], len(plan.unread)
    more = f" and {count - 1} more" if count > 1 else ""
    return PlanError(
        f"{what}: {count} write unit{'s' * (count > 1)} cannot be decoded, and labels near are left alone",
        where=f"{first['unit']}{more}; plan {folder}",
        remedy="restore what is damaged from a copy and run the same command again; or write what is planned "
        f"with `{command_line('apply', '--allow-partial', folder)}`",
    )


def find_unread(
    volume: Volume,
    why: Mapping[int, str],
    scanned: int,
    max_gap: int,
    box: Box,
    background: tuple[int, ...],
    executor: Executor,
    progress: Progress | None,
) -> tuple[Volume, Unread]:
    """The volume as one that can be read everywhere, and who is to be left alone.

    Parameters
    ----------
    volume : Volume
    why : mapping of int to str
        Units that the scan could not decode.
    scanned : int
        Units that it looked at.
    max_gap : int
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    background : tuple of int
        Labels that are no cells.
    executor, progress
        As in `overseg.pipeline.plan.make_plan`.

    Returns
    -------
    tuple of Volume and Unread

    Raises
    ------
    DamagedError
        If that is more than half of the units: then it is not units that are damaged.
    """
    if not why:
        return volume, Unread({}, {})
    if 2 * len(why) > scanned:
        first = min(why)
        raise DamagedError(
            f"{len(why):,} of {scanned:,} write units cannot be decoded, the first: {why[first]}",
            where=volume.unit_name(first),
            remedy="see that the volume is whole and its metadata name the right codec; restore it",
        )
    patched = replace(volume, unread=frozenset(why), hole=hole_of(background, volume))
    order = sorted(why)
    units = {
        f"unit {order[at]} and on": (patched, tuple(order[at : at + _BATCH]), max_gap + 1, box, background)
        for at in range(0, len(order), _BATCH)
    }
    near: dict[int, set[int]] = {}
    for _, receipt in executor.run("unread", labels_near, units, progress=progress, halve=halving()):
        for t, labels in receipt["labels"]:
            near.setdefault(t, set()).update(labels)
    return patched, Unread(why, {t: np.array(sorted(found), np.uint64) for t, found in near.items()})


def labels_near(
    volume: Volume, units: tuple[int, ...], reach: int, box: Box, background: tuple[int, ...]
) -> dict[str, Any]:
    """Labels that touch some units or lie within `reach` voxels of them; a unit of work.

    Returns
    -------
    dict
        ``labels``: pairs of a time point and a list of labels.
    """
    grid, found = volume.grid(), []
    for unit in units:
        for t in grid.times(unit):
            labels: set[int] = set()
            for slab in _shell(grid.box(unit), reach, box):
                labels.update(np.unique(volume.read(slab, t)).tolist())
            # Where there is no background, the label that stands for the unit is no cell to be touched.
            found.append([t, sorted((labels | {volume.hole}) - set(background))])
    return {"labels": found}


def _shell(unit: tuple[slice, slice, slice], reach: int, box: Box) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes that together hold all voxels of `box` within `reach` of a unit, and none of its own."""
    grown = [
        (max(span.start - reach, lo), min(span.stop + reach, hi))
        for span, (lo, hi) in zip(unit, box, strict=True)
    ]
    for axis, span in enumerate(unit):
        before = (grown[axis][0], min(span.start, grown[axis][1]))
        after = (max(span.stop, grown[axis][0]), grown[axis][1])
        for lo, hi in (before, after):
            if lo < hi:
                spans = [*grown[:axis], (lo, hi), *grown[axis + 1 :]]
                z, y, x = (slice(*each) for each in spans)
                yield z, y, x
        # What was given is not given again along the next axes.
        grown[axis] = (max(span.start, grown[axis][0]), min(span.stop, grown[axis][1]))


def may_take(
    volume: Volume, t: int, where: Box, labels: npt.NDArray[Any], kept: Labels
) -> npt.NDArray[np.bool_] | None:
    """Which voxels of a box a restored mask may take; None for all.

    Parameters
    ----------
    volume : Volume
    t : int
        Time point.
    where : tuple of tuple of int
        Half-open voxel ranges (z, y, x).
    labels : ndarray of integers, shape (z, y, x)
        What is there.
    kept : ndarray of uint64
        Labels that are left alone.
    """
    if not volume.unread:
        return None
    free = ~np.isin(labels, kept.astype(labels.dtype))
    z, y, x = (slice(*span) for span in where)
    for unit in volume.unread.intersection(volume.grid().over((z, y, x), t)):
        spans = [
            slice(max(span.start - lo, 0), max(span.stop - lo, 0))
            for span, (lo, _) in zip(volume.grid().box(unit), where, strict=True)
        ]
        free[tuple(spans)] = False
    return free
