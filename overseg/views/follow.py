"""A run as it goes on, read from its log: from another terminal, or another machine that sees the folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from overseg.cluster.events import FILE, parse
from overseg.cluster.failures import is_gone
from overseg.errors import PlanError

Progress = Callable[[str, int, int], None]

_LOOK = 0.5  # seconds between looks
_QUIET = 300.0  # seconds without an event, after which that is said
_GOES_ON = "the same command goes on where it stopped"


def follow(
    folder: str | Path,
    progress: Progress,
    say: Callable[[str], None],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Tell of the last command on a plan folder, until it ends.

    Parameters
    ----------
    folder : str or Path
        The plan folder.
    progress : callable
        Called as ``progress(step, done, total)``.
    say : callable
        Called with a line when something happens that is not progress.
    wait : callable
        Sleeps for some seconds.

    Returns
    -------
    dict
        ``command``; ``units`` done; ``failed``, ``died``: how often units failed and workers died; ``why`` it
        ended early, or None.

    Raises
    ------
    PlanError
        If nothing was run in the folder.
    """
    path = Path(folder) / "run" / FILE
    try:
        file = path.open("rb")
    except OSError:
        raise PlanError(
            "there is no log of a run here",
            where=str(path),
            remedy="give a plan folder, NAME.overseg, in which a command runs or ran",
        ) from None
    with file:
        log = _Log(progress, say)
        old = _tail(file)
        begins = [i for i, event in enumerate(old) if event["event"] == "begin"]
        for event in old[begins[-1] if begins else 0 :]:
            log.take(event)
        for event in _more(file, log, wait):
            log.take(event)
    return log.said


class _Log:
    """What the events of one command add up to."""

    def __init__(self, progress: Progress, say: Callable[[str], None]) -> None:
        self.said: dict[str, Any] = {"command": None, "units": 0, "failed": 0, "died": 0, "why": None}
        self.ended = False
        self.driver = ""
        self._progress, self._say = progress, say
        self._running = 0
        self._steps: dict[str, list[int]] = {}

    def take(self, event: dict[str, Any]) -> None:
        take = getattr(self, f"_{event['event']}", None)
        if take is not None:
            take(event)

    def quiet(self, seconds: float) -> None:
        """Nothing happened for so long."""
        self._say(
            f"nothing is heard for {seconds / 60:.0f} minutes; see whether process {self.driver} is there"
        )

    def _begin(self, event: dict[str, Any]) -> None:
        self.said["command"] = event.get("command")
        self._running += 1
        self.ended = False
        self.driver = str(event.get("driver"))
        memory = f"{event.get('memory', 0) >> 20:,} MiB"
        told = f"{event.get('command')}: {event.get('workers')} workers, {memory} each"
        self._say(told + (f", dashboard {event['dashboard']}" if event.get("dashboard") else ""))

    def _end(self, event: dict[str, Any]) -> None:
        self._running -= 1
        self.said["why"] = event.get("why")
        self.ended = self._running <= 0
        self._say(f"{event.get('command')}: " + (f"stopped: {event['why']}" if event.get("why") else "done"))

    def _step(self, event: dict[str, Any]) -> None:
        known = self._steps.setdefault(event["step"], [0, 0]) if self._running > 1 else [0, 0]
        self._steps[event["step"]] = [known[0] + event.get("done", 0), known[1] + event.get("total", 0)]
        self._progress(event["step"], *self._steps[event["step"]])

    def _done(self, event: dict[str, Any]) -> None:
        self.said["units"] += 1
        counts = self._steps.setdefault(event["step"], [0, 0])
        counts[0] += 1
        counts[1] = max(counts)
        self._progress(event["step"], *counts)

    def _failed(self, event: dict[str, Any]) -> None:
        self.said["failed"] += 1
        self._say(f"{event['step']}, unit {event['unit']} failed: {event.get('why')}")

    def _died(self, event: dict[str, Any]) -> None:
        self.said["died"] += 1
        why = " (it took too much memory)" if event.get("memory") else ""
        self._say(f"{event['step']}, unit {event['unit']}: worker {event.get('worker')} died{why}")

    def _halved(self, event: dict[str, Any]) -> None:
        self._say(f"{event['step']}, unit {event['unit']} is done in halves: it takes too much memory")

    def _quarantined(self, event: dict[str, Any]) -> None:
        self._say(f"{event['step']}, unit {event['unit']} is given up: {event.get('why')}")

    def _waiting(self, event: dict[str, Any]) -> None:
        self._say(str(event.get("why")))


def _more(file: BinaryIO, log: _Log, wait: Callable[[float], None]) -> Iterator[dict[str, Any]]:
    """Events as they come, until the command ends."""
    looks = 0
    while not log.ended:
        found = _tail(file)
        yield from found
        looks = 0 if found else looks + 1
        if not found:
            if looks * _LOOK % _QUIET == 0:  # of a driver on another machine nobody can tell
                log.quiet(looks * _LOOK)
            if is_gone(log.driver):
                log.take(
                    {
                        "event": "end",
                        "command": log.said["command"],
                        "why": f"its process is gone; {_GOES_ON}",
                    }
                )
            wait(_LOOK)


def _tail(file: BinaryIO) -> list[dict[str, Any]]:
    """Events of the whole lines after those read before."""
    at = file.tell()
    data = file.read()
    whole = data.rfind(b"\n") + 1
    file.seek(at + whole)
    return parse(data[:whole])
