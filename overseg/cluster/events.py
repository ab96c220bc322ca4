"""What happened in a run, one line of JSON each in ``run/events.jsonl``, for people and for `show --follow`.

Nothing depends on it: what cannot be written is left out, and a line torn by a kill is passed over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = "events.jsonl"


class Events:
    """Appends to the log of one plan folder.

    Parameters
    ----------
    folder : Path or None
        The plan folder's ``run``; nothing is written without one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE

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
        line = {"time": round(time.time(), 3), "event": event, "step": step, "unit": unit, **known}
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

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
