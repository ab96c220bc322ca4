"""Units on workers that are jobs of a batch system, or that have a graphics card of this machine each."""

from __future__ import annotations

import logging
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import dask
from distributed import Client
from distributed.utils import silence_logging_cmgr

from overseg.cluster import jobscript
from overseg.cluster.embedded import scratch
from overseg.cluster.executor import Args, Outcomes
from overseg.cluster.failures import Unit
from overseg.cluster.jobs import Jobs
from overseg.cluster.on_dask import _NEVER_IDLE, _SHOWN, DaskExecutor, given
from overseg.errors import MissingPackageError, ResourceError
from overseg.settings import ClusterSettings
from overseg.volume.faults import storage

_log = logging.getLogger(__name__)

_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
_LOOPBACK = "127.0.0.1"


class JobsExecutor(DaskExecutor):
    """Runs units on workers that are jobs, and says how many are needed.

    Parameters
    ----------
    client : distributed.Client
    jobs : Jobs
    settings : ClusterSettings
    """

    def __init__(self, client: Client, jobs: Jobs, settings: ClusterSettings) -> None:
        super().__init__(
            client,
            settings.maximum_jobs * settings.cores + settings.gpu_jobs,
            jobscript.memory_of_worker(settings),
            patience=settings.patience_seconds,
            why=jobs.why_pending,
            cards=settings.gpu_jobs > 0,
        )
        self._jobs = jobs
        if self.dashboard:  # Dask names the scheduler's own address, where the dashboard does not listen
            host = urlsplit(client.scheduler.address).hostname
            self.dashboard = self.dashboard.replace(f"//{host}:", f"//{_LOOPBACK}:")

    def _each(self, step: str, fn: Unit, units: Mapping[str, Args], card: bool) -> Outcomes:
        left = len(units)
        self._jobs.want(left)
        try:
            with closing(super()._each(step, fn, units, card)) as outcomes:
                for outcome in outcomes:
                    left -= 1
                    self._jobs.want(left)
                    yield outcome
        finally:
            self._jobs.want(0)
            if left:
                self._jobs.cancel()


def of(
    settings: ClusterSettings, memory: int | None, home: Path | None
) -> AbstractContextManager[DaskExecutor]:
    """The executor that the table ``[cluster]`` asks for, where that is neither this machine nor an address.

    Parameters
    ----------
    settings : ClusterSettings
    memory : int, optional
        Bytes for a worker with a card of this machine.
    home : Path, optional
        The ``run`` folder of a plan.
    """
    if settings.kind == "cuda":
        return on_cards(memory)
    return opened(settings, None if home is None else home / "jobs")


@contextmanager
def opened(settings: ClusterSettings, logs: Path | None = None) -> Iterator[DaskExecutor]:
    """A scheduler in this process, and jobs of a batch system as its workers.

    Parameters
    ----------
    settings : ClusterSettings
        Of a batch system.
    logs : Path, optional
        Folder for the jobs' output, on a file system that the nodes share; a temporary one when not given.

    Raises
    ------
    MissingPackageError
        If dask-jobqueue is not installed.
    ResourceError
        If there is no such interface, or the batch system refuses the jobs.
    StorageError
        If the folder for their output cannot be made.
    """
    cluster_class = jobscript.cluster_class(settings)
    if not any(name in os.environ for name in _JOB_VARIABLES):
        _log.info(
            "the Dask scheduler runs here, on %s, as long as there is work; where long programs are not "
            "welcome on a login node, submit this command as a job of its own",
            platform.node(),
        )
    with (
        scratch() as temporary,
        silence_logging_cmgr(logging.CRITICAL),
        dask.config.set(_NEVER_IDLE),
    ):
        folder = temporary if logs is None else logs.absolute()
        with storage("cannot write where the output of jobs goes", str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        job = jobscript.job_options(settings, f"overseg-{uuid.uuid4().hex[:6]}", folder)
        try:
            cluster = cluster_class(
                silence_logs=False,
                scheduler_options={
                    "allowed_failures": 0,
                    "dashboard": _SHOWN,
                    "dashboard_address": f"{_LOOPBACK}:0",
                },
                **job,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ResourceError(
                f"the Dask scheduler does not start here: {error}",
                where=f"[cluster] interface = {settings.interface!r}",
                remedy="give the interface that the nodes reach this machine by: `ip -brief address`",
            ) from None
        with cluster, Client(cluster, set_as_default=False) as client:
            jobs = Jobs(cluster, settings, jobscript.card_options(settings, folder), folder)
            try:
                jobs.open()
                yield JobsExecutor(client, jobs, settings)
            finally:
                jobs.close()


@contextmanager
def on_cards(memory: int | None) -> Iterator[DaskExecutor]:
    """A worker process for each graphics card of this machine.

    Raises
    ------
    MissingPackageError
        If dask-cuda is not installed.
    """
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise MissingPackageError(
            f"workers on graphics cards need the package dask-cuda: {error}",
            where='[cluster] kind = "cuda"',
            remedy="pip install dask-cuda; or leave out [cluster]: one card needs only --device cuda",
        ) from None
    with (
        silence_logging_cmgr(logging.CRITICAL),
        dask.config.set(_NEVER_IDLE),
        LocalCUDACluster(
            threads_per_worker=1,
            memory_limit=memory or "auto",
            resources={"GPU": 1},
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=False,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield given(client, memory)
