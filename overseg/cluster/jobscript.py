"""The scripts of jobs that hold workers: what dask-jobqueue is told, and what it writes."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from overseg.cluster.embedded import one_thread, python_path
from overseg.errors import MissingPackageError
from overseg.settings import ClusterSettings
from overseg.settings.cluster import OF_JOB

#: Variable of a job script: another interpreter might have another overseg, whose answers might differ.
VERSION = "OVERSEG_VERSION"

#: What submits a job.
SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}

#: What throws a job's output away, and the variable with its number.
_NOWHERE = {
    "slurm": ("--output=/dev/null",),
    "pbs": ("-o /dev/null", "-j oe"),
    "lsf": ("-o /dev/null",),
}
_NUMBER = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "lsf": "LSB_JOBID"}
_AWKWARD = re.compile(r"""[\s%"'\\]""")  # in a path: then the head of a job script has no way to name it

_WORKER = "overseg.cluster.jobworker.JobWorker"
_DEATH_TIMEOUT = 60  # seconds that a worker looks for its driver
_OVER = 1.25  # times its memory a worker may take before it is ended, rather than the whole job


def memory_of_worker(settings: ClusterSettings) -> int:
    """Bytes for each worker process: units go to any, so the least of those with and without a card."""
    each = _share(settings.memory, settings.cores)
    if settings.gpu_jobs:
        each = min(each, _share(settings.gpu_memory or settings.memory, 1))
    return each


def lifetime(settings: ClusterSettings) -> tuple[int, int]:
    """Seconds until a worker takes no more units, and by how much workers differ in it.

    What is left of the walltime is for the units that run then: a fifth of it, ten minutes at most.
    """
    margin = min(600, settings.walltime_seconds // 5)
    return settings.walltime_seconds - margin, margin // 3


def scripts(settings: ClusterSettings) -> dict[str, str]:
    """The job scripts, by what they are for; only addresses, names and logs are filled in later.

    Raises
    ------
    MissingPackageError
        If dask-jobqueue is not installed.
    """
    job_cls = cluster_class(settings).job_cls
    job = job_options(settings, "overseg", None)
    made = {"workers": job_cls("tcp://DRIVER:PORT", "job-0", **job)}
    if settings.gpu_jobs:
        card = {**job, **card_options(settings, None)}
        made["workers with a card"] = job_cls("tcp://DRIVER:PORT", "card-0", **card)
    return {name: each.job_script() for name, each in made.items()}


def cluster_class(settings: ClusterSettings) -> Any:
    """Of dask-jobqueue, for the kind. Raises `MissingPackageError`."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise MissingPackageError(
            f"jobs of a batch system need the package dask-jobqueue: {error}",
            where=f"[cluster] {settings.told}",
            remedy="pip install 'overseg[hpc]'",
        ) from None
    return getattr(dask_jobqueue, f"{settings.kind.upper()}Cluster")


def job_options(settings: ClusterSettings, name: str, logs: Path | None) -> dict[str, Any]:
    """Options of a job without a card, as dask-jobqueue names them; its output goes into `logs`."""
    whom = {"project" if settings.kind == "lsf" else "account": settings.account}
    return {
        **whom,
        "job_name": name,
        "queue": settings.queue,
        "walltime": _hours_minutes(settings) if settings.kind == "lsf" else settings.walltime,
        "cores": settings.cores,
        "processes": settings.cores,
        "memory": f"{settings.memory}B",
        "interface": settings.interface,
        "death_timeout": _DEATH_TIMEOUT,
        "python": shlex.quote(settings.python or sys.executable),
        **_head(settings, settings.directives, logs),
        "job_script_prologue": [
            *_output(settings, name, logs),
            *settings.prologue,
            *_environment(settings),
        ],
        "log_directory": None if logs is None or _is_awkward(logs) else str(logs),
        "worker_extra_args": _worker(settings, _share(settings.memory, settings.cores)),
    }


def card_options(settings: ClusterSettings, logs: Path | None) -> dict[str, Any]:
    """What is different in the options of a job with a card."""
    memory = settings.gpu_memory or settings.memory
    return {
        "queue": settings.gpu_queue or settings.queue,
        "cores": 1,
        "processes": 1,
        "memory": f"{memory}B",
        **_head(settings, (*settings.directives, *settings.asks_for_card), logs),
        "worker_extra_args": [*_worker(settings, _share(memory, 1)), "--resources", "GPU=1"],
    }


def _is_awkward(logs: Path | None) -> bool:
    return logs is not None and _AWKWARD.search(str(logs)) is not None


def _output(settings: ClusterSettings, name: str, logs: Path | None) -> list[str]:
    """What a job script does with its output, where its head cannot say."""
    if not _is_awkward(logs):
        return []
    return [f"exec > {shlex.quote(f'{logs}/{name}-')}${_NUMBER[settings.kind]}.out 2>&1"]


def _head(settings: ClusterSettings, directives: tuple[str, ...], logs: Path | None) -> dict[str, list[str]]:
    """Further lines of a job's head; a ``select`` of PBS takes the place of the usual one."""
    selects = any("select=" in line for line in directives)
    lines = [*directives, *(_NOWHERE[settings.kind] if _is_awkward(logs) else ())]
    return {"job_extra_directives": lines, "job_directives_skip": ["select="] if selects else []}


def _worker(settings: ClusterSettings, memory: int) -> list[str]:
    """Arguments of ``dask worker``; of two that are the same, such as the memory, the last counts."""
    seconds, stagger = lifetime(settings)
    return [
        *("--worker-class", _WORKER),
        *("--memory-limit", str(memory)),
        *("--lifetime", f"{seconds}s", "--lifetime-stagger", f"{stagger}s"),
        *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
    ]


def _environment(settings: ClusterSettings) -> list[str]:
    """Lines of a job script: one thread per library, nothing spilled, the driver's modules."""
    memory = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{act}": "False" for act in ("TARGET", "SPILL", "PAUSE")}
    variables = {
        **one_thread(),
        **memory,
        "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": str(_OVER),
        VERSION: version("overseg"),
    }
    if settings.python is None:  # the same interpreter, so the same modules
        variables |= python_path()
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _share(memory: int | None, processes: int) -> int:
    """Bytes for each worker process of a job."""
    return max(((memory or 0) - OF_JOB) // processes, 1 << 20)


def _hours_minutes(settings: ClusterSettings) -> str:
    minutes = -(-settings.walltime_seconds // 60)
    return f"{minutes // 60}:{minutes % 60:02d}"
