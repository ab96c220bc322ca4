"""What was asked for last in a plan folder, kept so that a unit that failed can be run again alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overseg.errors import PlanError
from overseg.pipeline.durable import write_atomically
from overseg.volume.faults import storage

_FILE = Path("run", "request.json")


@dataclass(frozen=True)
class Request:
    """A command on a plan folder.

    Attributes
    ----------
    verb : {"plan", "apply", "verify", "undo"}
    volume : str
        Where the volume is, without credentials.
    settings : dict
        As given; JSON values.
    device : str
        See `overseg.settings.RunSettings`.
    """

    verb: str
    volume: str
    settings: dict[str, Any]
    device: str = "auto"

    def save(self, folder: Path) -> None:
        """Note it in a plan folder. Raises `StorageError`."""
        path = folder / _FILE
        with storage("cannot write into the plan folder", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(vars(self), indent=2).encode())


def load_request(folder: Path) -> Request:
    """What was asked for last in a plan folder. Raises `PlanError`."""
    path = folder / _FILE
    try:
        return Request(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise PlanError(
            "nothing was run in this folder",
            where=str(folder),
            remedy="give the plan folder that the failed command named",
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise PlanError(
            f"the note of what was run is damaged: {error}",
            where=str(path),
            remedy="run the command that failed once more: it writes the note anew",
        ) from None
