"""Executors that do a part of a run and end it there: one task of a job array, or one unit alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overseg.cluster import receipts
from overseg.cluster.executor import Args, Ended, Halve, InlineExecutor, Outcomes
from overseg.cluster.failures import Failure, Unit
from overseg.cluster.receipts import Receipt
from overseg.errors import InputError

__all__ = ["AloneExecutor", "ArrayExecutor", "Ended"]


class ArrayExecutor(InlineExecutor):
    """One task of a batch system's job array: its share of a step, in this process, without a scheduler.

    Units are dealt out in turn. Receipts go to a file of the task's own, since many tasks write at the same
    time; a task that was killed is run again and goes on. All but `step` is done as a whole. The run ends
    with `Ended` after the step.

    Parameters
    ----------
    step : str
        That is shared out.
    task, tasks : int
        Which of how many, from 0.
    memory : int
        See `Executor`.
    """

    def __init__(self, step: str, task: int, tasks: int, memory: int) -> None:
        super().__init__(tasks, memory)
        self._last, self._task, self._tasks = step, task, tasks
        self.shares = True

    def _mine(
        self, step: str, units: Mapping[str, Args], halve: Halve | None
    ) -> tuple[Mapping[str, Args], Halve | None]:
        if step != self._last:
            return units, halve
        # Not halved: the other tasks deal from the same list.
        return {name: units[name] for name in list(units)[self._task :: self._tasks]}, None

    def _recorder(self, folder: Path | None, step: str, stale: Mapping[str, Receipt]) -> Any:
        if folder is None or step != self._last:
            return super()._recorder(folder, step, stale)
        return receipts.recording(folder, step, self._task, stale)


class AloneExecutor(InlineExecutor):
    """One unit that failed, once more, in this process: to look into it.

    What it raises comes with its traceback, and is not tried again. The run ends with `Ended` after it.

    Parameters
    ----------
    step, unit : str
    memory : int
        See `Executor`.
    """

    def __init__(self, step: str, unit: str, memory: int) -> None:
        super().__init__(1, memory)
        self._last, self._unit = step, unit

    def _mine(
        self, step: str, units: Mapping[str, Args], halve: Halve | None
    ) -> tuple[Mapping[str, Args], Halve | None]:
        if step != self._last:
            return units, halve
        args = _find(units, self._unit, halve)
        if args is None:
            raise InputError(
                f"step '{step}' has no unit of that name left to do",
                where=self._unit,
                remedy="run the whole command again; names stand in run/quarantine.jsonl",
            )
        return {self._unit: args}, None

    def _each(self, step: str, fn: Unit, units: Mapping[str, Args], card: bool) -> Outcomes:
        for name, outcome in super()._each(step, fn, units, card):
            if isinstance(outcome, Failure):
                error = outcome.error
                raise type(error)(error.what, where=f"{error.where}\n{outcome.trace}", remedy=error.remedy)
            yield name, outcome


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
