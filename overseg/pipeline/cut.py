"""The cut of a volume into scan tasks, kept so that a run with other workers finds again what is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
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

    Attributes
    ----------
    tasks : dict of str to ScanTask
        By name. Those of an earlier run, where they fit the memory and keep as many workers busy.
    """

    def __init__(self, volume: Volume, settings: Settings, memory: int, workers: int, folder: Path) -> None:
        self._volume, self._path = volume, folder / _FILE
        self._note: dict[str, Any] = {"memory": memory, "workers": workers, "halved": []}
        fresh = plan_scan(volume, settings, memory, workers)
        self.tasks = {task.name: task for task in fresh}
        noted = _read(self._path)
        if noted is None:
            self._write()
            return
        before = {task.name: task for task in plan_scan(volume, settings, noted["memory"], noted["workers"])}
        for name in noted["halved"]:
            if name in before:
                before |= {part.name: part for part in halved(volume, before.pop(name))}
        fits = all(predicted_peak(task) <= memory for task in before.values())
        if fits and len(before) >= min(workers, len(fresh)):
            self.tasks, self._note = before, noted
        else:
            self._write()

    def halver(
        self, arguments: Callable[[ScanTask], tuple[Any, ...]]
    ) -> Callable[[str, Any], dict[str, Any]]:
        """A function for `Executor.run` that puts two tasks in the place of one that was too large."""

        def halve(name: str, _: Any) -> dict[str, Any]:
            parts = halved(self._volume, self.tasks[name])
            if parts:
                del self.tasks[name]
                self.tasks |= {part.name: part for part in parts}
                self._note["halved"].append(name)
                self._write()
            return {part.name: arguments(part) for part in parts}

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
