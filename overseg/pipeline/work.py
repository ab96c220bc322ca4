"""What a task does to write units: check them, correct them, put them back. Runs in any process.

Every function takes a `Job` and a batch of units of one level, and gives back a small dict. A unit's digest
says what has to be done, so that each function may be run again at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import ChangedError, PlanError
from overseg.pipeline.halves import halving
from overseg.pipeline.journal import Image, Journal, Segment, damaged, read_journal, restore
from overseg.pipeline.remap import correct, load_edits
from overseg.volume import unit_digest
from overseg.volume.files import is_leftover
from overseg.volume.lock import FOLDER as LOCK_FOLDER

if TYPE_CHECKING:
    from overseg.pipeline.plandata import PlanData
    from overseg.volume import Volume
    from overseg.volume.lock import Lock

_BATCH_BYTES = 64 << 20  # decoded; about half a second of work
_BATCH_UNITS = 256
_BASE_BYTES = 128 << 20  # helper arrays of one piece of a unit, and the plan's merges


@dataclass(frozen=True)
class Job:
    """What all tasks of one command share.

    Attributes
    ----------
    folder : str
        The plan folder.
    plan_hash : str
    volume : Volume
    journal : str
        Folder of the journal.
    attempt : str
        Unique to this run of the command.
    lock : Lock
        Checked before each write.
    """

    folder: str
    plan_hash: str
    volume: Volume
    journal: str
    attempt: str
    lock: Lock


@dataclass(frozen=True)
class Unit:
    """One write unit in a batch.

    Attributes
    ----------
    unit : int
        Index in the level's grid.
    planned : bytes or None
        Digest in the plan, where the plan has one.
    image : Image or None
        Its record in the journal, where there is one.
    stamp : str or None
        What the store said of it when it was written, where the journal knows.
    """

    unit: int
    planned: bytes | None
    image: Image | None
    stamp: str | None = None


def batches(volume: Volume, level: int, units: Sequence[Unit]) -> Iterator[tuple[str, tuple[Unit, ...]]]:
    """Neighbouring units in tasks of a sensible size, each with a name."""
    facts = volume.levels[level]
    size = int(np.prod(facts.unit_shape)) * facts.dtype.itemsize
    step = max(1, min(_BATCH_UNITS, _BATCH_BYTES // size))
    for start in range(0, len(units), step):
        batch = tuple(units[start : start + step])
        yield f"level {level}, units {batch[0].unit} to {batch[-1].unit}", batch


def unit_list(plan: PlanData, level: int, numbers: Sequence[int], journal: Journal) -> list[Unit]:
    """The units with what plan and journal know of them."""
    table = plan.units
    rows = np.flatnonzero(table.level == level)
    planned = dict(zip(table.unit[rows].tolist(), rows.tolist(), strict=True))
    return [
        Unit(
            int(unit),
            table.digest[planned[unit]].tobytes() if unit in planned else None,
            journal.images.get((level, int(unit))),
            journal.stamps.get((level, int(unit))),
        )
        for unit in numbers
    ]


def tasks(
    job: Job, units: dict[int, list[Unit]], done: dict[int, set[int]] | None = None
) -> dict[str, tuple[Any, ...]]:
    """Named tasks over the units of all levels, for an executor; the names do not depend on what is done."""
    found = {}
    for level, members in units.items():
        finished = set() if done is None else done[level]
        for name, batch in batches(job.volume, level, members):
            left = tuple(each for each in batch if each.unit not in finished)
            if left:
                found[name] = (job, level, left)
    return found


#: Of the tasks of this page, for an executor.
halves = halving(batch=2)


def peak_bytes(volume: Volume) -> int:
    """Largest memory that a task of these needs for its voxels: a batch, and helper arrays of one unit."""
    units = [(int(np.prod(level.unit_shape)), level.dtype.itemsize) for level in volume.levels]
    return _BASE_BYTES + max(max(n * size, _BATCH_BYTES) + n * (3 * size + 8) for n, size in units)


def rewritten(volume: Volume, stamps: tuple[tuple[int, tuple[str, ...]], ...]) -> dict[str, Any]:
    """Which units of level 0 were stored anew, without reading any of them.

    Parameters
    ----------
    volume : Volume
    stamps : tuple of (int, tuple of str)
        Units, and the stamps with which they were as planned.

    Returns
    -------
    dict
        ``units``: those that have another stamp now, or none.
    """
    return {"units": [unit for unit, known in stamps if volume.unit_stamp(unit) not in known]}


def check(job: Job, level: int, units: tuple[Unit, ...]) -> dict[str, Any]:
    """Before anything is written: is every unit as planned, or as this plan left it?

    Returns
    -------
    dict
        ``level``; ``done``: units that are as this plan left them; ``runs``: an upper bound of the runs that
        the journal will take for the others.

    Raises
    ------
    ChangedError
        If a unit is neither.
    """
    volume, done, runs = job.volume, [], 0
    edits = load_edits(job.folder, job.plan_hash, volume, level, [each.unit for each in units])
    late = _Late(Path(job.journal))
    for each in units:
        data = volume.read_unit(each.unit, level)
        digest = unit_digest(data)
        image = _record(job, level, each, digest, late)
        if image is not None and digest == image.after:
            done.append(each.unit)
        elif image is None:
            runs += len(correct(volume, level, each.unit, data, edits).starts)
    return {"level": level, "done": done, "runs": runs}


def write(job: Job, level: int, units: tuple[Unit, ...]) -> dict[str, Any]:
    """Correct units, each journalled before it is written.

    Returns
    -------
    dict
        ``written``: units written; ``voxels``: voxels changed in them.

    Raises
    ------
    ChangedError
        If a unit is neither as planned nor as this plan left it.
    LockedError
        If the lock was taken over.
    StorageError
        If journal or volume cannot be written.
    """
    volume, ready, voxels = job.volume, [], 0
    edits = load_edits(job.folder, job.plan_hash, volume, level, [each.unit for each in units])
    late = _Late(Path(job.journal))
    with Segment(Path(job.journal), job.attempt) as segment:
        for each in units:
            data = volume.read_unit(each.unit, level)
            before = unit_digest(data)
            image = _record(job, level, each, before, late)
            if image is not None and before == image.after:
                segment.done(level, each.unit, image.before, image.after)
                continue
            runs = correct(volume, level, each.unit, data, edits)
            after = unit_digest(data) if len(runs.starts) else before
            if image is not None and image.after != after:
                raise damaged(Path(job.journal) / image.segment)
            if after == before:
                segment.done(level, each.unit, before, after)
                continue
            if image is None:
                segment.image(level, each.unit, before, after, runs)
            voxels += int(runs.lengths.sum())
            ready.append((each.unit, data, before, after))
        segment.sync()  # one for the whole batch: they are slow
        for unit, data, before, after in ready:
            volume.write_unit(unit, data, level, fence=job.lock.check)
            segment.done(level, unit, before, after, volume.unit_stamp(unit, level))
        segment.sync()
    return {"written": len(ready), "voxels": voxels}


def look(job: Job, level: int, units: tuple[Unit, ...]) -> dict[str, Any]:
    """Before an undo: which units are to be restored, and which did someone else change?

    Returns
    -------
    dict
        ``level``; ``restore`` and ``changed``: units. Those that are as they were are in neither.
    """
    restore_, changed = [], []
    for each in units:
        stored = each.stamp if each.image is not None else None
        if stored is not None and job.volume.unit_stamp(each.unit, level) == stored:
            restore_.append(each.unit)  # nobody stored it anew since
            continue
        digest = unit_digest(job.volume.read_unit(each.unit, level))
        if each.image is None:
            if digest != each.planned:
                changed.append(each.unit)
        elif digest == each.image.after:
            restore_.append(each.unit)
        elif digest != each.image.before:
            changed.append(each.unit)
    return {"level": level, "restore": restore_, "changed": changed}


def put_back(job: Job, level: int, units: tuple[Unit, ...]) -> dict[str, Any]:
    """Restore units from their before-images.

    Returns
    -------
    dict
        ``written``: units written.

    Raises
    ------
    ChangedError
        If a unit is neither as it was nor as this plan left it.
    PlanError
        If a before-image is damaged.
    """
    volume, written = job.volume, 0
    for each in units:
        if each.image is None:
            continue
        data = volume.read_unit(each.unit, level)
        digest = unit_digest(data)
        if digest == each.image.before:
            continue
        if digest != each.image.after:
            raise changed_error(volume, level, [each.unit])
        to_original(Path(job.journal), each.image, data)
        volume.write_unit(each.unit, data, level, fence=job.lock.check)
        written += 1
    return {"written": written}


def to_original(journal: Path, image: Image, data: npt.NDArray[np.integer[Any]]) -> None:
    """Make the unit as it was before the plan, in place, proved by its digest. Raises `PlanError`."""
    restore(journal, image, data)
    if unit_digest(data) != image.before:
        raise damaged(journal / image.segment)


class _Late:
    """The journal as it is by now: read for a unit that nobody told of, and again for one that came later.

    Others may be at the same units: tasks of an array that was begun twice, or its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._journal = folder, Journal()

    def image(self, level: int, unit: int) -> Image | None:
        if (level, unit) not in self._journal.images:
            self._journal = read_journal(self._folder)
        return self._journal.images.get((level, unit))


def _record(job: Job, level: int, each: Unit, digest: bytes, late: _Late) -> Image | None:
    """The unit's before-image, if it has one. Raises `ChangedError` if its voxels are neither of the two."""
    image = each.image
    if image is None:
        if each.planned is None or digest == each.planned:
            return None
        # A worker may have written it and died before anyone was told: its journal knows.
        image = late.image(level, each.unit)
    if image is None or digest not in (image.before, image.after):
        raise changed_error(job.volume, level, [each.unit])
    return image


def changed_error(volume: Volume, level: int, units: Sequence[int]) -> ChangedError:
    """The error of units that someone else has written."""
    names = "; ".join(volume.unit_name(unit, level) for unit in units[:3])
    more = f" and {len(units) - 3} more" if len(units) > 3 else ""
    return ChangedError(
        "voxels were changed since the plan was made, and not by this plan",
        where=f"{names}{more}",
        remedy="restore those voxels from a copy if the change was a mistake; if it was meant, plan again",
    )


def sweep(volume: Volume, *, everywhere: bool) -> None:
    """Remove half-written files that earlier runs left in a local volume; the lock must be held.

    A run need not have been killed: a worker of one that came to its end may have stood still all the while,
    its look at the lock behind it, and would put its file in place when it wakes.

    Parameters
    ----------
    volume : Volume
    everywhere : bool
        Also among the chunks: some are to be written, or were.
    """
    if not volume.place.local:
        return
    places = [volume.level_place(level).location for level in range(len(volume.levels))]
    own = dict.fromkeys([volume.location, *places, os.path.join(places[0], ".overseg")])
    tops = [*own, *(places if everywhere else ())]
    lock = os.path.join(places[0], LOCK_FOLDER)
    for at, top in enumerate(tops):
        for folder, below, names in os.walk(top):
            if at < len(own):
                below.clear()
            for name in names if folder != lock else ():  # others may be at work there
                if is_leftover(name):
                    Path(folder, name).unlink(missing_ok=True)


def no_record(journal: Path, where: str) -> PlanError:
    """The error of a unit that was written and whose before-image is gone."""
    return PlanError(
        "the journal is incomplete: it does not hold what a changed unit was before",
        where=f"{where}; journal {journal}",
        remedy="restore the plan folder from a backup before anything else is done to the volume",
    )
