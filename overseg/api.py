"""The public functions: what a script or a notebook calls, and what the command line is a thin cover of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.errors import InputError
from overseg.pipeline import lifecycle, places
from overseg.pipeline.request import Request
from overseg.pipeline.result import Plan
from overseg.pipeline.running import running
from overseg.pipeline.running import tasks_hint as units_hint
from overseg.pipeline.unread import partial_error
from overseg.settings import RunSettings, Settings, build, build_run, canonical

if TYPE_CHECKING:
    from overseg.pipeline.verify import Verification
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]


def plan(
    volume: Any,
    *,
    out: str | Path | None = None,
    client: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Find and decide, and write the plan; the volume is not changed.

    Parameters
    ----------
    volume : str, Path, zarr.Array, zarr.Group or ndarray
        A label volume (z, y, x) of any non-negative integer type: a path or URL of a Zarr array or an
        OME-Zarr group, an open array or group, or an array in memory.
    out : path, optional
        The plan folder; ``NAME.overseg`` beside the volume when not given.
    client : distributed.Client, optional
        A running Dask cluster to work on.
    progress : callable, optional
        Called as ``progress(step, done, total)``.
    **options
        Fields of `overseg.settings.Settings` and `overseg.settings.RunSettings`.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        If the volume, the model or an option cannot be used.
    LockedError
        If another run is planning into the same folder.
    """
    settings, run = build(**options)
    if isinstance(volume, np.ndarray):
        return _in_memory(volume, settings, run, out, progress, write=False)[1]
    opened = _open(volume, settings)
    lifecycle.refuse_unfinished(opened)
    return _make(opened, settings, run, lifecycle.place_for(opened, settings, out), client, progress)


def apply(
    plan: str | Path | Plan,
    *,
    finish: bool = False,
    allow_partial: bool = False,
    client: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Write a plan's corrections into its volume, in place; after an interruption, go on.

    Parameters
    ----------
    plan : str, Path or Plan
        A finished plan.
    finish : bool
        Finish the work of a job array that `overseg.jobarray.prepare_apply` began.
    allow_partial : bool
        Write a plan with `Plan.unread` units: labels near them are left alone.
    client, progress
        As for `plan`.
    **options
        Fields of `overseg.settings.RunSettings`.

    Returns
    -------
    Plan
        With the number of write units that were rewritten; 0 if the plan was applied already.

    Raises
    ------
    PlanError
        If the plan is missing, unfinished, damaged, or made for another volume.
    ChangedError
        If the volume changed since the plan was made.
    LockedError
        If another run holds the volume.
    StorageError
        If the store refuses to write.
    """
    folder = (plan.path if isinstance(plan, Plan) else Path(plan)).absolute()
    run, volume = build_run(**options), lifecycle.volume_of(folder)
    return _apply(folder, run, client, progress, volume, finish=finish, allow_partial=allow_partial)


def correct(
    volume: Any,
    *,
    output: str | Path | None = None,
    out: str | Path | None = None,
    client: Any = None,
    progress: Progress | None = None,
    confirm: Callable[[Plan], bool] | None = None,
    **options: Any,
) -> Any:
    """Plan and apply: the volume is corrected in place, or a copy of it with `output`.

    Run again after any interruption, it goes on where it stopped.

    Parameters
    ----------
    volume : str, Path, zarr.Array, zarr.Group or ndarray
        As for `plan`.
    output : str or Path, optional
        Where to put a corrected copy; the volume is left alone.
    out, client, progress
        As for `plan`.
    confirm : callable, optional
        Asked with the plan before anything is written; on False the plan is returned unapplied.
    **options
        Fields of `overseg.settings.Settings` and `overseg.settings.RunSettings`.

    Returns
    -------
    Plan, or tuple of ndarray and Plan
        The second for an array in memory, which itself is never changed.

    Raises
    ------
    OversegError
        As for `plan` and `apply`.

    Examples
    --------
    >>> import numpy as np, overseg
    >>> labels = np.zeros((9, 16, 16), np.uint16)
    >>> labels[:, 3:13, 3:13] = 1
    >>> corrected, plan = overseg.correct(labels)
    >>> plan.summary()["candidates"], bool((corrected == labels).all())
    (0, True)
    """
    from overseg.cluster import jobs_for_both
    from overseg.volume.lock import locked

    settings, run = build(**options)
    if isinstance(volume, np.ndarray):
        if output is not None:
            raise InputError("an array in memory has no copy on disk", where="output", remedy="leave it out")
        return _in_memory(volume, settings, run, out, progress, write=True)
    opened = _open(volume, settings)
    if output is not None:
        target = str(output) if "://" in str(output) else str(Path(output).absolute())
        copy_place = places.default_place(target) if out is None else Path(out).absolute()
        opened = lifecycle.copy_of(opened, target, copy_place, settings)
    started = lifecycle.started(opened)
    with ExitStack() as held:
        if started is not None:
            made = lifecycle.load(started)
        else:
            lifecycle.refuse_unfinished(opened)
            opened.check_writable()
            with locked(opened, break_lock=run.break_lock):
                pass  # who cannot write in the end should know before the scan
            done = _already(opened, settings, run, client)
            if done is not None:
                lifecycle.copy_is_done(done.path)
                return done
            place = lifecycle.place_for(opened, settings, out)
            client = held.enter_context(jobs_for_both(run, client, place / "run"))
            made = _make(opened, settings, run, place, client, progress)
            if made.unread:
                raise partial_error(made.data, made.path, "nothing was changed, since the plan is partial")
            if confirm is not None and not confirm(made):
                return made
        place, peak = made.path, made.peak_rss_bytes
        del made  # apply reads what was written: no plan is to be held twice
        finished = _apply(place, run, client, progress, opened)
    if output is not None:
        lifecycle.copy_is_done(place)
    return replace(finished, peak_rss_bytes=max(peak, finished.peak_rss_bytes))


def verify(
    plan: str | Path | Plan, *, client: Any = None, progress: Progress | None = None, **options: Any
) -> Verification:
    """Prove that only listed voxels changed, and that those became what the plan says.

    Parameters
    ----------
    plan : str, Path or Plan
        A finished plan, applied or not.
    client, progress
        As for `plan`.
    **options
        Fields of `overseg.settings.RunSettings`.

    Returns
    -------
    Verification
        `ok`, and the problems found by unit and voxel.

    Raises
    ------
    PlanError
        If the plan is missing or damaged.
    """
    folder = plan.path if isinstance(plan, Plan) else Path(plan)
    return _verify(folder, build_run(**options), client, progress, lifecycle.volume_of(folder))


def undo(
    target: Any,
    *,
    only_unchanged: bool = False,
    label: str | None = None,
    client: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Restore every voxel, attribute and metadata file that a plan changed; the last plan first.

    Parameters
    ----------
    target : str, Path, Plan, zarr.Array or zarr.Group
        The plan, or the volume whose last plan is meant.
    only_unchanged : bool
        Leave units alone that someone else changed since, instead of refusing.
    label : str, optional
        Which labels of an image group.
    client, progress
        As for `plan`.
    **options
        Fields of `overseg.settings.RunSettings`.

    Returns
    -------
    Plan

    Raises
    ------
    ChangedError
        If a unit was changed by someone else since; nothing is written then.
    PlanError
        If there is nothing to undo, or a later plan must be undone first.
    """
    from overseg.pipeline.undo import undo as run_undo

    named = target.path if isinstance(target, Plan) else target
    folder, volume = lifecycle.plan_of(named, label)
    made = lifecycle.load(folder)
    run = build_run(**options)
    asked = Request("undo", made.data.volume["location"], {})
    hint = units_hint(int(made.data.units.touched.sum()))
    with running(run, client, hint, "undo", folder, asked) as executor:
        result = run_undo(
            folder,
            run,
            only_unchanged=only_unchanged,
            executor=executor,
            progress=progress,
            volume=volume,
            plan=made.data,
        )
        peak = executor.peak_rss_bytes
    spent = (("undo", round(result.seconds, 4)),)
    return replace(made, rewritten=result.units_rewritten, phase="undone", seconds=spent, peak_rss_bytes=peak)


def _open(volume: Any, settings: Settings) -> Volume:
    from overseg.volume import open_volume

    return open_volume(volume, label=settings.label, voxel_size=settings.voxel_size)


def _make(
    volume: Volume, settings: Settings, run: RunSettings, place: Path, client: Any, progress: Progress | None
) -> Plan:
    from overseg.pipeline.claim import claimed
    from overseg.pipeline.plan import make_plan, tasks_hint
    from overseg.pipeline.planfile import read_header, write_plan

    asked = Request("plan", volume.location, canonical(settings), run.device)
    hint = tasks_hint(volume, settings)
    with claimed(place):
        with running(run, client, hint, "plan", place, asked) as executor:
            data = make_plan(volume, settings, executor, place, progress=progress, device=run.device)
            peak = executor.peak_rss_bytes
        if (place / "plan" / "plan.json").exists() and read_header(place)["plan_hash"] != data.hash:
            place = places.next_place(place)  # the volume changed since that plan was made
        write_plan(place, data)
    return Plan(place, data, peak_rss_bytes=peak)


def _apply(
    folder: Path,
    run: RunSettings,
    client: Any,
    progress: Progress | None,
    volume: Volume | None = None,
    *,
    finish: bool = False,
    allow_partial: bool = False,
) -> Plan:
    """Apply to the plan's volume, or to the one given: that volume moved, or a copy of it."""
    from overseg.pipeline.apply import apply as run_apply
    from overseg.pipeline.batch import forget_array, load_array
    from overseg.pipeline.planfile import read_plan

    data = read_plan(folder)
    asked = Request("apply", data.volume["location"], {})
    hint = units_hint(int(data.units.touched.sum()))
    with running(run, client, hint, "apply", folder, asked) as executor:
        array = load_array(folder, "apply").lock if finish else None
        result = run_apply(
            folder, run, executor, progress=progress, volume=volume, plan=data, array=array,
            allow_partial=allow_partial,
        )  # fmt: skip
        forget_array(folder)
        peak = executor.peak_rss_bytes
    return Plan(folder, data, result.units_rewritten, peak, "applied", (("apply", round(result.seconds, 4)),))


def _verify(
    folder: Path, run: RunSettings, client: Any, progress: Progress | None, volume: Volume | None = None
) -> Verification:
    from overseg.pipeline.planfile import read_header
    from overseg.pipeline.verify import verify as run_verify

    units = read_header(folder)["counts"].get("units_total", 0)
    with running(run, client, units_hint(units), "verify", folder) as executor:
        return run_verify(folder, executor=executor, progress=progress, volume=volume)


def _already(volume: Volume, settings: Settings, run: RunSettings, client: Any) -> Plan | None:
    """The plan that corrected this volume with these settings, if every voxel still is as it left them."""
    from overseg.cluster.limits import peak_rss
    from overseg.volume.state import find_place, read_state

    last = read_state(volume).last
    if last is None or last.phase != "applied" or find_place(last, volume) is None:
        return None
    made = lifecycle.load(lifecycle.find(last, volume))
    if made.unread:  # it may be restored by now
        return None
    if made.data.settings != canonical(settings) or not _verify(made.path, run, client, None, volume).ok:
        return None
    return replace(made, peak_rss_bytes=peak_rss())


def _in_memory(
    array: np.ndarray[Any, Any],
    settings: Settings,
    run: RunSettings,
    out: str | Path | None,
    progress: Progress | None,
    *,
    write: bool,
) -> tuple[np.ndarray[Any, Any], Plan]:
    """Plan, and apply, on a temporary Zarr copy that lives as long as the plan: one code path for all."""
    from overseg.cluster.held import refuse_jobs
    from overseg.volume.arrays import check_array, store_array

    check_array(array)
    refuse_jobs(run)
    keeper = _Keeper()
    path = places.temporary_folder(keeper) / "array.zarr"
    store_array(path, array, settings.voxel_size)
    volume = _open(path, settings)
    made = _make(volume, settings, run, lifecycle.place_for(volume, settings, out), None, progress)
    if write:
        made = _apply(made.path, run, None, progress, volume)
    object.__setattr__(made, "_keeper", keeper)
    corrected = volume.read((slice(0, array.shape[0]), slice(0, array.shape[1]), slice(0, array.shape[2])))
    return corrected.astype(array.dtype, copy=False), made


class _Keeper:
    """Owns a temporary folder for as long as the plan in it is held."""
