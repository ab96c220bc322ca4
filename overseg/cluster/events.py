"""What happened in a run, one line of JSON each in ``run/events.jsonl``, for people and for `show --follow`.

Nothing depends on it: what cannot be written is left out, and a line torn by a kill is passed over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = "events.jsonl"


class Events:
    """Appends to the log of one plan folder, from the first step on: what is refused leaves no folder behind.

    Parameters
    ----------
    folder : Path or None
        The plan folder's ``run``; nothing is written without one.
    note : callable, optional
        Called before the first step.
    """

    def __init__(self, folder: Path | None, note: Callable[[], None] | None = None) -> None:
        self._path = None if folder is None else folder / FILE
        self._note = note
        self._held: list[bytes] | None = []

    def add(self, event: str, step: str = "", unit: str = "", **facts: Any) -> None:
        """Write one line.

        Parameters
        ----------
        event : str
            ``begin`` and ``end`` of a command; ``step``, ``done``, ``failed``, ``died``, ``halved``,
            ``quarantined`` for units; ``waiting`` while nothing can go on.
        step, unit : str
        **facts
            JSON values; those that are None are left out.
        """
        if self._path is None:
            return
        known = {name: value for name, value in facts.items() if value is not None}
        told = {"time": round(time.time(), 3), "event": event, "step": step, "unit": unit, **known}
        line = json.dumps(told, separators=(",", ":")).encode() + b"\n"
        if self._held is not None:
            self._held.append(line)
            if event != "step":
                return
            line, self._held = b"".join(self._held), None
            if self._note is not None:
                self._note()
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(line)

    def done(self, step: str, unit: str, receipt: Mapping[str, Any]) -> None:
        """A unit came to its end."""
        self.add(
            "done", step, unit, worker=receipt.get("worker"), seconds=round(receipt["seconds"], 4),
            bytes=receipt.get("bytes"), peak_rss=receipt["peak_rss"],
        )  # fmt: skip


def parse(data: bytes) -> list[dict[str, Any]]:
    """Events of whole lines; what is torn is passed over."""
    found = []
    for line in data.splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                found.append(event)
    return found
