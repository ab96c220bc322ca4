"""The cut of a volume into scan tasks, kept so that a run with other workers finds again what is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overseg.pipeline.durable import write_atomically
from overseg.pipeline.scantask import (
    ScanTask,
    least_units,
    name_of,
    part_of,
    plan_scan,
    predicted_peak,
)
from overseg.volume.faults import storage

if TYPE_CHECKING:
    from overseg.settings import Settings
    from overseg.volume import Volume

_FILE = "cut.json"


class Cut:
    """The scan tasks of one volume.

    Parameters
    ----------
    volume : Volume
    settings : Settings
    memory : int
        Bytes that one task may take.
    workers : int
        Tasks that may run at the same time.
    folder : Path
        The scan's.
    done : collection of str, optional
        Tasks that left a receipt. None: others work on the cut at this moment, so it is taken as it is.

    Attributes
    ----------
    tasks : dict of str to ScanTask
        By name. Those of an earlier run: what is done is not cut anew, and what is left is halved where it
        does not fit the memory any more.
    """

    def __init__(
        self,
        volume: Volume,
        settings: Settings,
        memory: int,
        workers: int,
        folder: Path,
        done: Collection[str] | None = (),
    ) -> None:
        self._volume, self._path = volume, folder / _FILE
        fresh = {task.name: task for task in plan_scan(volume, settings, memory, workers)}
        noted = _read(self._path)
        if noted is not None:
            self._note = noted
            before = plan_scan(volume, settings, noted["memory"], noted["workers"])
            self.tasks = {task.name: task for task in before}
            for name in list(noted["halved"]):
                if name in self.tasks:
                    self._halve(name)
            if done is None or self._fitted(memory, min(workers, len(fresh)), done):
                return
        self._note = {"memory": memory, "workers": workers, "halved": []}
        self.tasks = fresh
        self._write()

    def _fitted(self, memory: int, enough: int, done: Collection[str]) -> bool:
        """Halve what is to be done until it fits; False where it is better to cut anew.

        How many workers there are counts no more once something is done: tasks are small anyway.
        """
        left = [name for name in self.tasks if name not in done]
        large = [name for name in left if predicted_peak(self.tasks[name]) > memory]
        if len(left) == len(self.tasks) and (large or len(left) < enough):
            return False
        if not large:
            return True
        while large:
            parts = self._halve(large.pop())
            if not parts:
                return False
            large += [name for name, part in parts.items() if predicted_peak(part) > memory]
        self._write()
        return True

    def _halve(self, name: str) -> dict[str, ScanTask]:
        """Put two tasks in the place of one, if that can be."""
        parts = {part.name: part for part in halved(self._volume, self.tasks[name])}
        if parts:
            del self.tasks[name]
            self.tasks |= parts
            if name not in self._note["halved"]:
                self._note["halved"].append(name)
        return parts

    def halver(
        self, arguments: Callable[[ScanTask], tuple[Any, ...]]
    ) -> Callable[[str, Any], dict[str, Any]]:
        """A function for `Executor.run` that puts two tasks in the place of one that was too large."""

        def halve(name: str, _: Any) -> dict[str, Any]:
            parts = self._halve(name)
            if parts:
                self._write()
            return {name: arguments(part) for name, part in parts.items()}

        return halve

    def _write(self) -> None:
        with storage("cannot write into the plan folder", str(self._path)):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._note).encode())


def halved(volume: Volume, task: ScanTask) -> tuple[ScanTask, ...]:
    """Two tasks, one above the other, in the place of one; none where that is not possible."""
    least, (top, bottom) = least_units(task), task.z
    if bottom - top < 2 * least:
        return ()
    middle = (top + bottom) // 2
    parts = [part_of(task, z, task.y, task.x) for z in ((top, middle), (middle, bottom))]
    if any(part.box[0][1] - part.box[0][0] <= task.max_gap for part in parts):
        return ()
    keeps = ((task.keep[0], True), (True, task.keep[1]))
    named = [replace(part, keep=keep) for part, keep in zip(parts, keeps, strict=True)]
    return tuple(replace(part, name=name_of(volume, part)) for part in named)


def in_order(tasks: Iterable[ScanTask]) -> list[ScanTask]:
    """By place, as `plan_scan` gives them: what follows does not see how they came about."""
    return sorted(tasks, key=lambda task: (task.times, task.y, task.x, task.z))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(path.read_bytes())
        return {
            "memory": int(note["memory"]),
            "workers": int(note["workers"]),
            "halved": list(note["halved"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
