"""Runs the units of a step: receipts, errors and progress are the same wherever they run."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from overseg.cluster import limits, receipts
from overseg.cluster.receipts import Receipt
from overseg.errors import OversegError, ResourceError, TaskError
from overseg.settings import RunSettings

Unit = Callable[..., Mapping[str, Any]]
Progress = Callable[[str, int, int], None]
Results = Generator[tuple[str, Receipt], None, None]
Valid = Callable[[str, Receipt], bool]

#: What a worker process takes before it does anything, in bytes.
_IDLE_BYTES = 300 << 20


class Executor(ABC):
    """Runs steps. Made by `open_executor`.

    Attributes
    ----------
    workers : int
        Units that may run at the same time (as far as is known).
    memory : int
        Bytes that one unit may use.
    """

    def __init__(self, workers: int, memory: int) -> None:
        self.workers = workers
        self.memory = memory
        self._peak_of_workers = 0

    @property
    def room(self) -> int:
        """Bytes that a unit may use beyond what a process takes before it does anything."""
        return max(self.memory - _IDLE_BYTES, self.memory // 2)

    def check_room(self, need: int, what: str, where: str, otherwise: str = "") -> None:
        """Refuse before it is sent out what will not fit.

        Parameters
        ----------
        need : int
            Predicted bytes.
        what : str
            What takes them, to begin a sentence with.
        where : str
            What is worked on.
        otherwise : str
            What else may be done about it.

        Raises
        ------
        ResourceError
            If a worker has less.
        """
        if need + _IDLE_BYTES > self.memory:
            mib = (need + _IDLE_BYTES) // 2**20 + 1
            raise ResourceError(
                f"{what} takes about {mib} MiB, a worker has {self.memory // 2**20} MiB",
                where=where,
                remedy=f"give --memory {mib}MiB or more with fewer --workers{otherwise}",
            )

    @property
    def peak_rss_bytes(self) -> int:
        """Largest resident memory of any single process so far, driver or worker, in bytes."""
        return max(self._peak_of_workers, limits.peak_rss())

    def run(
        self,
        step: str,
        fn: Unit,
        units: Mapping[str, tuple[Any, ...]],
        receipts: str | Path | None = None,
        progress: Progress | None = None,
        valid: Valid | None = None,
    ) -> Results:
        """Run ``fn(*args)`` for every unit and yield its receipt as soon as it is there, in any order.

        Parameters
        ----------
        step : str
            Name of the step, fit for a file name.
        fn : callable
            Importable function that gives a small dict of JSON values. It must be idempotent: a unit whose
            worker died is run again.
        units : mapping of str to tuple
            Arguments by unit name; small and picklable.
        receipts : path, optional
            Folder of receipts. A unit that has one there is yielded from it and not run again.
        progress : callable, optional
            Called as ``progress(step, done, total)``.
        valid : callable, optional
            ``valid(name, receipt)`` says whether a receipt found on disk still counts.

        Yields
        ------
        tuple of str and dict
            Unit name and receipt, which also holds `peak_rss` of the process that ran it, in bytes.

        Raises
        ------
        OversegError
            As raised by a unit, after the others were cancelled.
        TaskError
            If a unit failed in any other way.
        ResourceError
            If memory ran out, or there are no workers.
        """
        folder = None if receipts is None else Path(receipts)
        done = {} if folder is None else self._on_disk(folder, step, units, valid)
        count = 0
        if progress:
            progress(step, 0, len(units))
        for name, receipt in done.items():
            count += 1
            yield name, receipt
        if progress and count:
            progress(step, count, len(units))
        todo = {name: args for name, args in units.items() if name not in done}
        if not todo:
            return
        with _recorder(folder, step) as record, closing(self._each(step, fn, todo)) as results:
            for name, receipt in results:
                record(name, receipt)
                self._peak_of_workers = max(self._peak_of_workers, receipt["peak_rss"])
                count += 1
                if progress:
                    progress(step, count, len(units))
                yield name, receipt

    def _on_disk(
        self, folder: Path, step: str, units: Mapping[str, Any], valid: Valid | None
    ) -> dict[str, Receipt]:
        found = receipts.read(folder, step)
        return {
            name: found[name]
            for name in units
            if name in found and (valid is None or valid(name, found[name]))
        }

    @abstractmethod
    def _each(self, step: str, fn: Unit, units: Mapping[str, tuple[Any, ...]]) -> Results:
        """Run the units that are left; when closed early, let go of the rest."""


class InlineExecutor(Executor):
    """One unit after the other, in this process."""

    def _each(self, step: str, fn: Unit, units: Mapping[str, tuple[Any, ...]]) -> Results:
        for name, args in units.items():
            yield name, call(step, name, fn, args)


def call(step: str, name: str, fn: Unit, args: tuple[Any, ...]) -> Receipt:
    """Run one unit, in whatever process; what is not one of our errors becomes one."""
    try:
        receipt = {**fn(*args), "peak_rss": limits.peak_rss()}
        plain: Receipt = json.loads(json.dumps(receipt))
        return plain
    except OversegError:
        raise
    except MemoryError as error:
        raise ResourceError(
            f"no memory was left for step '{step}'",
            where=f"unit {name}",
            remedy="give each worker more with --memory, or use fewer with --workers, and run it again",
        ) from error
    except Exception as error:
        raise TaskError(
            f"step '{step}' failed: {type(error).__name__}: {error}",
            where=f"unit {name}, {_origin(error)}",
            remedy="what is done is kept: run the same command again; if it fails again, please report it",
        ) from error


def _origin(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown line"


@contextmanager
def _recorder(folder: Path | None, step: str) -> Iterator[Callable[[str, Receipt], None]]:
    with nullcontext() if folder is None else receipts.appending(folder, step) as file:
        yield lambda name, receipt: None if file is None else receipts.append(file, name, receipt)


@contextmanager
def open_executor(run: RunSettings, *, client: Any = None, tasks_hint: int = 1) -> Iterator[Executor]:
    """An executor for the time of a ``with`` block.

    Parameters
    ----------
    run : RunSettings
        Workers, memory per worker, or the address of a scheduler.
    client : distributed.Client, optional
        A running cluster to use.
    tasks_hint : int
        About how many units the largest step has. One unit, or one worker, runs in this process.

    Yields
    ------
    Executor
    """
    if client is not None:
        from overseg.cluster import on_dask

        yield on_dask.given(client, run.memory)
        return
    if run.scheduler is not None:
        from overseg.cluster import on_dask

        with on_dask.connected(run.scheduler, run.memory) as connected:
            yield connected
        return
    machine = limits.available()
    workers, _ = limits.share(run.workers, run.memory, machine, limits.on_login_node())
    workers, memory = limits.share(max(1, min(workers, tasks_hint)), run.memory, machine)
    if workers == 1:
        yield InlineExecutor(1, memory)
        return
    from overseg.cluster import on_dask

    with on_dask.embedded(workers, memory) as embedded:
        yield embedded
