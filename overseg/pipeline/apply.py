"""Apply: write a plan's corrections into its volume, in place, so that a kill at any moment loses nothing.

Everything is checked before the first byte is written. Then every touched unit of every level is journalled,
written and marked; a unit's own digest says, after an interruption, what is left to do.
"""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.errors import PlanError, ResourceError, StorageError, command_line, more_memory
from overseg.pipeline import journal as journals
from overseg.pipeline.halves import halving
from overseg.pipeline.journal import Segment, read_journal
from overseg.pipeline.plandata import PlanData
from overseg.pipeline.planfile import read_plan
from overseg.pipeline.provenance import write_provenance
from overseg.pipeline.remap import touched_units
from overseg.pipeline.stamps import read_stamps
from overseg.pipeline.unread import partial_error
from overseg.pipeline.work import (
    Job,
    Unit,
    check,
    halves,
    peak_bytes,
    rewritten,
    sweep,
    tasks,
    unit_list,
    write,
)
from overseg.volume import Volume, open_volume
from overseg.volume.lock import Lock, locked
from overseg.volume.state import (
    APPLIED,
    APPLYING,
    PLANNED,
    UNDOING,
    UNDONE,
    Entry,
    State,
    read_state,
    write_state,
)

if TYPE_CHECKING:
    from overseg.cluster.executor import Executor
    from overseg.settings import RunSettings

Progress = Callable[[str, int, int], None]
_STAMPS = 1024  # that are looked at in one task


@dataclass(frozen=True)
class Result:
    """What an apply or an undo did.

    Attributes
    ----------
    plan_hash : str
    location : str
        Of the volume.
    phase : str
        Of the plan on this volume, now.
    units_touched : int
        Units of all levels that may hold a changed voxel.
    units_rewritten : int
        Units written by this call.
    voxels_changed : int
        Voxels changed by this call, all levels.
    seconds : float
        Wall-clock time.
    units_left : tuple of str
        Units that an undo left alone because someone else changed them.
    """

    plan_hash: str
    location: str
    phase: str
    units_touched: int
    units_rewritten: int
    voxels_changed: int
    seconds: float
    units_left: tuple[str, ...] = ()


def apply(
    folder: str | Path,
    run: RunSettings,
    executor: Executor,
    *,
    progress: Progress | None = None,
    volume: Volume | None = None,
    plan: PlanData | None = None,
    array: Callable[[Volume], Lock] | None = None,
    allow_partial: bool = False,
) -> Result:
    """Write a plan's corrections into its volume; after an interruption, go on.

    Parameters
    ----------
    folder : str or Path
        The plan folder.
    run : RunSettings
        `break_lock` is looked at.
    executor : Executor
        Runs the tasks.
    progress : callable, optional
        Called as ``progress(step, done, total)``.
    volume : Volume, optional
        Where the plan's volume is now, if not where the plan says.
    plan : PlanData, optional
        What `read_plan` gave for the folder; read now when not given.
    array : callable, optional
        Gives the lock that is held for a job array whose work is finished here.
    allow_partial : bool
        Begin also where the plan leaves labels alone since some write units cannot be decoded.

    Returns
    -------
    Result
        With no unit rewritten if the plan was applied already.

    Raises
    ------
    PlanError
        If the plan is missing, damaged or for another volume, or another plan is half applied.
    ChangedError
        If the volume changed since the plan was made.
    LockedError
        If another run holds the volume.
    StorageError
        If volume or journal cannot be written, or the disk is too full for the journal.
    ResourceError
        If a unit does not fit a worker's memory.
    """
    start = time.monotonic()
    folder = Path(folder).resolve()
    plan = read_plan(folder) if plan is None else plan
    volume = open_plan_volume(plan, volume)
    check_journal_writable(folder)
    volume.check_writable()
    held = None if array is None else array(volume)
    with locked(volume, break_lock=run.break_lock, held=held) as lock:
        sweep(volume, everywhere=False)  # no late run puts a state in place after the look
        state = read_state(volume)
        entry = entry_of(state, plan, folder, allow_partial)
        if entry.phase != APPLIED:
            sweep(volume, everywhere=True)
        applying = Application(folder, plan, volume, state, entry, lock)
        written, voxels = applying.run(executor, progress)
    touched = sum(len(numbers) for numbers in applying.units.values())
    seconds = time.monotonic() - start
    return Result(plan.hash, volume.location, APPLIED, touched, written, voxels, seconds)


def open_plan_volume(plan: PlanData, volume: Volume | None) -> Volume:
    """The plan's volume, if it still has the plan's shape and type. Raises `PlanError`."""
    found = volume if volume is not None else open_volume(plan.volume["location"])
    facts = {"shape": tuple(found.shape), "axes": tuple(found.axes), "dtype": str(found.dtype)}
    for name, now in facts.items():
        then = plan.volume[name]
        then = then if isinstance(then, str) else tuple(then)
        if now != then:
            raise PlanError(
                f"the plan is for another volume: its {name} is {then}, here it is {now}",
                where=found.location,
                remedy="apply the plan to the volume it was made for, or make a plan for this one",
            )
    then_units = [tuple(level["unit_shape"]) for level in plan.volume["levels"][:1]]
    if then_units not in ([], [found.levels[0].unit_shape]):
        raise PlanError(
            "the volume was stored anew in other chunks since the plan was made",
            where=found.location,
            remedy="make a new plan: it gives the same corrections",
        )
    return found


def journal_folder(folder: Path, entry: Entry) -> Path:
    """Where the journal of one application lies."""
    return folder / "run" / "journal" / entry.run


def check_journal_writable(folder: Path) -> None:
    """Prove that the plan folder takes a journal. Raises `StorageError`."""
    home = folder / "run" / "journal"
    probe = home / f".probe-{uuid.uuid4().hex}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"overseg")
    except OSError as error:
        raise journals.cannot_write(home, error) from None
    finally:
        if probe.exists():
            probe.unlink()


def check_memory(volume: Volume, executor: Executor) -> None:
    """Refuse before the first task what would not fit a worker. Raises `ResourceError`."""
    need = peak_bytes(volume)
    if need > executor.memory:
        raise ResourceError(
            f"one write unit needs about {need / 2**30:.1f} GiB to be corrected, "
            f"a worker has {executor.memory / 2**30:.1f} GiB",
            where=volume.location,
            remedy=more_memory(need),
        )


def entry_of(state: State, plan: PlanData, folder: Path, allow_partial: bool = True) -> Entry:
    """This plan's place in the volume's past; refuses what must not be applied now."""
    if plan.unread and not allow_partial and state.phase(plan.hash) in (PLANNED, UNDONE):
        raise partial_error(plan, folder, "the plan is partial")
    last, own = state.last, state.entry(plan.hash)
    if last is not None and last.unfinished and last.plan_hash != plan.hash:
        word = "applied" if last.phase == APPLYING else "undone"
        command = "apply" if last.phase == APPLYING else "undo"
        raise PlanError(
            f"another plan was being {word} when its run ended",
            where=f"{state.location}, plan {last.place}",
            remedy=f"finish it first: `{command_line(command, last.place)}`",
        )
    if own is not None and own.phase == UNDOING:
        raise PlanError(
            "this plan is half undone",
            where=f"{state.location}, plan {folder}",
            remedy=f"finish that first: `{command_line('undo', folder)}`; then it can be applied again",
        )
    if own is None or own.phase == UNDONE:
        return Entry(plan.hash, str(folder), "planned", uuid.uuid4().hex[:12])
    return replace(own, place=str(folder))


class Application:
    """One application, step by step."""

    def __init__(
        self, folder: Path, plan: PlanData, volume: Volume, state: State, entry: Entry, lock: Lock
    ) -> None:
        self.folder, self.plan, self.volume = folder, plan, volume
        self.state, self.entry, self.lock = state, entry, lock
        self.units = _touched(plan, volume)
        self.place = journal_folder(folder, entry)
        self.journal = read_journal(self.place)
        self.attempt = uuid.uuid4().hex[:12]
        self.job = Job(str(folder), plan.hash, volume, str(self.place), self.attempt, lock)

    def run(self, executor: Executor, progress: Progress | None) -> tuple[int, int]:
        """Do what is not done yet; gives the numbers of units written and of voxels changed."""
        written, voxels = 0, 0
        if self.entry.phase != APPLIED:
            todo = tasks(self.job, *self.prepare(executor, progress))
            for _, receipt in executor.run("write", write, todo, progress=progress, halve=halves):
                written, voxels = written + receipt["written"], voxels + receipt["voxels"]
            sweep(self.volume, everywhere=True)  # what workers left that died on the way
            self._set(phase=APPLIED, date=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        if not self.entry.noted:
            self._note()
            self._set(noted=True)
        return written, voxels

    def prepare(
        self, executor: Executor, progress: Progress | None
    ) -> tuple[dict[int, list[Unit]], dict[int, set[int]]]:
        """Refuse what can be refused, say that it begins; gives touched units, and those that are done."""
        found = self._check(executor, progress)
        self._set(phase=APPLYING)
        return found

    def _check(
        self, executor: Executor, progress: Progress | None
    ) -> tuple[dict[int, list[Unit]], dict[int, set[int]]]:
        check_memory(self.volume, executor)
        _check_range(self.plan, self.volume)
        units = {
            level: unit_list(self.plan, level, numbers, self.journal) for level, numbers in self.units.items()
        }
        sure = self._as_scanned(units[0], executor, progress)
        unsure = {
            level: [each for each in members if level or each.unit not in sure]
            for level, members in units.items()
        }
        done: dict[int, set[int]] = {level: set() for level in units}
        runs = _expected_runs(self.plan, self.volume, len(sure))
        checks = executor.run("check", check, tasks(self.job, unsure), progress=progress, halve=halves)
        for _, receipt in checks:
            runs += receipt["runs"]
            done[receipt["level"]].update(receipt["done"])
        _check_space(self.folder, runs)
        return units, done

    def _as_scanned(self, units: list[Unit], executor: Executor, progress: Progress | None) -> set[int]:
        """Units of level 0 that nobody stored anew since the scan read them: they are as planned.

        Whether that is true is seen once more, from their digests, when they are written.
        """
        if self.entry.phase == APPLYING:
            return set()
        planned = {each.unit: each.planned for each in units if each.planned is not None}
        known = read_stamps(self.folder / "run" / "scan", planned)
        rows = [(unit, tuple(stamps)) for unit, stamps in known.items()]
        looks = {
            f"units {rows[at][0]} and on": (self.volume, tuple(rows[at : at + _STAMPS]))
            for at in range(0, len(rows), _STAMPS)
        }
        for _, receipt in executor.run("stamps", rewritten, looks, progress=progress, halve=halving()):
            for unit in receipt["units"]:
                del known[unit]
        return set(known)

    def _note(self) -> None:
        """Provenance, journalled like everything else."""
        from importlib.metadata import version

        fills = self.plan.fills
        note = {
            "version": version("overseg"),
            "date": self.entry.date,
            "labels_merged": len(self.plan.merges.old),
            "voxels_filled": int((fills.x1 - fills.x0).sum()),
        }
        with Segment(self.place, self.attempt) as segment:
            write_provenance(self.volume, self.plan.hash, note, self.journal.metas, segment, self.lock)

    def _set(self, **changes: Any) -> None:
        self.entry = replace(self.entry, **changes)
        self.state = self.state.with_entry(self.entry)
        write_state(self.volume, self.state, self.lock.check)


def _touched(plan: PlanData, volume: Volume) -> dict[int, list[int]]:
    """Touched units by level."""
    rows = (plan.units.level == 0) & plan.units.touched
    touched = np.zeros(volume.grid(0).n, bool)
    touched[plan.units.unit[rows]] = True
    units = {0: np.flatnonzero(touched).tolist()}
    for level in range(1, len(volume.levels)):
        units[level] = touched_units(volume, level, touched).tolist()
    return units


def _check_range(plan: PlanData, volume: Volume) -> None:
    labels = [int(column.max()) for column in (plan.fills.new, plan.merges.new) if len(column)]
    for level in volume.levels:
        if labels and max(labels) > np.iinfo(level.dtype).max:
            raise PlanError(
                f"label {max(labels)} does not fit {level.dtype}, the integer type of level {level.path!r}",
                where=volume.location,
                remedy="write that level again with the integer type of the full resolution",
            )


def _expected_runs(plan: PlanData, volume: Volume, units: int) -> int:
    """About how many runs will change in units that are not read before they are written: rather too many.

    A relabelled part as large as the mean cell has some ``1.2 v^(2/3)`` rows. In tissue a run of one label is
    20 to 40 voxels long.
    """
    voxels = units * math.prod(volume.levels[0].unit_shape)
    cell = math.prod(volume.shape) * volume.n_times / max(1, plan.counts.get("cells", 1))
    merged = 3 * len(plan.merges.old) * cell ** (2 / 3)
    return min(int(merged) + 3 * len(plan.fills.new), voxels // 8)


def _check_space(folder: Path, runs: int) -> None:
    """Refuse to start what the journal's disk cannot hold."""
    need = runs * journals.BYTES_PER_RUN + (1 << 20)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise StorageError(
            f"the journal may need {need / 2**20:,.0f} MiB, the disk has {free / 2**20:,.0f} MiB free",
            where=str(folder),
            remedy="free disk space, or move the plan folder to a larger disk, and apply it from there",
        )
