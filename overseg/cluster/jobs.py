"""Jobs of SLURM, PBS or LSF that hold workers: submitted, watched, replaced, given back."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import SchedulerPlugin, Status
from tornado.ioloop import PeriodicCallback

from overseg.cluster import queues
from overseg.cluster.jobscript import SUBMIT
from overseg.errors import OversegError, ResourceError
from overseg.settings import ClusterSettings

_log = logging.getLogger(__name__)

_LOOK = 3.0  # seconds between looks at the workers, and at the queue while something happens there
_SELDOM = 30.0  # seconds between looks at a queue in which nothing happens
_AT_ONCE = 10  # jobs to submit at a look: the batch system is everybody's
_SURPLUS = 300.0  # seconds that jobs may be too many before idle ones are given back
_STILLBORN = 3  # jobs in a row that end before a worker of theirs was seen


class Jobs:
    """The jobs behind a Dask cluster: submitted, watched, replaced, and given back when idle.

    Dask's own `adapt` is not used. It asks for as many workers as the tasks handed to its scheduler seem to
    need, and we hand out a few at a time; with several processes to a job it neither replaces lost ones nor
    keeps a steady number; and it cannot know that a job was cancelled before it began.

    All but `want`, `cancel` and `why_pending` runs in the thread of the cluster's event loop.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        With a scheduler and no jobs.
    settings : ClusterSettings
    card_job : dict
        Options of a job with a card.
    logs : Path
        Where the jobs' output goes.
    """

    def __init__(self, cluster: Any, settings: ClusterSettings, card_job: dict[str, Any], logs: Path) -> None:
        self._cluster, self._settings, self._logs = cluster, settings, logs
        self._name = str(cluster.job_name)
        job_cls, options = queues.impatient(cluster.job_cls), cluster.new_spec["options"]
        self._specs = {
            "job": {"cls": job_cls, "options": options},
            "card": {"cls": job_cls, "options": {**options, **card_job}},
        }
        self._left = 0
        self._count = 0
        self._served: set[str] = set()
        self._stillborn = 0
        self._surplus_since: float | None = None
        self._queued: dict[str, queues.Entry] = {}
        self._pause, self._asked = _LOOK, -_SELDOM
        self._said: dict[str, str] = {}
        self._fatal: OversegError | None = None
        self._timer: PeriodicCallback | None = None
        self._busy = self._cancelled = False

    def open(self) -> None:
        """Submit the first jobs, and keep looking after them.

        Raises
        ------
        ResourceError
            If the batch system refuses them.
        """
        self._cluster.sync(self._start)
        if self._fatal is not None:
            raise self._fatal

    def want(self, units: int) -> None:
        """So many units are left to run."""
        self._left = units
        if units:
            self._cancelled = False

    def cancel(self) -> None:
        """End all jobs until units are wanted: what still runs there is not to write any more."""
        self._left, self._cancelled = 0, True
        with suppress(Exception):  # the way out of a step that failed already
            self._cluster.sync(self._end, list(self._cluster.worker_spec))

    def why_pending(self) -> str | None:
        """What the jobs wait for, in the batch system's words, as of the last look.

        Raises
        ------
        ResourceError
            If waiting cannot help.
        """
        if self._fatal is not None:
            raise self._fatal
        state = queues.in_words(self._queued) or "none that waits"
        said = [f"jobs '{self._name}': {state}"]
        said += self._said.values()
        return "; ".join([*said, f"their output: {self._logs}"])

    def close(self) -> None:
        """Look after the jobs no more; closing the cluster ends them."""
        self._cluster.sync(self._stop)

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        while self._busy:
            await asyncio.sleep(0.05)

    def arrived(self, worker: object) -> None:
        """A worker is there: its job is no failure, whenever it ends."""
        self._served.add(_job_of(worker))
        self._stillborn = 0

    async def _start(self) -> None:
        self._cluster.scheduler.add_plugin(_Arrivals(self), name="overseg-jobs")
        await self._tend()
        self._timer = PeriodicCallback(self._tend, 1000 * _LOOK)
        self._timer.start()

    async def _tend(self) -> None:
        over = self._cancelled or self._fatal is not None or self._cluster.status != Status.running
        if self._busy or over:
            return
        self._busy = True
        try:
            await self._look()
            await self._submit()
            await self._give_back()
        except Exception as error:  # a timer's errors end in a log that nobody reads
            self._fatal = ResourceError(
                f"the jobs cannot be looked after: {type(error).__name__}: {error}",
                where=f"jobs '{self._name}', {self._logs}",
                remedy="run the same command again: what is done is kept",
            )
        finally:
            self._busy = False

    async def _look(self) -> None:
        """Forget the jobs that are no more. Those whose workers are here are, so the queue is not asked."""
        ids = {name: job.job_id for name, job in self._cluster.workers.items()}
        here = {_job_of(worker.name) for worker in self._cluster.scheduler.workers.values()}
        now = time.monotonic()
        if ids.keys() <= here:
            self._queued = {}
            return
        if now - self._asked < self._pause:
            return
        self._asked = now
        found = await queues.ask(self._settings.kind, self._name, list(ids.values()))
        self._note("queue", found if isinstance(found, str) else None)
        if isinstance(found, str):
            return
        self._pause = min(2 * self._pause, _SELDOM) if found == self._queued else _LOOK
        self._queued = found
        for name, number in ids.items():
            if number not in found:
                self._bury(name)
        for entry in () if here else found.values():
            if entry.waits and entry.reason in queues.HOPELESS:
                what = f"the jobs will wait for ever: {queues.in_words(found)}"
                self._fatal = self._error(what, queues.HOPELESS[entry.reason])

    def _bury(self, name: str) -> None:
        number = self._drop(name)
        if number is None or name in self._served:
            self._served.discard(name)
            return
        self._stillborn += 1
        words = self._last_words(number)
        _log.warning("job %s ended before it had a worker: %s", number, words)
        if self._stillborn >= _STILLBORN:
            self._fatal = self._error(
                f"{self._stillborn} jobs ended before they had a worker: {words}",
                "see their output; most often they do not find this machine (set interface in [cluster]), "
                "or have another environment (set prologue or python)",
            )

    def _drop(self, name: str) -> str | None:
        """Forget a job that is not in the queue; its number."""
        self._cluster.worker_spec.pop(name, None)
        job = self._cluster.workers.pop(name, None)
        if job is None:
            return None
        job.status = Status.closed
        return None if job.job_id is None else str(job.job_id)

    async def _submit(self) -> None:
        for kind, wanted in (("job", self._wanted()), ("card", self._settings.gpu_jobs)):
            for _ in range(min(_AT_ONCE, wanted - len(self._names(kind)))):
                self._cluster.worker_spec[f"{kind}-{self._count}"] = self._specs[kind]
                self._count += 1
                self._pause = _LOOK
        error = None
        try:
            await self._cluster._correct_state()
        except Exception as caught:
            error = caught
        for name, job in list(self._cluster.workers.items()):
            if job.job_id is None:
                self._drop(name)
        self._refused(error)

    def _refused(self, error: Exception | None) -> None:
        """Submission failed: the end where no job is there, else fewer jobs for now."""
        command = SUBMIT[self._settings.kind]
        words = None
        remedy = (
            "correct queue, account, walltime, cores, memory or directives in [cluster]; to see the job "
            f"script: overseg cluster check --config FILE (where {command} is installed)"
        )
        if isinstance(error, FileNotFoundError):
            words = f"{command} is not found on this machine"
            remedy = (
                f"run the same command where {command} is, such as a login node; or load it (`module avail`)"
            )
        elif error is not None:
            words = f"{command} refuses: {_refusal(str(error))}"
        self._note("submit", words)
        if words is not None and not self._cluster.workers and not queues.PASSING.search(words):
            self._fatal = self._error(words, remedy)

    async def _give_back(self) -> None:
        """End idle jobs that have been too many for a while: the next step may want them again."""
        surplus = len(self._names("job")) - self._wanted()
        if surplus <= 0:
            self._surplus_since = None
            return
        now = time.monotonic()
        self._surplus_since = self._surplus_since or now
        if now - self._surplus_since >= _SURPLUS:
            workers = self._cluster.scheduler.workers.values()
            busy = {_job_of(worker.name) for worker in workers if worker.processing}
            await self._end([name for name in self._names("job") if name not in busy][:surplus])

    async def _end(self, names: list[str]) -> None:
        workers = self._cluster.scheduler.workers.values()
        theirs = [
            worker.name for worker in workers if _job_of(worker.name) in names and not worker.processing
        ]
        if theirs:
            await self._cluster.scheduler.retire_workers(names=theirs, close_workers=True, remove=True)
        for name in names:
            self._cluster.worker_spec.pop(name, None)
            self._served.discard(name)
        await self._cluster._correct_state()

    def _wanted(self) -> int:
        s = self._settings
        return min(max(math.ceil(self._left / s.cores), s.minimum_jobs), s.maximum_jobs)

    def _names(self, kind: str) -> list[str]:
        return [name for name in self._cluster.worker_spec if name.startswith(f"{kind}-")]

    def _note(self, topic: str, words: str | None) -> None:
        """Say what is wrong once, and keep it for `why_pending` until it is over."""
        if words is None:
            self._said.pop(topic, None)
        elif self._said.get(topic) != words:
            self._said[topic] = words
            _log.warning("%s", words)

    def _error(self, what: str, remedy: str) -> ResourceError:
        return ResourceError(what, where=f"jobs '{self._name}', {self._logs}", remedy=remedy)

    def _last_words(self, job_id: str) -> str:
        """The last line of the job's output that says anything."""
        named = re.compile(rf"(^|[-.eo]){job_id}($|\.)")  # each system has its own way
        for path in sorted(self._logs.glob("*")):
            if not named.search(path.name):
                continue
            with suppress(OSError):
                lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
                if lines:
                    return f"{lines[-1].strip()} ({path.name})"
        return "it left no output"


class _Arrivals(SchedulerPlugin):  # type: ignore[misc]
    """Tells the jobs of every worker that comes, for some are gone again at the next look."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def add_worker(self, scheduler: Any, worker: str) -> None:
        self._jobs.arrived(scheduler.workers[worker].name)


def _job_of(worker: object) -> str:
    """The job of a worker: ``job-3`` of ``job-3`` and of ``job-3-0``, its first of several processes."""
    return "-".join(str(worker).split("-")[:2])


def _refusal(error: str) -> str:
    """What the batch system said, of dask-jobqueue's account of it."""
    words = error.partition("stderr:")[2] or error
    return " ".join(words.split()) or "without a word"
