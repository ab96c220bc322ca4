"""Verify: prove that only listed voxels changed, and that those became what the plan says.

Every unit is read and judged by what plan and journal know of it: an untouched one has its planned digest;
a changed one, with the journal undone in memory, has its digest from before, and differs from that by merges
and fills alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import OversegError, command_line
from overseg.kernels.tables import Bool
from overseg.pipeline.apply import Progress, journal_folder, open_plan_volume
from overseg.pipeline.journal import Journal, read_journal, restore
from overseg.pipeline.plandata import PlanData
from overseg.pipeline.planfile import read_plan
from overseg.pipeline.remap import Edits, correct, load_edits, touched_units
from overseg.pipeline.undo import inline
from overseg.pipeline.work import Unit, batches, halves, to_original, unit_list
from overseg.volume import Volume, unit_digest
from overseg.volume.state import APPLIED, APPLYING, PLANNED, UNDOING, UNDONE, read_state

if TYPE_CHECKING:
    from overseg.cluster.executor import Executor

Voxels = npt.NDArray[np.integer[Any]]
Found = tuple[str, list[int] | None]
_NAMED = 20  # problems that are spelled out; the others are counted
_FOREIGN = "voxels that this plan does not change were changed"


@dataclass(frozen=True)
class Problem:
    """One unit that is not what it should be.

    Attributes
    ----------
    unit : str
        Array, unit and voxels.
    what : str
        What is wrong with it.
    voxel : tuple of int or None
        Index of the first wrong voxel in the stored array, where it can be known.
    """

    unit: str
    what: str
    voxel: tuple[int, ...] | None = None

    def __str__(self) -> str:
        place = "" if self.voxel is None else f" at voxel {self.voxel}"
        return f"{self.unit}: {self.what}{place}"


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes
    ----------
    ok : bool
        Every unit is what it should be.
    plan_hash : str
    location : str
        Of the volume.
    phase : str
        How far the plan got on the volume.
    units_checked, units_changed : int
        Units read, and those among them that the plan has changed.
    problems : tuple of Problem
        The first of them.
    n_problems : int
        All of them.
    seconds : float
        Wall-clock time.
    unread : tuple of str
        Units that could not be decoded when the plan was made: it knows nothing of them and left them alone.
    """

    ok: bool
    plan_hash: str
    location: str
    phase: str
    units_checked: int
    units_changed: int
    problems: tuple[Problem, ...]
    n_problems: int
    seconds: float
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Job:
    folder: str
    plan_hash: str
    volume: Volume
    journal: str
    phase: str


def verify(
    folder: str | Path,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    volume: Volume | None = None,
) -> Verification:
    """Compare every voxel of a volume with its plan and its journal.

    Parameters
    ----------
    folder : str or Path
        The plan folder; the plan may be applied, undone, or not applied yet.
    executor : Executor, optional
        Runs the tasks; this process when not given.
    progress : callable, optional
        Called as ``progress(step, done, total)``.
    volume : Volume, optional
        Where the volume is now, if not where the plan says.

    Returns
    -------
    Verification
        A wrong, damaged or unreadable unit is a problem, not an error.

    Raises
    ------
    PlanError
        If the plan is missing, damaged or for another volume.
    VolumeError
        If the volume is missing.
    """
    start = time.monotonic()
    folder = Path(folder).resolve()
    plan = read_plan(folder)
    volume = open_plan_volume(plan, volume)
    state = read_state(volume)
    entry, last = state.entry(plan.hash), state.last
    phase = PLANNED if entry is None else entry.phase
    place = folder / "run" / "journal" if entry is None else journal_folder(folder, entry)
    in_force = phase in (APPLYING, APPLIED, UNDOING)
    journal = read_journal(place) if in_force else Journal()
    job = _Job(str(folder), plan.hash, volume, str(place), phase)
    rows = (plan.units.level == 0) & plan.units.touched
    touched = np.zeros(volume.grid(0).n, bool)
    touched[plan.units.unit[rows]] = True
    units = _units(plan, volume, journal, touched)
    tasks = {
        name: (job, level, _marked(level, batch, touched, journal))
        for level, members in units.items()
        for name, batch in batches(volume, level, members)
    }
    problems = [
        Problem(volume.unit_name(unit, level), "it was changed, and the journal does not hold what it was")
        for level, unit in journal.lost()
    ]
    for _, receipt in inline(executor).run("verify", examine, tasks, progress=progress, halve=halves):
        problems += [Problem(unit, what, voxel and tuple(voxel)) for unit, what, voxel in receipt["problems"]]
    problems.sort(key=str)
    if problems and phase == APPLIED and last is not None and last.plan_hash != plan.hash:
        what = f"a later plan was applied on top of this one: verify {last.place}, or undo it first"
        problems.insert(0, Problem(volume.location, what))
    if phase in (APPLYING, UNDOING):
        verb = "apply" if phase == APPLYING else "undo"
        array = " (of a job array, with --finish)" if phase == APPLYING else ""
        what = f"the plan is {phase}: run `{command_line(verb, folder)}`{array} to the end first"
        problems.insert(0, Problem(volume.location, what))
    return Verification(
        not problems,
        plan.hash,
        volume.location,
        phase,
        sum(len(members) for members in units.values()),
        len(journal.images),
        tuple(problems[:_NAMED]),
        len(problems),
        time.monotonic() - start,
        tuple(each["unit"] for each in plan.unread),
    )


@dataclass(frozen=True)
class _Marked:
    """A unit, and what should be true of it."""

    unit: Unit
    touched: bool
    noted: bytes | None  # digest noted when it was found to need no change


def _marked(level: int, batch: tuple[Unit, ...], touched: Bool, journal: Journal) -> tuple[_Marked, ...]:
    return tuple(
        _Marked(
            each,
            level > 0 or bool(touched[each.unit]),
            journal.done.get((level, each.unit), (None, None))[1],
        )
        for each in batch
    )


def _units(plan: PlanData, volume: Volume, journal: Journal, touched: Bool) -> dict[int, list[Unit]]:
    """All units of level 0 that the plan knows, and at other levels those that may change or are known."""
    table = plan.units
    units = {}
    for level in range(len(volume.levels)):
        numbers = set(table.unit[table.level == level].tolist())
        numbers.update(unit for at, unit in journal.images if at == level)
        if level:
            numbers.update(touched_units(volume, level, touched).tolist())
        units[level] = unit_list(plan, level, sorted(numbers), journal)
    return units


def examine(job: _Job, level: int, units: tuple[_Marked, ...]) -> dict[str, Any]:
    """Judge a batch of units.

    Returns
    -------
    dict
        ``problems``: triples of unit name, what is wrong, and the first wrong voxel or None.
    """
    volume = job.volume
    edits = load_edits(job.folder, job.plan_hash, volume, level, [each.unit.unit for each in units])
    problems: list[tuple[str, str, list[int] | None]] = []
    for each in units:
        name = volume.unit_name(each.unit.unit, level)
        try:
            data = volume.read_unit(each.unit.unit, level)
            found = _judge(job, level, each, data, edits)
        except OversegError as error:
            problems.append((name, error.what, None))
            continue
        if found is not None:
            problems.append((name, *found))
    return {"problems": problems}


def _judge(job: _Job, level: int, each: _Marked, data: Voxels, edits: Edits) -> Found | None:
    """What is wrong with one unit, and where."""
    digest, unit = unit_digest(data), each.unit
    image, planned = unit.image, unit.planned
    if job.phase in (PLANNED, UNDONE) or not each.touched:
        return None if planned in (None, digest) else (_FOREIGN, None)
    before = data.copy()
    if image is None:
        if (each.noted or planned) not in (None, digest):
            return _FOREIGN, None  # else it needed no change, or was not reached yet
    elif digest == image.after:
        to_original(Path(job.journal), image, before)
        if level == 0 and planned not in (None, image.before):
            return "what the journal holds of it is not what the plan was made from", None
    elif digest != image.before:
        restore(Path(job.journal), image, before)
    if job.phase != APPLIED and (image is None or digest == image.before):
        return None
    correct(job.volume, level, unit.unit, before, edits)
    found = _difference(job.volume, level, unit.unit, data, before)
    is_foreign = image is not None and digest not in (image.before, image.after)
    return (_FOREIGN, None) if is_foreign and found is None else found


def _difference(volume: Volume, level: int, unit: int, data: Voxels, should: Voxels) -> Found | None:
    """The first voxel that is not what it should be, as an index in the stored array."""
    wrong = np.flatnonzero(data != should)
    if len(wrong) == 0:
        return None
    inside = np.unravel_index(wrong[0], data.shape)
    corner = [span.start for span in volume.grid(level).slices(unit)]
    voxel = [int(start + at) for start, at in zip(corner, inside, strict=True)]
    what = f"label {data[inside]} where {should[inside]} should be"
    return what if len(wrong) == 1 else f"{what}, and {len(wrong) - 1} voxels more", voxel
