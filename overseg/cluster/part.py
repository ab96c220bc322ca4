"""Executors that do a part of a run and end it there: one task of a job array, or one unit alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overseg.cluster import receipts as keeping
from overseg.cluster.executor import Args, Halve, InlineExecutor, Progress, Results, Valid
from overseg.cluster.failures import Failure, Unit, call
from overseg.errors import InputError


class Ended(Exception):
    """The part that was asked for is done. Not an error.

    Attributes
    ----------
    step : str
    units : int
        How many were done now.
    """

    def __init__(self, step: str, units: int) -> None:
        super().__init__(step, units)
        self.step, self.units = step, units


class ArrayExecutor(InlineExecutor):
    """One task of a batch system's job array: its share of a step, in this process, without a scheduler.

    Units are dealt out in turn. Receipts go to a file of the task's own, since many tasks write at the same
    time; a task that was killed is run again and goes on. All but `step` is done as a whole.

    Parameters
    ----------
    step : str
        That is shared out; the run ends after it.
    task, tasks : int
        Which of how many, from 0; with ``tasks`` 0 the run ends before the step.
    memory : int
        See `Executor`.
    """

    def __init__(self, step: str, task: int, tasks: int, memory: int) -> None:
        super().__init__(max(1, tasks), memory)
        self._step, self._task, self._tasks = step, task, tasks

    def run(
        self,
        step: str,
        fn: Unit,
        units: Mapping[str, Args],
        receipts: str | Path | None = None,
        progress: Progress | None = None,
        valid: Valid | None = None,
        *,
        halve: Halve | None = None,
        card: bool = False,
    ) -> Results:
        """As `Executor.run`. Raises `Ended` after this task's share of the step."""
        if step != self._step:
            yield from super().run(step, fn, units, receipts, progress, valid, halve=halve, card=card)
            return
        mine = {name: units[name] for name in list(units)[self._task :: self._tasks]} if self._tasks else {}
        # Not halved: the other tasks deal from the same list of units.
        for _ in super().run(step, fn, mine, receipts, progress, valid, card=card):
            pass
        raise Ended(step, len(mine))

    def _recorder(self, folder: Path | None, step: str) -> Any:
        if folder is None or step != self._step:
            return super()._recorder(folder, step)
        return keeping.recording(folder, step, self._task)


class AloneExecutor(InlineExecutor):
    """One unit that failed, once more, in this process: to look into it.

    Parameters
    ----------
    step, unit : str
        Which; the run ends after it.
    memory : int
        See `Executor`.
    """

    def __init__(self, step: str, unit: str, memory: int) -> None:
        super().__init__(1, memory)
        self._step, self._unit = step, unit

    def run(
        self,
        step: str,
        fn: Unit,
        units: Mapping[str, Args],
        receipts: str | Path | None = None,
        progress: Progress | None = None,
        valid: Valid | None = None,
        *,
        halve: Halve | None = None,
        card: bool = False,
    ) -> Results:
        """As `Executor.run`. Raises `Ended` after the unit; what it raises is not tried again."""
        if step != self._step:
            yield from super().run(step, fn, units, receipts, progress, valid, halve=halve, card=card)
            return
        args = _find(units, self._unit, halve)
        if args is None:
            raise InputError(
                f"step '{step}' has no unit of that name left to do",
                where=self._unit,
                remedy="run the whole command again; names stand in run/quarantine.jsonl",
            )
        outcome = call(step, self._unit, fn, args)
        if isinstance(outcome, Failure):
            error = outcome.error
            raise type(error)(error.what, where=f"{error.where}\n{outcome.trace}", remedy=error.remedy)
        if receipts is not None:
            with keeping.recording(Path(receipts), step) as record:
                record(self._unit, outcome)
        raise Ended(step, 1)


def _find(units: Mapping[str, Args], wanted: str, halve: Halve | None) -> Args | None:
    """A unit's arguments, also where it is a half of one of these."""
    for name, args in units.items():
        if name == wanted:
            return args
        if halve is not None and wanted.startswith(name):
            found = _find(halve(name, args), wanted, halve)
            if found is not None:
                return found
    return None
