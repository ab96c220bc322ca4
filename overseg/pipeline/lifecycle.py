"""A volume's plans over time: where a new one goes, which one was left unfinished, which one is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overseg.errors import InputError, PlanError, VolumeError, command_line
from overseg.pipeline import places
from overseg.pipeline.result import Plan
from overseg.settings import Settings, canonical

if TYPE_CHECKING:
    from overseg.pipeline.plandata import PlanData
    from overseg.volume import Volume
    from overseg.volume.state import Entry

#: In a plan folder: whose copy is being corrected, until it is, so that the same command can go on.
_COPY = Path("run", "copy.json")


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

    folder = Path(path).absolute()
    data = read_plan(folder)
    return Plan(folder, data, phase=phase_of(data))


def phase_of(plan: PlanData) -> str:
    """How far a plan got, as its volume has it; ``planned`` if the volume is not there any more."""
    from overseg.volume import open_volume
    from overseg.volume.state import read_state

    try:
        volume = open_volume(plan.volume["location"])
    except VolumeError:
        return "planned"
    return read_state(volume).phase(plan.hash)


def place_for(volume: Volume, settings: Settings, out: str | Path | None) -> Path:
    """Where the plan goes; another plan is never written over, an unfinished one is gone on with."""
    place = places.default_place(volume.location) if out is None else Path(out).absolute()
    if out is None:
        while places.has_journal(place) or not _fits(place, volume, settings):
            place = places.next_name(place)
    places.check_place(place)
    if not _fits(place, volume, settings):
        raise PlanError(
            "the folder holds another plan, and plans are never overwritten",
            where=str(place),
            remedy="give another folder with --out, or remove this one",
        )
    return place


def _fits(place: Path, volume: Volume, settings: Settings) -> bool:
    """Whether no finished plan is here, or one of the same volume and settings."""
    from overseg.pipeline.planfile import read_header

    if not (place / "plan" / "plan.json").exists():
        return True
    header = read_header(place)
    same_volume = bool(header["volume"]["location"] == volume.location)
    return same_volume and bool(header["settings"] == canonical(settings))


def refuse_unfinished(volume: Volume) -> None:
    """Refuse to plan on a volume that is half changed. Raises `PlanError`."""
    from overseg.volume.state import read_state

    last = read_state(volume).last
    if last is not None and last.unfinished:
        place = find(last, volume)
        raise PlanError(
            f"a plan is half {'undone' if last.phase == 'undoing' else 'applied'} on this volume",
            where=f"{volume.location}, plan {place}",
            remedy=f"finish it with `{command_line('apply', place)}`, "
            f"or go back with `{command_line('undo', volume.location)}`",
        )


def started(volume: Volume) -> Path | None:
    """The place of the plan that was being applied when a run ended."""
    from overseg.volume.state import read_state

    last = read_state(volume).last
    if last is None or last.phase != "applying":
        return None
    return find(last, volume)


def find(entry: Entry, volume: Volume) -> Path:
    from overseg.volume.state import find_place

    place = find_place(entry, volume)
    if place is None:
        raise PlanError(
            "the plan that changed this volume is not where it was",
            where=f"{volume.location}, plan {entry.place}",
            remedy="find the plan folder, which holds the journal, and run `overseg undo FOLDER`",
        )
    return Path(place)


def copy_of(volume: Volume, output: str, place: Path, settings: Settings) -> Volume:
    """The copy to be corrected: made now, or left by an earlier run of the same command that was cut short.

    Raises
    ------
    InputError
        If something else is at the output.
    """
    from overseg.pipeline.durable import write_atomically
    from overseg.volume import open_volume
    from overseg.volume.copy import check_apart, copy_volume

    note, text = place / _COPY, json.dumps({"source": volume.location, "output": output}).encode()
    begun = note.is_file() and note.read_bytes() == text
    if not begun:
        if "://" not in output and Path(output).exists():
            raise InputError(
                "the output exists already", where=output, remedy="name a new place, or remove it first"
            )
        check_apart(volume, output)
        places.check_place(place)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, text)
    if not begun or not is_whole(output):
        try:
            copy_volume(volume, output)
        except InputError:
            note.unlink()
            raise
    return open_volume(output, voxel_size=settings.voxel_size)


def is_whole(output: str) -> bool:
    """Whether a copy was finished: it opens."""
    from overseg.volume import open_volume

    try:
        open_volume(output)
    except InputError:
        return False
    return True


def copy_is_done(place: Path) -> None:
    """Forget that a copy was being corrected."""
    (place / _COPY).unlink(missing_ok=True)


def plan_of(target: Any, label: str | None) -> tuple[Path, Volume | None]:
    """The plan that an undo means, and the volume if that is what was named: a copy is not its original."""
    if isinstance(target, str | Path) and places.is_plan(target):
        return Path(target).absolute(), volume_of(target)
    from overseg.volume import open_volume
    from overseg.volume.state import read_state

    volume = open_volume(target, label=label)
    last = read_state(volume).last
    if last is None:
        raise PlanError(
            "no plan is applied to this volume, so there is nothing to undo",
            where=volume.location,
            remedy="name the plan folder if you know of one",
        )
    return find(last, volume), volume


def volume_of(folder: str | Path) -> Volume | None:
    """Where a plan's volume is now, if it was moved together with its plan; ``None``: where the plan says.

    Raises
    ------
    PlanError
        If the volume is gone, or its plan is in force from another folder, whose journal counts.
    """
    from overseg.pipeline.planfile import read_header
    from overseg.volume import open_volume
    from overseg.volume.state import PLANNED, UNDONE, find_place, read_state

    header, here = read_header(folder), Path(folder).resolve()
    location, plan_hash = header["volume"]["location"], header["plan_hash"]
    if "://" in location:
        return None
    if not Path(location).exists():
        moved = _beside(here, Path(location), plan_hash)
        if moved is None:
            raise PlanError(
                "the plan's volume is not where it was",
                where=f"{location}, plan {here}",
                remedy="move it back; if the plan was applied, beside the plan will do",
            )
        return moved
    volume = open_volume(location)
    entry = read_state(volume).entry(plan_hash)
    if entry is None or entry.phase in (PLANNED, UNDONE):
        return None
    place = find_place(entry, volume)
    if place is not None and Path(place).resolve() != here:
        raise PlanError(
            "this plan was applied from another folder, which holds the journal",
            where=f"{location}, plan {here}",
            remedy=f"name that folder, {place}; for a copy of the volume name the copy: `overseg undo COPY`",
        )
    return None


def _beside(folder: Path, location: Path, plan_hash: str) -> Volume | None:
    """The volume of an applied plan that was moved together with it."""
    from overseg.volume import open_volume
    from overseg.volume.state import read_state

    for count in range(1, len(location.parts)):
        place = folder.parent.joinpath(*location.parts[-count:])
        if place.is_dir():
            try:
                volume = open_volume(place)
            except VolumeError:
                continue
            if read_state(volume).entry(plan_hash) is not None:
                return volume
    return None
