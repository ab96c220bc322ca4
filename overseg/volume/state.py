"""What a volume knows of its own past: the plans applied to it, in order, and how far the last one got.

The state lies in ``.overseg/`` inside the prefix of the level-0 array, so that every alias meets it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from overseg.errors import VolumeError

if TYPE_CHECKING:
    from overseg.volume.volume import Volume

VERSION = 1
KEY = ".overseg/state.json"
PLANNED, APPLYING, APPLIED, UNDOING, UNDONE = "planned", "applying", "applied", "undoing", "undone"
_ABOVE = 5
PHASES = (PLANNED, APPLYING, APPLIED, UNDOING, UNDONE)


@dataclass(frozen=True)
class Entry:
    """One plan in a volume's past.

    Attributes
    ----------
    plan_hash : str
        The plan.
    place : str
        Its folder, when it was applied.
    phase : {"planned", "applying", "applied", "undoing", "undone"}
        How far it got.
    run : str
        Names the journal of this application: undone and applied again, a plan gets a new one.
    date : str
        When it was applied to the end, in local time with the zone.
    noted : bool
        Provenance was written.
    """

    plan_hash: str
    place: str
    phase: str
    run: str
    date: str = ""
    noted: bool = False

    @property
    def unfinished(self) -> bool:
        """Some units are written and some are not."""
        return self.phase in (APPLYING, UNDOING)


@dataclass(frozen=True)
class State:
    """The stack of plans of one volume.

    Attributes
    ----------
    location : str
        Of the volume when the state was written; another one means that the volume was copied or moved.
    plans : tuple of Entry
        In the order in which they were applied.
    """

    location: str
    plans: tuple[Entry, ...] = ()

    @property
    def last(self) -> Entry | None:
        """The plan that must be undone first; ``None`` if none is in force."""
        active = [entry for entry in self.plans if entry.phase != UNDONE]
        return active[-1] if active else None

    def entry(self, plan_hash: str) -> Entry | None:
        """The newest entry of a plan."""
        found = [entry for entry in self.plans if entry.plan_hash == plan_hash]
        return found[-1] if found else None

    def phase(self, plan_hash: str) -> str:
        """How far a plan got on this volume; ``planned`` if it was never applied."""
        entry = self.entry(plan_hash)
        return PLANNED if entry is None else entry.phase

    def with_entry(self, entry: Entry) -> State:
        """The state with one application's entry set, or added at the end."""
        if all(entry.run != other.run for other in self.plans):
            return replace(self, plans=(*self.plans, entry))
        plans = tuple(entry if entry.run == other.run else other for other in self.plans)
        return replace(self, plans=plans)


def read_state(volume: Volume) -> State:
    """The state of a volume; an empty one if no plan was ever applied.

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    State
        Its `location` differs from the volume's if the volume was copied or moved since.

    Raises
    ------
    VolumeError
        If the state is damaged or was written by a newer overseg.
    StorageError
        If the store refuses to read.
    """
    data = volume.files.read(KEY)
    if data is None:
        return State(volume.location)
    where = f"{volume.level_place(0).location}/{KEY}"
    try:
        document = json.loads(data)
        version = int(document["version"])
        plans = tuple(Entry(**entry) for entry in document["plans"]) if version <= VERSION else ()
        state = State(str(document["location"]), plans)
        known = all(entry.phase in PHASES for entry in plans)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(where, str(error)) from None
    if version > VERSION:
        raise VolumeError(
            "a newer overseg has worked on this volume",
            where=where,
            remedy="update overseg to that version; this one cannot tell what was done",
        )
    if not known:
        raise _damaged(where, "a plan's phase is none that overseg writes")
    return state


def write_state(volume: Volume, state: State, fence: Callable[[], None]) -> None:
    """Set the state of a volume, whole or not at all. Raises `StorageError`.

    Parameters
    ----------
    volume : Volume
    state : State
    fence : callable
        Called at the last moment; it raises if the volume is somebody else's now, whose plans would be
        forgotten.
    """
    document = {
        "version": VERSION,
        "location": volume.location,
        "plans": [asdict(entry) for entry in state.plans],
    }
    volume.files.write(KEY, json.dumps(document, indent=2).encode(), fence)


def find_place(entry: Entry, volume: Volume) -> str | None:
    """Where an entry's plan is now: where it was, or beside the volume if both were moved.

    Parameters
    ----------
    entry : Entry
    volume : Volume

    Returns
    -------
    str or None
        A folder that holds the plan of that hash.
    """
    name = os.path.basename(entry.place.rstrip(os.sep))
    places = [entry.place]
    above = volume.place if volume.place.local else None
    for _ in range(_ABOVE):  # labels lie deep in an image, the plan beside the image
        above = above.parent() if above is not None else None
        places += [] if above is None else [os.path.join(above.location, name)]
    for place in places:
        if _hash_in(place) == entry.plan_hash:
            return place
    return None


def _hash_in(place: str) -> str | None:
    try:
        with open(os.path.join(place, "plan", "plan.json"), "rb") as file:
            return str(json.load(file)["plan_hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _damaged(where: str, why: str) -> VolumeError:
    return VolumeError(
        f"overseg's record of what was done to this volume is damaged: {why}",
        where=where,
        remedy="restore that file from a copy; or, with the plan at hand, run `overseg verify PLAN` to see "
        "whether it was applied, and remove the file only if it was not",
    )
