"""Runs the units of a step: receipts, errors, retries and progress are the same wherever they run.

1. what has a valid receipt is not run again
2. all others run, and leave a receipt and a line in the log
3. units that failed are tried again, those that took all of a worker's memory in halves
4. what fails each time is put down in ``run/quarantine.jsonl``, and the step ends with an error that counts
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from overseg.cluster import limits, quarantine, receipts
from overseg.cluster.events import Events
from overseg.cluster.failures import Failure, Unit, call
from overseg.cluster.receipts import Receipt
from overseg.errors import ResourceError, more_memory
from overseg.settings import RunSettings

Args = tuple[Any, ...]
Progress = Callable[[str, int, int], None]
Results = Generator[tuple[str, Receipt], None, None]
Outcomes = Generator[tuple[str, Receipt | Failure], None, None]
Valid = Callable[[str, Receipt], bool]
Halve = Callable[[str, Args], Mapping[str, Args]]

_log = logging.getLogger(__name__)

#: What a worker process takes before it does anything, in bytes.
_IDLE_BYTES = 300 << 20

#: How often a unit is tried, and the seconds in between: a network file system may have had the hiccups.
_TRIES, _PAUSES = 3, (0.2, 2.0)
#: Failures one after the other from which on it is not the units that are at fault.
_HOPELESS = 4


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


class Executor(ABC):
    """Runs steps. Made by `open_executor`.

    Attributes
    ----------
    workers : int
        Units that may run at the same time (as far as is known).
    memory : int
        Bytes that one unit may use.
    cards : bool
        Whether there are workers with graphics cards, or some were asked for.
    shares : bool
        Whether other processes do units of the same cut at the same time.
    dashboard : str or None
        Where Dask shows what its workers do.
    events : Events
        The log.
    home : Path or None
        The ``run`` folder of the plan that is worked on.
    """

    def __init__(self, workers: int, memory: int) -> None:
        self.workers = workers
        self.memory = memory
        self.cards = self.shares = False
        self._last: str | None = None  # the step after which the run ends
        self.dashboard: str | None = None
        self.events = Events(None)
        self.home: Path | None = None
        self._peak_of_workers = 0

    def log_to(self, run: Path, note: Callable[[], None] | None = None) -> None:
        """Keep the log, and what failed, in the ``run`` folder of a plan; `note` is called before that."""
        self.home, self.events = run, Events(run, note)

    @staticmethod
    def memory_for(room: int) -> int:
        """Bytes that a worker needs for a unit to have so much `room`."""
        return min(room + _IDLE_BYTES, 2 * room)

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
            least = need + _IDLE_BYTES + 2**20
            raise ResourceError(
                f"{what} takes about {least // 2**20} MiB, a worker has {self.memory // 2**20} MiB",
                where=where,
                remedy=more_memory(least) + otherwise,
            )

    @property
    def peak_rss_bytes(self) -> int:
        """Largest resident memory of any single process so far, driver or worker, in bytes."""
        return max(self._peak_of_workers, limits.peak_rss())

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
        halve : callable, optional
            ``halve(name, args)`` gives smaller units that do the same work, by name, or none where it cannot
            be cut. They are yielded in the place of a unit that a worker's memory did not hold.
        card : bool
            Whether a worker with a graphics card does it better, where there is one.

        Yields
        ------
        tuple of str and dict
            Unit name and receipt, which also holds `peak_rss` of the process that ran it, in bytes, its
            `worker`, and the `seconds` it took.

        Raises
        ------
        OversegError
            At once, as raised by a unit, if trying again cannot help; the others are cancelled.
        TaskError, StorageError, ResourceError
            If units failed each time they were tried, after all others were done; or if nothing succeeds any
            more, or there are no workers.
        """
        units, halve = self._mine(step, units, halve)
        folder = None if receipts is None else Path(receipts)
        found = {} if folder is None else self._on_disk(folder, step, units)
        done = {name: each for name, each in found.items() if valid is None or valid(name, each)}
        total = len(units)
        if progress:
            progress(step, 0, total)
        yield from done.items()
        if progress and done:
            progress(step, len(done), total)
        todo = {name: args for name, args in units.items() if name not in done}
        if todo:
            self.events.add("step", step, total=total, done=len(done))
            stale = {name: each for name, each in found.items() if name in todo}
            tries = _Tries(self, step, fn, todo, halve, card)
            with self._recorder(folder, step, stale) as record:
                yield from self._kept(tries, record, total, progress)
        if step == self._last:
            raise Ended(step, total)

    def _kept(self, tries: _Tries, record: Any, total: int, progress: Progress | None) -> Results:
        """Results as they come, with a receipt, a line in the log and progress for each."""
        step, count = tries.step, total - tries.left
        with closing(tries):
            for name, receipt in tries.results():
                record(name, receipt)
                self.events.done(step, name, receipt)
                self._peak_of_workers = max(self._peak_of_workers, receipt["peak_rss"])
                count += 1
                if progress:
                    progress(step, count, total + tries.added)
                yield name, receipt

    def _on_disk(self, folder: Path, step: str, units: Mapping[str, Any]) -> dict[str, Receipt]:
        found = receipts.read(folder, step)
        return {name: found[name] for name in units if name in found}

    def _recorder(self, folder: Path | None, step: str, stale: Mapping[str, Receipt]) -> Any:
        if folder is None:
            return nullcontext(_forget)
        return receipts.recording(folder, step, stale=stale)

    def _mine(
        self, step: str, units: Mapping[str, Args], halve: Halve | None
    ) -> tuple[Mapping[str, Args], Halve | None]:
        """Which units of a step are this executor's, and whether they may be halved."""
        return units, halve

    @abstractmethod
    def _each(self, step: str, fn: Unit, units: Mapping[str, Args], card: bool) -> Outcomes:
        """Run the units, once each but for those whose worker died; when closed, let go of the rest."""


def _forget(name: str, receipt: Receipt) -> None:
    """Leave no receipt."""


class InlineExecutor(Executor):
    """One unit after the other, in this process."""

    def _each(self, step: str, fn: Unit, units: Mapping[str, Args], card: bool) -> Outcomes:
        for name, args in units.items():
            yield name, call(step, name, fn, args)


class _Tries:
    """The units of one step, run in rounds until each is done or given up."""

    def __init__(
        self,
        executor: Executor,
        step: str,
        fn: Unit,
        units: Mapping[str, Args],
        halve: Halve | None,
        card: bool,
    ) -> None:
        self.added, self.left = 0, len(units)
        self.step = step
        self._executor, self._fn, self._card = executor, fn, card
        self._units, self._halve = dict(units), halve
        self._tries = dict.fromkeys(units, 0)
        self._given_up: dict[str, Failure] = {}
        self._running: Outcomes | None = None

    def results(self) -> Results:
        todo, round_ = self._units, 0
        while todo:
            failed: dict[str, Failure] = {}
            in_a_row = 0
            self._running = self._executor._each(self.step, self._fn, todo, self._card)
            for name, outcome in self._running:
                if not isinstance(outcome, Failure):
                    in_a_row = 0
                    yield name, outcome
                    continue
                self._note(name, outcome)
                failed[name] = outcome
                in_a_row += not (outcome.greedy and self._halve)
                if in_a_row >= _HOPELESS:
                    self._given_up |= failed
                    self.close()
                    self._raise()
            todo = self._next_round(failed)
            if todo and any(not failure.greedy for failure in failed.values()):
                time.sleep(_PAUSES[min(round_, len(_PAUSES) - 1)])
            round_ += 1
        if self._given_up:
            self._raise()

    def close(self) -> None:
        """Let go of what runs."""
        if self._running is not None:
            self._running.close()

    def _note(self, name: str, failure: Failure) -> None:
        facts = {"worker": failure.worker, "why": failure.error.what, "where": failure.error.where}
        self._executor.events.add("failed", self.step, name, **facts)
        if failure.final:
            self.close()
            raise failure.error
        self._tries[name] += 1

    def _next_round(self, failed: Mapping[str, Failure]) -> dict[str, Args]:
        todo: dict[str, Args] = {}
        for name, failure in failed.items():
            args = self._units[name]
            halves = self._halve(name, args) if failure.greedy and self._halve is not None else {}
            if halves:
                _log.warning("unit %s of step '%s' takes too much memory; it is halved", name, self.step)
                self._executor.events.add("halved", self.step, name, into=list(halves))
                self.added += len(halves) - 1
                self._units |= halves
                self._tries |= dict.fromkeys(halves, 0)
                todo |= halves
            elif self._tries[name] < _TRIES and not failure.greedy:
                todo[name] = args
            else:
                self._given_up[name] = failure
        return todo

    def _raise(self) -> None:
        for name, failure in self._given_up.items():
            self._executor.events.add("quarantined", self.step, name, why=failure.error.what)
        home = self._executor.home
        raise quarantine.put_down(home, self.step, self._given_up, self.left + self.added)


@contextmanager
def open_executor(
    run: RunSettings, *, client: Any = None, tasks_hint: int = 1, home: Path | None = None
) -> Iterator[Executor]:
    """An executor for the time of a ``with`` block.

    Parameters
    ----------
    run : RunSettings
        Workers, memory per worker, or the address of a scheduler.
    client : distributed.Client or Executor, optional
        A running cluster to use; or an executor that is open, and stays so.
    tasks_hint : int
        About how many units the largest step has. One unit, or one worker, runs in this process.
    home : Path, optional
        The ``run`` folder of the plan that is worked on, for the output of jobs.

    Yields
    ------
    Executor
    """
    if isinstance(client, Executor):
        yield client
        return
    if client is not None:
        from overseg.cluster import on_dask

        yield on_dask.given(client, run.memory)
        return
    if run.address is not None:
        from overseg.cluster import on_dask

        with on_dask.connected(run.address, run.memory) as connected:
            yield connected
        return
    if run.cluster is not None and run.cluster.kind != "local":
        from overseg.cluster import on_jobs

        with on_jobs.of(run.cluster, run.memory, home) as of_jobs:
            yield of_jobs
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
