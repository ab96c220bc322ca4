"""Will the jobs of a batch system be able to do the work? Asked before any is submitted."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from typing import Any

import psutil

from overseg.cluster import jobscript, queues
from overseg.cluster.executor import InlineExecutor
from overseg.errors import InputError, MissingPackageError, OversegError, ResourceError
from overseg.settings import ClusterSettings, RunSettings, Settings

#: Bytes that a core surely scans in a second: a twentieth of what it did in benchmarks/README.md ("Growth":
#: 128 GiB in 82 s by two cores), for file systems that many share and for `kind` both.
SLOWEST = 40 << 20

_LEAST_WALLTIME = 600  # seconds
_LEAST_MEMORY = 1 << 30  # bytes for a worker, of which most volumes need about half


@dataclass
class Readiness:
    """What was found.

    Attributes
    ----------
    problems : list of OversegError
        What would fail, with the remedies.
    warnings : list of str
        What cannot be told here, or may be meant.
    scripts : dict of str to str
        The job scripts, by what they are for.
    facts : dict
        Numbers: workers, memory, times.
    """

    problems: list[OversegError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def readiness(run: RunSettings, settings: Settings, target: Any = None) -> Readiness:
    """Look at the settings of a batch system, and at a volume that is to be worked on.

    Parameters
    ----------
    run : RunSettings
    settings : Settings
        What decides how a volume is read.
    target : str, Path, zarr.Array or zarr.Group, optional
        The volume.

    Returns
    -------
    Readiness

    Raises
    ------
    InputError
        If no batch system is asked for, or the volume cannot be used.
    """
    cluster = run.cluster
    if cluster is None or not cluster.is_batch:
        raise InputError(
            "there are no jobs to check",
            where="[cluster]" if cluster is None else f"[cluster] {cluster.told}",
            remedy='give a --config with a table [cluster] of kind "slurm", "pbs" or "lsf": docs/clusters.md',
        )
    found = Readiness()
    _look_around(cluster, run, found)
    seconds, stagger = jobscript.lifetime(cluster)
    memory = jobscript.memory_of_worker(cluster)
    found.facts |= {
        "workers": cluster.maximum_jobs * cluster.cores + cluster.gpu_jobs,
        "worker_memory_bytes": memory,
        "seconds_of_work_per_job": seconds - stagger,
    }
    if target is not None:
        _fit(cluster, settings, target, found)
        return found
    if cluster.walltime_seconds < _LEAST_WALLTIME:
        found.problems.append(
            ResourceError(
                f"a walltime of {cluster.walltime} is too short: workers start, run few units, and leave",
                where="[cluster] walltime",
                remedy="give 00:10:00 or more; or name the volume, to see what its tasks need",
            )
        )
    if memory < _LEAST_MEMORY:
        found.warnings.append(
            f"a worker has {memory >> 20:,} MiB; name the volume, to see whether that is enough for its tasks"
        )
    return found


def _look_around(cluster: ClusterSettings, run: RunSettings, found: Readiness) -> None:
    """What does not depend on a volume."""
    try:
        found.scripts = jobscript.scripts(cluster)
    except MissingPackageError as error:
        found.problems.append(error)
    if run.device == "cuda" and not cluster.gpu_jobs:
        found.problems.append(
            InputError(
                "a graphics card is asked for, and no job has one",
                where='device = "cuda", [cluster] gpu_jobs = 0',
                remedy='give gpu_jobs = 1 or more in [cluster]; or device = "auto"',
            )
        )
    command = jobscript.SUBMIT[cluster.kind]
    if shutil.which(command) is None:
        found.warnings.append(f"{command} is not here: whether it takes these jobs shows on the cluster")
    elif cluster.kind == "slurm":
        _ask_slurm(found)
    if cluster.interface is not None and cluster.interface not in psutil.net_if_addrs():
        found.warnings.append(
            f"this machine has no interface {cluster.interface!r}, which the driver will need"
        )


def _ask_slurm(found: Readiness) -> None:
    """Whether SLURM would take the jobs."""
    for name, script in found.scripts.items():
        refusal = queues.try_script(script)
        if refusal is None:
            continue
        for_good, words = refusal
        if for_good:
            found.problems.append(
                ResourceError(
                    f"SLURM refuses the job of {name}: {words}",
                    where="[cluster]",
                    remedy="correct queue, account, walltime, cores, memory or directives: "
                    "`sinfo -o '%P %l %c %m'` has each queue's longest walltime, and a node's cores and MiB",
                )
            )
        else:
            found.warnings.append(f"it cannot be told whether SLURM takes the job of {name}: {words}")


def _fit(cluster: ClusterSettings, settings: Settings, target: Any, found: Readiness) -> None:
    """Whether the volume's largest tasks fit a worker's memory and time."""
    from overseg.pipeline.scan import plan_scan
    from overseg.pipeline.work import peak_bytes
    from overseg.volume import open_volume

    volume = open_volume(target, label=settings.label, voxel_size=settings.voxel_size)
    worker = InlineExecutor(found.facts["workers"], found.facts["worker_memory_bytes"])
    raised = "raise memory (and gpu_memory) in [cluster], or lower cores"
    try:
        worker.check_room(peak_bytes(volume), "writing the largest chunk", volume.location)
        tasks = plan_scan(volume, settings, worker.room, worker.workers)
    except ResourceError as error:
        found.problems.append(ResourceError(error.what, where=error.where, remedy=raised))
        return
    largest = max(
        math.prod(hi - lo for lo, hi in task.box) * task.itemsize * len(task.time_points) for task in tasks
    )
    seconds, stagger = jobscript.lifetime(cluster)
    longest = math.ceil(largest / SLOWEST) + 1
    found.facts |= {"tasks": len(tasks), "largest_task_bytes": largest, "longest_task_seconds": longest}
    if longest > seconds - stagger:
        found.problems.append(
            ResourceError(
                f"the largest task may take {longest} s, a worker takes units for {seconds - stagger} s only",
                where=f"[cluster] walltime = {cluster.walltime!r}, {volume.location}",
                remedy="give more walltime; or less memory for each core, which makes smaller tasks",
            )
        )
    elif longest > cluster.walltime_seconds - seconds - stagger:
        found.warnings.append(
            f"the largest task may take {longest} s: one that begins late may meet the walltime and run again"
        )
