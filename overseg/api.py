"""The public functions: what a script or a notebook calls, and what the command line is a thin cover of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg import places
from overseg.errors import InputError, PlanError
from overseg.settings import RunSettings, Settings, build, canonical

if TYPE_CHECKING:
    import pyarrow as pa

    from overseg.pipeline.plandata import PlanData
    from overseg.pipeline.verify import Verification
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan on disk: what was found in a volume, what was decided, and what will change or has changed.

    Attributes
    ----------
    path : Path
        The plan folder, which a person can read.
    data : PlanData
        Its contents.
    rewritten : int
        Write units that the call which gave this plan has written.
    peak_rss_bytes : int
        Largest single process of that call, in bytes.
    phase : str
        ``planned``, ``applying``, ``applied``, ``undoing`` or ``undone``.
    """

    path: Path
    data: PlanData
    rewritten: int = 0
    peak_rss_bytes: int = 0
    phase: str = "planned"
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def hash(self) -> str:
        """Names the answer: equal for equal answers, whatever the layout of the volume or the cluster."""
        return self.data.hash

    @property
    def candidates(self) -> pa.Table:
        """Every candidate with its features, probability, decision and reason, as an Arrow table."""
        return self.data.candidates

    @property
    def warnings(self) -> list[str]:
        """What the user should know about the volume or the decisions."""
        return list(self.data.warnings)

    def summary(self) -> dict[str, Any]:
        """The plan in numbers, as ``--json`` prints it."""
        return {
            "volume": self.data.volume["location"],
            "plan": str(self.path),
            "plan_hash": self.data.hash,
            "phase": self.phase,
            **self.data.counts,
            "units_rewritten": self.rewritten,
            "seconds": {**self.data.seconds, **dict(self.seconds)},
            "peak_rss_bytes": self.peak_rss_bytes,
            "warnings": list(self.data.warnings),
        }


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
        A label volume (z, y, x) of any non-negative integer type: a path or URL of a Zarr array or an OME-Zarr
        group, an open array or group, or an array in memory.
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
        If a plan is being applied to the volume.
    """
    settings, run = build(**options)
    if isinstance(volume, np.ndarray):
        return _in_memory(volume, settings, run, out, progress, write=False)[1]
    opened = _open(volume, settings)
    _refuse_unfinished(opened)
    return _make(opened, settings, run, _place(opened, out), client, progress)


def apply(
    plan: str | Path | Plan,
    *,
    client: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Write a plan's corrections into its volume, in place; after an interruption, go on.

    Parameters
    ----------
    plan : str, Path or Plan
        A finished plan.
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
    from overseg.pipeline.apply import apply as run_apply

    folder = plan.path if isinstance(plan, Plan) else Path(plan)
    run = _run_only(options)
    from overseg.cluster import open_executor
    from overseg.pipeline.planfile import read_plan

    data = read_plan(folder)
    with open_executor(run, client=client, tasks_hint=_write_hint(data)) as executor:
        result = run_apply(folder, run, executor, progress=progress)
        peak = executor.peak_rss_bytes
    return Plan(folder, data, result.units_rewritten, peak, "applied", (("apply", result.seconds),))


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
    settings, run = build(**options)
    if isinstance(volume, np.ndarray):
        if output is not None:
            raise InputError("an array in memory has no copy on disk", where="output", remedy="leave it out")
        return _in_memory(volume, settings, run, out, progress, write=True)
    opened = _open(volume, settings)
    copied = None
    if output is not None:
        copied = _copy(opened, output, settings)
        opened = copied
    started = _started(opened)
    if started is not None:
        made = load(started)
    else:
        opened.check_writable()
        done = _already(opened, settings)
        if done is not None:
            return done
        made = _make(opened, settings, run, _place(opened, out), client, progress)
        if confirm is not None and not confirm(made):
            return made
    finished = apply(made, client=client, progress=progress, **run.model_dump(exclude_none=True))
    if copied is not None:
        copied.files.delete(_COPY)
    return replace(finished, peak_rss_bytes=max(made.peak_rss_bytes, finished.peak_rss_bytes))


def verify(plan: str | Path | Plan, *, progress: Progress | None = None) -> Verification:
    """Prove that only listed voxels changed, and that those became what the plan says.

    Parameters
    ----------
    plan : str, Path or Plan
        A finished plan, applied or not.
    progress : callable, optional
        As for `plan`.

    Returns
    -------
    Verification
        `ok`, and the problems found by unit and voxel.

    Raises
    ------
    PlanError
        If the plan is missing or damaged.
    """
    from overseg.pipeline.verify import verify as run_verify

    return run_verify(plan.path if isinstance(plan, Plan) else Path(plan), progress=progress)


def undo(
    target: Any,
    *,
    only_unchanged: bool = False,
    label: str | None = None,
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
    progress : callable, optional
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

    folder = _plan_of(target, label)
    made = load(folder)
    result = run_undo(folder, _run_only(options), only_unchanged=only_unchanged, progress=progress)
    return replace(made, rewritten=result.units_rewritten, phase="undone", seconds=(("undo", result.seconds),))


def load(path: str | Path) -> Plan:
    """Read a finished plan from its folder.

    Parameters
    ----------
    path : str or Path
        The plan folder.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        If the plan is missing, unfinished, damaged, or from a newer version.
    """
    from overseg.pipeline.planfile import read_plan
    from overseg.pipeline.status import phase_of

    folder = Path(path)
    data = read_plan(folder)
    return Plan(folder, data, phase=phase_of(folder, data))


_COPY = "copy.json"


def _open(volume: Any, settings: Settings) -> Volume:
    from overseg.volume import open_volume

    return open_volume(volume, label=settings.label, voxel_size=settings.voxel_size)


def _run_only(options: dict[str, Any]) -> RunSettings:
    settings, run = build(**options)
    if settings != Settings():
        given = sorted(set(options) & set(Settings.model_fields))
        raise InputError(
            f"{', '.join(given)}: decided when the plan was made",
            where="apply",
            remedy="make a new plan with other settings",
        )
    return run


def _place(volume: Volume, out: str | Path | None) -> Path:
    """Where the plan goes; an applied plan is never written over."""
    if out is not None:
        place = Path(out).absolute()
        places.check_place(place)
        return place
    place = places.default_place(volume)
    if places.has_journal(place):
        place = places.next_place(place)
    places.check_place(place)
    return place


def _make(
    volume: Volume, settings: Settings, run: RunSettings, place: Path, client: Any, progress: Progress | None
) -> Plan:
    from overseg.cluster import open_executor
    from overseg.pipeline.plan import make_plan, tasks_hint

    with open_executor(run, client=client, tasks_hint=tasks_hint(volume, settings)) as executor:
        data = make_plan(volume, settings, executor, place, progress=progress)
        return Plan(place, data, peak_rss_bytes=executor.peak_rss_bytes)


def _write_hint(data: PlanData) -> int:
    """About how many quarter-second tasks applying a plan is worth."""
    return 1 + int(data.units.touched.sum()) // 64


def _refuse_unfinished(volume: Volume) -> None:
    started = _started(volume)
    if started is not None:
        raise PlanError(
            "a plan is half applied to this volume",
            where=f"{volume.location}, plan {started}",
            remedy=f"finish it with `overseg apply {started}`, or go back with `overseg undo {started}`",
        )


def _started(volume: Volume) -> Path | None:
    """The place of the plan that was being applied when a run ended."""
    from overseg.volume.state import read_state

    last = read_state(volume).last
    if last is None or last.phase != "applying":
        return None
    return Path(last.place)


def _already(volume: Volume, settings: Settings) -> Plan | None:
    """The plan that already corrected this volume with these settings, if every voxel still is as it left them."""
    from overseg.volume.state import read_state

    last = read_state(volume).last
    if last is None or last.phase != "applied" or not places.is_plan(last.place):
        return None
    made = load(last.place)
    if made.data.settings != canonical(settings) or not verify(made).ok:
        return None
    return made


def _copy(volume: Volume, output: str | Path, settings: Settings) -> Volume:
    """The copy to be corrected: made now, or left unfinished by an earlier run of the same command."""
    from overseg.volume import open_volume
    from overseg.volume.copy import copy_volume, is_copying

    target = str(output)
    if "://" not in target and Path(target).exists() and not is_copying(target):
        copied = open_volume(target, voxel_size=settings.voxel_size)
        note = copied.files.read(_COPY)
        if note is None or json.loads(note).get("source") != volume.location:
            raise InputError(
                "the output exists", where=target, remedy="name a new place, or remove it, and run it again"
            )
        return copied
    copy_volume(volume, target)
    copied = open_volume(target, voxel_size=settings.voxel_size)
    copied.files.write(_COPY, json.dumps({"source": volume.location}).encode())
    return copied


def _plan_of(target: Any, label: str | None) -> Path:
    if isinstance(target, Plan):
        return target.path
    if isinstance(target, str | Path) and places.is_plan(target):
        return Path(target)
    from overseg.volume import open_volume
    from overseg.volume.state import read_state

    volume = open_volume(target, label=label)
    last = read_state(volume).last
    if last is None or last.phase == "undone":
        raise PlanError(
            "no plan was applied to this volume, so there is nothing to undo",
            where=volume.location,
            remedy="name the plan folder if you know of one",
        )
    if not places.is_plan(last.place):
        raise PlanError(
            "the plan that changed this volume is not where it was",
            where=f"{volume.location}, plan {last.place}",
            remedy="find the plan folder (it holds the journal) and run `overseg undo FOLDER`",
        )
    return Path(last.place)


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
    from overseg.volume.create import check_array, write_array

    check_array(array)
    keeper = _Keeper()
    folder = places.temporary_folder(keeper)
    path = folder / "array.zarr"
    write_array(path, array, voxel_size=settings.voxel_size)
    volume = _open(path, settings)
    place = _place(volume, out)
    made = _make(volume, settings, run, place, None, progress)
    if write:
        made = apply(made, progress=progress, **run.model_dump(exclude_none=True))
    corrected = volume.read((slice(0, array.shape[0]), slice(0, array.shape[1]), slice(0, array.shape[2])))
    object.__setattr__(made, "_keeper", keeper)
    return corrected.astype(array.dtype, copy=False), made


class _Keeper:
    """Owns a temporary folder."""
