"""A plan or its application as a job array: for sites where nothing may run for as long as it takes.

1. prepare    cut the work, or check all that can be refused, and note it in the plan folder
2. tasks      each does its share on a machine of its own; killed and run again, it goes on
3. finish     the ordinary command: it finds what the tasks did, and does what they left

The scan of a plan is shared out, of its application the writing. What is noted are numbers, never code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from overseg.cluster import receipts
from overseg.cluster.part import ArrayExecutor, Ended
from overseg.errors import InputError, LockedError, OversegError, PlanError
from overseg.pipeline.apply import Application, check_journal_writable, entry_of, open_plan_volume
from overseg.pipeline.cut import Cut
from overseg.pipeline.durable import write_atomically
from overseg.pipeline.lifecycle import volume_of
from overseg.pipeline.plan import make_plan
from overseg.pipeline.planfile import read_plan
from overseg.pipeline.running import logged
from overseg.pipeline.work import Job, sweep, tasks, unit_list, write
from overseg.volume.faults import storage
from overseg.volume.lock import Lock, hold
from overseg.volume.state import APPLIED, read_state

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.pipeline.plandata import PlanData
    from overseg.settings import RunSettings, Settings
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]

_FILE = Path("run", "array.json")

#: Bytes for a task, where nobody said how many: the machine that prepares is not the one that works.
MEMORY = 4 << 30


@dataclass(frozen=True)
class Array:
    """What was prepared.

    Attributes
    ----------
    verb : {"plan", "apply"}
    tasks : int
        Of the array.
    memory : int
        Bytes for each.
    units : int
        Of the step that is shared out.
    todo : dict of str to list of int
        Write units by level, of an application.
    generation, token
        Of the lock that is held for it.
    """

    verb: str
    tasks: int
    memory: int
    units: int
    todo: dict[str, list[int]] = field(default_factory=dict)
    generation: int = 0
    token: str = ""

    def lock(self, volume: Volume) -> Lock:
        """The lock that is held for an application."""
        return Lock(volume, self.generation, self.token)


def prepare_plan(volume: Volume, settings: Settings, place: Path, count: int, memory: int) -> Array:
    """Cut a volume for the tasks of an array.

    Parameters
    ----------
    volume : Volume
    settings : Settings
    place : Path
        The plan folder.
    count : int
        Tasks of the array.
    memory : int
        Bytes for each.

    Returns
    -------
    Array

    Raises
    ------
    ResourceError
        If the memory does not do.
    """
    room = ArrayExecutor("scan", 0, count, memory).room
    run = place / "run"
    cut = Cut(volume, settings, room, count, run / "scan", receipts.read(run / "receipts", "scan"))
    array = Array("plan", count, memory, len(cut.tasks))
    _save(place, array)
    return array


def plan_task(
    volume: Volume, settings: Settings, place: Path, task: int, run: RunSettings, progress: Progress | None
) -> int:
    """One task's share of the scan; how many units it had. Raises as `make_plan` does."""
    array = load_array(place, "plan")
    executor = ArrayExecutor("scan", *_checked(task, array), array.memory)
    try:
        with logged(executor, f"plan --task {task}", place):
            make_plan(volume, settings, executor, place, progress=progress, device=run.device)
    except Ended as ended:
        return ended.units
    return 0


def prepare_apply(
    folder: Path,
    plan: PlanData,
    run: RunSettings,
    executor: Executor,
    count: int,
    progress: Progress | None,
    allow_partial: bool = False,
) -> Array:
    """Check all that can be refused, take the lock for the array, and note what is to be written.

    Parameters
    ----------
    folder : Path
        The plan folder.
    plan : PlanData
        What `read_plan` gave for it.
    run : RunSettings
        `break_lock` and `memory` are looked at.
    executor : Executor
        Runs the checks.
    count : int
        Tasks of the array.
    progress : callable, optional
    allow_partial : bool
        As for `overseg.pipeline.apply.apply`.

    Returns
    -------
    Array
        With no task if the plan was applied already.

    Raises
    ------
    OversegError
        As `overseg.pipeline.apply.apply` does.
    """
    volume = open_plan_volume(plan, volume_of(folder))
    check_journal_writable(folder)
    volume.check_writable()
    memory = run.memory or MEMORY
    state = read_state(volume)
    if entry_of(state, plan, folder, allow_partial).phase == APPLIED:
        return Array("apply", 0, memory, 0)
    lock = hold(volume, str(folder), break_lock=run.break_lock)
    try:
        sweep(volume, everywhere=True)  # no late run puts a state in place after the look
        state = read_state(volume)
        entry = entry_of(state, plan, folder)
        application = Application(folder, plan, volume, state, entry, lock)
        units, done = application.prepare(executor, progress)
        todo = {
            str(level): [each.unit for each in members if each.unit not in done[level]]
            for level, members in units.items()
        }
        batches = len(tasks(application.job, units, done))
        array = Array("apply", count, memory, batches, todo, lock.generation, lock.token)
        _save(folder, array)
    except BaseException:
        with suppress(OversegError):  # no array is there that could ever finish, and let go of it
            lock.release()
        raise
    return array


def apply_task(folder: Path, task: int, progress: Progress | None) -> int:
    """One task's share of the writing; how many batches it had.

    Raises
    ------
    LockedError
        If the array was prepared anew, finished, or its lock was broken.
    OversegError
        As `overseg.pipeline.work.write` does.
    """
    plan = read_plan(folder)
    volume = open_plan_volume(plan, volume_of(folder))
    if read_state(volume).phase(plan.hash) == APPLIED:
        return 0
    array = load_array(folder, "apply")
    executor = ArrayExecutor("write", *_checked(task, array), array.memory)
    array.lock(volume).check()
    try:
        with logged(executor, f"apply --task {task}", folder):
            write_units(folder, plan, volume, array, executor, progress)
    except Ended as ended:
        return ended.units
    return 0


def write_units(
    folder: Path, plan: PlanData, volume: Volume, array: Array, executor: Executor, progress: Progress | None
) -> None:
    """Do those units of the array's step that are the executor's. Raises as `apply_task` does."""
    state = read_state(volume)
    entry = entry_of(state, plan, folder)
    application = Application(folder, plan, volume, state, entry, array.lock(volume))
    job: Job = application.job
    units = {
        int(level): unit_list(plan, int(level), numbers, application.journal)
        for level, numbers in array.todo.items()
    }
    for _ in executor.run("write", write, tasks(job, units), progress=progress):
        pass


def holding(folder: Path, volume: Volume) -> Array | None:
    """The array for which the volume is held now, if it was prepared in this plan folder."""
    with suppress(PlanError, LockedError):
        array = load_array(folder, "apply")
        array.lock(volume).check()
        return array
    return None


def load_array(folder: Path, verb: str) -> Array:
    """What was prepared in a plan folder.

    Raises
    ------
    PlanError
        If nothing was, or something else.
    """
    path = folder / _FILE
    try:
        array = Array(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise _unprepared(folder, verb, "nothing was prepared for a job array here") from None
    except (OSError, ValueError, TypeError) as error:
        raise _unprepared(folder, verb, f"the note of the job array is damaged: {error}") from None
    if array.verb != verb:
        raise _unprepared(folder, verb, f"what was prepared here is for `overseg {array.verb}`")
    return array


def forget_array(folder: Path) -> None:
    """The array's work is done."""
    (folder / _FILE).unlink(missing_ok=True)


def _unprepared(folder: Path, verb: str, what: str) -> PlanError:
    if verb == "plan":
        remedy = "begin with `overseg plan VOLUME --prepare N`, with the same options and --out"
    else:
        remedy = "begin with `overseg apply PLAN --prepare N`"
    return PlanError(what, where=str(folder), remedy=remedy)


def _checked(task: int, array: Array) -> tuple[int, int]:
    if not 0 <= task < array.tasks:
        raise InputError(
            f"there is no task {task}: {array.tasks} were prepared",
            where="--task",
            remedy=f"number the tasks of the array 0 to {array.tasks - 1}",
        )
    return task, array.tasks


def _save(folder: Path, array: Array) -> None:
    path = folder / _FILE
    with storage("cannot write into the plan folder", str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(array)).encode())
