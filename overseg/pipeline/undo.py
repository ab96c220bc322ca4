"""Undo: give a volume back exactly as it was before a plan, from the journal that was kept meanwhile."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from overseg.errors import ChangedError, PlanError, command_line
from overseg.pipeline.apply import Progress, Result, check_memory, journal_folder, open_plan_volume
from overseg.pipeline.journal import Journal, read_journal
from overseg.pipeline.plandata import PlanData
from overseg.pipeline.planfile import read_plan
from overseg.pipeline.provenance import remove_provenance
from overseg.pipeline.work import (
    Job,
    Unit,
    changed_error,
    halves,
    look,
    no_record,
    put_back,
    sweep,
    tasks,
    unit_list,
)
from overseg.volume import Volume
from overseg.volume.lock import Lock, locked
from overseg.volume.state import UNDOING, UNDONE, Entry, State, read_state, write_state

if TYPE_CHECKING:
    from overseg.cluster.executor import Executor
    from overseg.settings import RunSettings


def undo(
    folder: str | Path,
    run: RunSettings,
    *,
    only_unchanged: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
    volume: Volume | None = None,
    plan: PlanData | None = None,
) -> Result:
    """Restore every voxel, attribute and metadata file that a plan changed.

    Works on a plan that is half applied, applied or half undone; killed, it goes on when run again.

    Parameters
    ----------
    folder : str or Path
        The plan folder; it holds the journal.
    run : RunSettings
        `break_lock` is looked at.
    only_unchanged : bool
        Leave units alone that someone else changed since, instead of refusing.
    executor : Executor, optional
        Runs the tasks; this process when not given.
    progress : callable, optional
        Called as ``progress(step, done, total)``.
    volume : Volume, optional
        Where the volume is now, if not where the plan says: it was moved, or is a copy.
    plan : PlanData, optional
        What `read_plan` gave for the folder; read now when not given.

    Returns
    -------
    Result
        With no unit rewritten if the plan was undone already.

    Raises
    ------
    ChangedError
        If someone else changed a unit since; nothing is written then.
    PlanError
        If the plan was never applied, a later plan must be undone first, or the journal is damaged.
    LockedError
        If another run holds the volume.
    StorageError
        If the volume cannot be written.
    """
    start = time.monotonic()
    folder = Path(folder).resolve()
    plan = read_plan(folder) if plan is None else plan
    volume = open_plan_volume(plan, volume)
    volume.check_writable()
    with locked(volume, break_lock=run.break_lock) as lock:
        sweep(volume, everywhere=False)  # no late run puts a state in place after the look
        state = read_state(volume)
        entry = _entry(state, plan, volume, folder)
        written = 0
        left: list[str] = []
        if entry.phase != UNDONE:
            sweep(volume, everywhere=True)
            undoing = _Undo(folder, plan, volume, state, entry, lock)
            written, left = undoing.run(inline(executor), only_unchanged, progress)
    touched = int(plan.units.touched.sum())
    seconds = time.monotonic() - start
    return Result(plan.hash, volume.location, UNDONE, touched, written, 0, seconds, tuple(left))


def inline(executor: Executor | None) -> Executor:
    from overseg.cluster.executor import InlineExecutor
    from overseg.cluster.limits import available

    return executor if executor is not None else InlineExecutor(1, available().memory)


def _entry(state: State, plan: PlanData, volume: Volume, folder: Path) -> Entry:
    """The application that is to be undone; refuses what must not be."""
    entry = state.entry(plan.hash)
    if entry is None:
        raise PlanError(
            "this plan was never applied to this volume, so there is nothing to undo",
            where=f"{volume.location}, plan {folder}",
            remedy="`overseg show VOLUME` tells which plans were applied",
        )
    last = state.last
    if entry.phase != UNDONE and last is not None and last.run != entry.run:
        raise PlanError(
            "a later plan was applied on top of this one and must be undone first",
            where=f"{volume.location}, later plan {last.place}",
            remedy=f"`{command_line('undo', last.place)}`, then undo this one",
        )
    return entry


class _Undo:
    """One undo, step by step."""

    def __init__(
        self, folder: Path, plan: PlanData, volume: Volume, state: State, entry: Entry, lock: Lock
    ) -> None:
        self.plan, self.volume, self.state, self.entry, self.lock = plan, volume, state, entry, lock
        self.place = journal_folder(folder, entry)
        self.journal = read_journal(self.place)
        self.job = Job(str(folder), plan.hash, volume, str(self.place), uuid.uuid4().hex[:12], lock)

    def run(
        self, executor: Executor, only_unchanged: bool, progress: Progress | None
    ) -> tuple[int, list[str]]:
        """Check every unit, then restore; gives the number of units written and the names of those left."""
        _check_whole(self.journal, self.place, self.volume)
        check_memory(self.volume, executor)
        units = self._units()
        found: dict[int, dict[str, set[int]]] = {
            level: {"restore": set(), "changed": set()} for level in units
        }
        looks = executor.run("check", look, tasks(self.job, units), progress=progress, halve=halves)
        for _, receipt in looks:
            for kind, numbers in found[receipt["level"]].items():
                numbers.update(receipt[kind])
        left = self._refuse_changed(found, only_unchanged)
        todo = {
            level: [each for each in members if each.unit in found[level]["restore"]]
            for level, members in units.items()
        }
        self._set(UNDOING)
        written = 0
        for _, receipt in executor.run(
            "undo", put_back, tasks(self.job, todo), progress=progress, halve=halves
        ):
            written += receipt["written"]
        sweep(self.volume, everywhere=True)  # what workers left that died on the way
        remove_provenance(self.volume, self.plan.hash, self.journal.metas, self.lock)
        self._set(UNDONE)
        return written, left

    def _units(self) -> dict[int, list[Unit]]:
        """All units with a before-image, and those of level 0 of which nothing is known that should be."""
        levels: dict[int, set[int]] = {level: set() for level in range(len(self.volume.levels))}
        for level, unit in self.journal.images:
            levels[level].add(unit)
        touched = self.plan.units.unit[(self.plan.units.level == 0) & self.plan.units.touched]
        levels[0].update(unit for unit in touched.tolist() if (0, unit) not in self.journal.done)
        return {
            level: unit_list(self.plan, level, sorted(numbers), self.journal)
            for level, numbers in levels.items()
        }

    def _refuse_changed(self, found: dict[int, dict[str, set[int]]], only_unchanged: bool) -> list[str]:
        """Names of units that someone else changed; an error if that is not asked for."""
        changed = {level: sorted(kinds["changed"]) for level, kinds in found.items()}
        changed = {level: numbers for level, numbers in changed.items() if numbers}
        for level, numbers in changed.items():
            if only_unchanged:
                continue
            named = changed_error(self.volume, level, numbers)
            raise ChangedError(
                "voxels were changed since the plan was applied, by someone else; nothing was undone",
                where=named.where,
                remedy="undo the rest and keep those changes with --only-unchanged, or restore them first",
            )
        return [self.volume.unit_name(unit, level) for level, numbers in changed.items() for unit in numbers]

    def _set(self, phase: str) -> None:
        self.entry = replace(self.entry, phase=phase)
        self.state = self.state.with_entry(self.entry)
        write_state(self.volume, self.state, self.lock.check)


def _check_whole(journal: Journal, place: Path, volume: Volume) -> None:
    """Every unit that was written has its before-image. Raises `PlanError`."""
    for level, unit in journal.lost():
        raise no_record(place, volume.unit_name(unit, level))
