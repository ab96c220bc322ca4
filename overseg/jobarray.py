"""A plan, or its application, in parts: as the tasks of a batch system's job array, or one unit alone.

`prepare_plan`, then `plan_task` for each task, then `overseg.plan`; for the second half `prepare_apply`,
`apply_task` and ``overseg.apply(plan, finish=True)``. The answer is the same as in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overseg.errors import InputError, PlanError
from overseg.pipeline import batch, lifecycle
from overseg.pipeline.planfile import read_plan
from overseg.pipeline.request import Request, load_request
from overseg.pipeline.running import logged, running
from overseg.settings import Settings, build, build_run, canonical

if TYPE_CHECKING:
    from overseg.pipeline.batch import Array
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Part:
    """What a part of a run did.

    Attributes
    ----------
    plan : str
        The plan folder.
    step : str
        Of which it is a part.
    units : int
        Of that step that it had.
    """

    plan: str
    step: str
    units: int


def prepare_plan(
    volume: Any, tasks: int, *, out: str | Path | None = None, **options: Any
) -> tuple[Path, Array]:
    """Cut a volume for the tasks of a job array; nothing is read but metadata.

    Parameters
    ----------
    volume : str, Path, zarr.Array or zarr.Group
        As for `overseg.plan`; on storage that all tasks see.
    tasks : int
        How many, at most.
    out : path, optional
        The plan folder.
    **options
        Fields of `overseg.settings.Settings` and `overseg.settings.RunSettings`, the same for all parts;
        `memory` is what a task may use, 4 GiB when not given.

    Returns
    -------
    tuple of Path and Array
        The plan folder, and how many tasks there are to run.

    Raises
    ------
    InputError
        If the volume or an option cannot be used.
    ResourceError
        If the memory does not do.
    """
    settings, run = build(**options)
    opened = _open(volume, settings)
    place = lifecycle.place_for(opened, settings, out)
    if tasks < 1:
        raise InputError(f"{tasks} tasks do nothing", where="--prepare", remedy="give one or more")
    array = batch.prepare_plan(opened, settings, place, tasks, run.memory or batch.MEMORY)
    Request("plan", opened.location, canonical(settings), run.device).save(place)
    return place, array


def plan_task(
    volume: Any, task: int, *, out: str | Path | None = None, progress: Progress | None = None, **options: Any
) -> Part:
    """One task of a job array: its share of the scan.

    Parameters
    ----------
    volume, out, **options
        The same as for `prepare_plan`.
    task : int
        Which, from 0.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    Part

    Raises
    ------
    PlanError
        If nothing was prepared, or with other settings.
    OversegError
        As `overseg.plan` does.
    """
    place, opened = check_prepared(volume, out=out, **options)
    settings, run = build(**options)
    return Part(str(place), "scan", batch.plan_task(opened, settings, place, task, run, progress))


def check_prepared(volume: Any, *, out: str | Path | None = None, **options: Any) -> tuple[Path, Volume]:
    """Refuse options that are not those with which a job array was prepared.

    Parameters
    ----------
    volume, out, **options
        The same as for `prepare_plan`.

    Returns
    -------
    tuple of Path and Volume
        The plan folder, and the volume.

    Raises
    ------
    PlanError
        If nothing was prepared, or with other settings.
    """
    settings, _ = build(**options)
    opened = _open(volume, settings)
    place = lifecycle.place_for(opened, settings, out)
    batch.load_array(place, "plan")
    asked = load_request(place)
    if (asked.volume, asked.settings) != (opened.location, canonical(settings)):
        raise PlanError(
            "the job array was prepared for another volume, or with other settings",
            where=str(place),
            remedy="give each part the same options, or prepare anew",
        )
    return place, opened


def prepare_apply(
    plan: str | Path,
    tasks: int,
    *,
    allow_partial: bool = False,
    client: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Array:
    """Check all that can be refused, and take the volume for the tasks of a job array.

    Parameters
    ----------
    plan : str or Path
        A finished plan.
    tasks : int
        How many, at most.
    allow_partial, client, progress
        As for `overseg.apply`.
    **options
        Fields of `overseg.settings.RunSettings`; `memory` is what a task may use.

    Returns
    -------
    Array

    Raises
    ------
    OversegError
        As `overseg.apply` does.
    """
    folder, run = Path(plan).absolute(), build_run(**options)
    if tasks < 1:
        raise InputError(f"{tasks} tasks do nothing", where="--prepare", remedy="give one or more")
    data = read_plan(folder)
    asked = Request("apply", data.volume["location"], {})
    with running(run, client, 1, "apply --prepare", folder, asked) as executor:
        return batch.prepare_apply(folder.resolve(), data, run, executor, tasks, progress, allow_partial)


def apply_task(plan: str | Path, task: int, *, progress: Progress | None = None) -> Part:
    """One task of a job array: its share of the writing.

    Parameters
    ----------
    plan : str or Path
        The plan folder.
    task : int
        Which, from 0.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    Part

    Raises
    ------
    LockedError
        If the volume is not held for this array any more.
    OversegError
        As `overseg.apply` does.
    """
    folder = Path(plan).absolute()
    return Part(str(folder), "write", batch.apply_task(folder.resolve(), task, progress))


def again(plan: str | Path, unit: str, *, progress: Progress | None = None) -> Part:
    """Run one unit that failed once more, alone and in this process; what it raises is raised.

    Parameters
    ----------
    plan : str or Path
        The plan folder.
    unit : str
        ``STEP/UNIT``, as ``run/quarantine.jsonl`` names it.
    progress : callable, optional
        Called as ``progress(step, done, total)``, for what has to be done before.

    Returns
    -------
    Part

    Raises
    ------
    OversegError
        As the unit does, with its traceback.
    """
    from overseg.cluster import limits
    from overseg.cluster.part import AloneExecutor, Ended

    folder = Path(plan).absolute()
    step, _, name = unit.partition("/")
    if not name:
        raise InputError(
            f"{unit!r} names no unit",
            where=str(folder),
            remedy="write STEP/UNIT, as run/quarantine.jsonl has it",
        )
    asked = load_request(folder)
    executor = AloneExecutor(step, name, limits.available().memory)
    try:
        with logged(executor, f"again {unit}", folder):
            _repeat(asked, folder, executor, progress)
    except Ended as ended:
        return Part(str(folder), ended.step, ended.units)
    raise InputError(
        f"there is nothing left to do in step '{step}'",
        where=f"{folder}, {unit}",
        remedy="run the whole command again: it goes on from there",
    )


def _repeat(asked: Request, folder: Path, executor: Any, progress: Progress | None) -> None:
    from overseg.pipeline.apply import apply, open_plan_volume
    from overseg.pipeline.plan import make_plan
    from overseg.pipeline.undo import undo

    if asked.verb == "plan":
        settings, run = build(**asked.settings, device=asked.device)
        make_plan(
            _open(asked.volume, settings), settings, executor, folder, progress=progress, device=run.device
        )
        return
    _, run = build()
    plan = read_plan(folder)
    volume = open_plan_volume(plan, lifecycle.volume_of(folder))
    if asked.verb != "apply":
        undo(folder, run, executor=executor, progress=progress, volume=volume, plan=plan)
    elif (array := batch.holding(folder, volume)) is not None:
        batch.write_units(folder, plan, volume, array, executor, progress)
    else:
        apply(folder, run, executor, progress=progress, volume=volume, plan=plan, allow_partial=True)


def _open(volume: Any, settings: Settings) -> Volume:
    from overseg.volume import open_volume

    opened = open_volume(volume, label=settings.label, voxel_size=settings.voxel_size)
    lifecycle.refuse_unfinished(opened)
    return opened
