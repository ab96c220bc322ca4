"""Units on Dask workers: our own embedded ones, a given client's, or those behind an address."""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.comm import CommClosedError
from distributed.protocol import pickle
from distributed.utils import CancelledError, silence_logging_cmgr

from overseg.cluster import limits
from overseg.cluster.embedded import Workers, scratch
from overseg.cluster.executor import Args, Executor, Outcomes
from overseg.cluster.failures import Failure, Unit, call, this_worker
from overseg.cluster.receipts import Receipt
from overseg.cluster.watch import TICK, Watch, lost
from overseg.errors import InputError, ResourceError, TaskError, more_memory

_log = logging.getLogger(__name__)
_IN_FLIGHT = 2  # units per worker: one that runs and one that waits there
_TRIES = 3  # deaths of workers that one unit may cause
_SEEN = 12  # deaths that it may see, alone there or not
_TOGETHER = 0.25  # seconds in which all units of a dead worker are told of
_PATIENCE = 300.0  # seconds without any worker
_SHOWN = find_spec("bokeh") is not None  # the dashboard needs it
_CARDLESS = 60.0  # seconds without a graphics card, until processors do what one was to do
# A kernel may keep a worker from answering for long: it is not dead, and its unit must not be run beside it.
_NEVER_IDLE = {"distributed.scheduler.worker-ttl": None, "distributed.scheduler.idle-timeout": None}


class DaskExecutor(Executor):
    """Runs units through a `distributed.Client`.

    Parameters
    ----------
    client : distributed.Client
        Connected, synchronous.
    workers, memory : int
        See `Executor`.
    embedded : Workers, optional
        The worker processes, where they are ours.
    patience : float
        Seconds to wait for a first or next worker before giving up.
    why : callable, optional
        What a batch system says of workers that do not come up.
    tries : int
        Deaths of workers that one unit may cause; a foreign scheduler has tried several times itself.
    cards : bool
        Whether workers with graphics cards were asked for; otherwise the workers there are tell.
    """

    def __init__(
        self,
        client: Client,
        workers: int,
        memory: int,
        embedded: Workers | None = None,
        patience: float = _PATIENCE,
        why: Callable[[], str | None] | None = None,
        tries: int = _TRIES,
        cards: bool = False,
    ) -> None:
        super().__init__(workers, memory)
        self._client = client
        self._embedded = embedded
        self._patience, self._why, self._tries = patience, why, tries
        self.dashboard = client.dashboard_link if _SHOWN else None
        self.cards = cards or any(
            each.get("resources", {}).get("GPU") for each in client.scheduler_info()["workers"].values()
        )

    def _each(self, step: str, fn: Unit, units: Mapping[str, Args], card: bool) -> Outcomes:
        batch = _Batch(self._client, step, fn, units)
        watch = Watch(self._client, self._embedded, self._patience, self._why, self.events)
        try:
            while batch.left:
                watch.look(batch.running.values())
                if batch.on_cards and watch.without_cards > _CARDLESS:
                    _log.warning("no worker has a graphics card any more; processors go on with '%s'", step)
                    batch.recall()
                on_card = card and watch.cards > 0
                # A unit under suspicion must not share its worker's queue with innocent ones.
                most = (1 if batch.deaths else _IN_FLIGHT) * (watch.cards if on_card else watch.threads)
                batch.submit(most, on_card)
                future = batch.next_done(TICK)
                if future is None:
                    continue
                try:
                    outcome = batch.outcome(future)
                except KilledWorker as error:
                    watch.died()
                    yield from self._bereaved(batch, batch.together(future, error), error)
                    continue
                if outcome is not None:  # else it was called back, or its worker does not hand it over
                    watch.progressed()
                    yield outcome
        finally:
            if batch.left:
                batch.cancel()
                if self._embedded:  # what still runs there must not write after we are gone
                    self._embedded.kill()

    def _bereaved(
        self, batch: _Batch, futures: list[Future], error: KilledWorker
    ) -> Iterator[tuple[str, Failure]]:
        """Units of a worker that died are put back in line, or given up."""
        worker = str(error.last_worker.name)
        greedy = self._embedded is not None and self._embedded.ended_for_memory(worker)
        for future in futures:
            name = batch.running[future]
            deaths = batch.again(future, alone=len(futures) == 1)
            self.events.add("died", batch.step, name, worker=worker, memory=greedy or None)
            if deaths < (min(2, self._tries) if greedy else self._tries):
                _log.warning("worker %s died; unit %s of step '%s' is done again", worker, name, batch.step)
                continue
            batch.give_up(name)
            yield name, self._death(batch.step, name, worker, greedy)

    def _death(self, step: str, name: str, worker: str, greedy: bool) -> Failure:
        if greedy:
            return Failure(
                ResourceError(
                    f"step '{step}' took far more than the {self.memory >> 20:,} MiB of a worker",
                    where=f"unit {name}",
                    remedy=more_memory(),
                ),
                worker=worker,
                greedy=True,
            )
        return Failure(
            TaskError(
                f"step '{step}' ended its worker process each time it was tried",
                where=f"unit {name}, {self._embedded.last_words(worker) if self._embedded else worker}",
                remedy=f"most often memory ran out: {more_memory()}; then run the same command again: "
                "what is done is kept",
            ),
            worker=worker,
            greedy=True,
        )


class _Batch:
    """The units of one step on their way through the scheduler."""

    def __init__(self, client: Client, step: str, fn: Unit, units: Mapping[str, Args]) -> None:
        self.step = step
        self.running: dict[Future, str] = {}
        self.deaths: dict[str, int] = {}
        self.on_cards: set[str] = set()
        self._seen: dict[str, int] = {}
        self._client, self._fn, self._units = client, fn, units
        self._waiting = list(units)[::-1]
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()

    @property
    def left(self) -> bool:
        return bool(self._waiting or self.running)

    def submit(self, most: int, on_card: bool) -> None:
        while self._waiting and len(self.running) < most:
            name = self._waiting.pop()
            future = self._client.submit(
                attempt,
                self.step,
                name,
                pickle.dumps((self._fn, self._units[name])),
                key=f"overseg-{self.step}-{name}-{uuid.uuid4().hex[:8]}",
                pure=False,
                resources={"GPU": 1} if on_card else None,
            )
            if on_card:
                self.on_cards.add(name)
            self.running[future] = name
            future.add_done_callback(self._done.put)

    def next_done(self, timeout: float) -> Future | None:
        try:
            return self._done.get(timeout=timeout)
        except queue.Empty:
            return None

    def outcome(self, future: Future) -> tuple[str, Receipt | Failure] | None:
        """What the unit came to; None if its worker died before handing it over."""
        if future not in self.running:  # it was called back
            return None
        try:
            found = future.result(timeout=2 * TICK)
        except TimeoutError:
            self._done.put(future)
            return None
        except (CancelledError, CommClosedError):
            raise lost(self._client) from None
        name = self.running.pop(future)
        self.on_cards.discard(name)
        self.deaths.pop(name, None)
        return name, found

    def together(self, future: Future, error: KilledWorker) -> list[Future]:
        """The futures of all units that a dead worker had, running or waiting."""
        found: list[Future] = [future]
        others: list[Future] = []
        end = time.monotonic() + _TOGETHER
        while (rest := end - time.monotonic()) > 0 and (other := self.next_done(rest)) is not None:
            cause = other.exception() if other.status == "error" and other in self.running else None
            same = isinstance(cause, KilledWorker) and cause.last_worker.address == error.last_worker.address
            (found if same else others).append(other)
        for other in others:
            self._done.put(other)
        return found

    def again(self, future: Future, alone: bool) -> int:
        """Put the unit back in line; the deaths it has caused: where several were there, none is sure."""
        name = self.running.pop(future)
        self.on_cards.discard(name)
        self._seen[name] = self._seen.get(name, 0) + 1
        self.deaths[name] = self.deaths.get(name, 0) + 1 if alone else max(self.deaths.get(name, 0), 1)
        self._waiting.append(name)
        return self.deaths[name] if self._seen[name] < _SEEN else _SEEN

    def give_up(self, name: str) -> None:
        self._waiting.remove(name)
        del self.deaths[name]

    def recall(self) -> None:
        """Put back in line what waits for a graphics card that is not there."""
        mine = [future for future, name in self.running.items() if name in self.on_cards]
        self._waiting += [self.running.pop(future) for future in mine]
        self._client.cancel(mine)
        self.on_cards.clear()

    def cancel(self) -> None:
        with suppress(Exception):  # the scheduler may be what failed
            self._client.cancel(list(self.running))
        self.running.clear()
        self._waiting.clear()


def attempt(step: str, name: str, work: bytes) -> Receipt | Failure:
    """Run one unit on a worker.

    Its error is a value, for raised ones end up in the workers' logs as well; and function and arguments
    come packed, for a worker that cannot unpack a task by itself closes without a word.
    """
    try:
        fn, args = pickle.loads(work)
    except ImportError as error:
        return Failure(_cannot_import(str(error), f"step '{step}'"), worker=this_worker())
    return call(step, name, fn, args)


def _cannot_import(what: str, where: str) -> ResourceError:
    return ResourceError(
        f"the Dask workers cannot import what they need: {what}",
        where=where,
        remedy="install the same version of overseg, and of your own modules, in the workers' environment",
    )


def _check_imports(client: Client) -> None:
    """Refuse workers that lack overseg, or have another version: their answers might differ."""

    def probe() -> str:  # nested, so that it travels whole and needs no import to arrive
        try:
            import importlib.metadata

            import overseg.cluster.on_dask  # noqa: F401

            return "overseg " + importlib.metadata.version("overseg")
        except ImportError as error:
            return str(error)

    for worker, found in client.run(probe).items():
        if found != probe():
            raise _cannot_import(f"{found}, and {probe()} here", str(worker))


@contextmanager
def embedded(workers: int, memory: int) -> Iterator[DaskExecutor]:
    """A scheduler in this process and worker processes around it."""
    with (
        scratch() as folder,
        silence_logging_cmgr(logging.CRITICAL),  # longer than the cluster's own, which ends before its loop
        dask.config.set({**_NEVER_IDLE, "temporary-directory": str(folder)}),
        LocalCluster(
            n_workers=0,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=False,
            scheduler_kwargs={"allowed_failures": 0, "dashboard": _SHOWN},
        ) as cluster,
        Workers(cluster.scheduler_address, workers, memory, folder) as pool,
        Client(cluster, set_as_default=False) as client,
    ):
        yield DaskExecutor(client, workers, memory, pool)


@contextmanager
def connected(address: str, memory: int | None) -> Iterator[DaskExecutor]:
    """The workers of a running scheduler."""
    try:
        client = Client(address, set_as_default=False, timeout=30)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"cannot reach the Dask scheduler: {error}",
            where=address,
            remedy="check the address given to --scheduler, and that it can be reached from here",
        ) from None
    with silence_logging_cmgr(logging.CRITICAL), client:
        yield given(client, memory)


def given(client: Client, memory: int | None) -> DaskExecutor:
    """The workers of a client that is somebody else's to close."""
    if not isinstance(client, Client) or client.asynchronous:
        raise InputError(
            "the client is not a synchronous distributed.Client",
            where=f"client={client!r}",
            remedy="pass Client(address), without asynchronous=True",
        )
    _check_imports(client)
    infos = client.scheduler_info()["workers"].values()
    shares = [i["memory_limit"] // max(1, i["nthreads"]) for i in infos if i["memory_limit"]]
    memory = memory or min(shares, default=limits.GIB)
    return DaskExecutor(client, max(1, sum(i["nthreads"] for i in infos)), memory, tries=1)
