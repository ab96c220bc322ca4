"""How many processors and how much memory this process may really use.

The smallest of what the machine has, what the control group allows, what SLURM gave and, for memory,
what is free.
Every function takes the file system's root and the environment, so that tests can make up a machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
_LEAST_PER_WORKER = GIB
_SHARE = 0.85  # of the memory goes to workers; the rest is the driver's and the page cache's
_LOGIN_WORKERS = 2


@dataclass(frozen=True)
class Limits:
    """What a run may use on this machine.

    Attributes
    ----------
    cpus : int
        Processors.
    memory : int
        Bytes that are free for this run.
    """

    cpus: int
    memory: int


def available(root: Path = Path("/"), env: Mapping[str, str] | None = None) -> Limits:
    """The processors and bytes of memory that this process may use.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.
    env : mapping, optional
        The environment; the process's own when not given.
    """
    env = os.environ if env is None else env
    return Limits(cpus(root, env), memory(root, env))


def cpus(root: Path = Path("/"), env: Mapping[str, str] | None = None, affinity: int | None = None) -> int:
    """Processors, from affinity, cgroup quota and SLURM; at least 1."""
    env = os.environ if env is None else env
    found = [_affinity() if affinity is None else affinity]
    found += _cgroup_cpus(root)
    slurm = _number(env, "SLURM_CPUS_PER_TASK") or _number(env, "SLURM_CPUS_ON_NODE")
    if slurm:
        found.append(slurm)
    return max(1, min(found))


def memory(root: Path = Path("/"), env: Mapping[str, str] | None = None) -> int:
    """Bytes that are free: of the machine, of the cgroup, and of the SLURM job."""
    env = os.environ if env is None else env
    found = [_free(root), *_cgroup_memory(root)]
    per_node, per_cpu = _number(env, "SLURM_MEM_PER_NODE"), _number(env, "SLURM_MEM_PER_CPU")
    if per_node:  # megabytes; 0 means the whole node
        found.append(per_node << 20)
    elif per_cpu:
        found.append((per_cpu << 20) * (_number(env, "SLURM_CPUS_ON_NODE") or 1))
    return max(1, min(found))


def share(
    workers: int | None, per_worker: int | None, machine: Limits, login_node: bool = False
) -> tuple[int, int]:
    """Number of workers and bytes for each, given what the user asked for (``None``: not given).

    What was asked for is taken as it is. Otherwise there is a worker for each processor, as long as each
    gets at least a gibibyte (or the memory asked for); on a login node, which is everybody's, two at most.

    Examples
    --------
    >>> share(None, None, Limits(cpus=8, memory=4 * GIB))
    (3, 1216348160)
    >>> share(2, None, Limits(cpus=8, memory=4 * GIB))
    (2, 1824522240)
    """
    budget = int(machine.memory * _SHARE)
    if workers is None:
        most = min(machine.cpus, _LOGIN_WORKERS) if login_node else machine.cpus
        workers = max(1, min(most, budget // (per_worker or _LEAST_PER_WORKER)))
    return workers, per_worker or max(1, budget // workers >> 20) << 20


def on_login_node(
    env: Mapping[str, str] | None = None, which: Callable[[str], str | None] = shutil.which
) -> bool:
    """Whether this looks like a cluster's login node: SLURM is installed, but this is no job."""
    env = os.environ if env is None else env
    return "SLURM_JOB_ID" not in env and which("sbatch") is not None


def peak_rss(root: Path = Path("/")) -> int:
    """Largest resident memory of this process so far, in bytes.

    Read from ``VmHWM``, since ``getrusage`` also counts the process that this one was started from.
    """
    match = re.search(r"^VmHWM:\s*(\d+) kB", _text(root / "proc/self/status"), re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def give_back() -> None:
    """Hand freed memory back to the system, where Arrow and the C library (glibc) would keep it for later."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free(root: Path) -> int:
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def _cgroup_cpus(root: Path) -> list[int]:
    found = []
    for folder in _cgroup_folders(root, ""):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit():
            found.append(max(1, int(words[0]) // int(words[1])))
    for folder in _cgroup_folders(root, "cpu"):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit():
            found.append(max(1, int(quota) // int(period)))
    return found


def _cgroup_memory(root: Path) -> list[int]:
    found = []
    for controller, most, used, reclaimable in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _cgroup_folders(root, controller):
            limit = _text(folder / most).strip()
            if not limit.isdigit() or int(limit) >= 1 << 60:  # "max", or v1's way to say so
                continue
            current = _text(folder / used).strip()
            taken = int(current) if current.isdigit() else 0
            cache = re.search(rf"^{reclaimable} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
            found.append(int(limit) - max(0, taken - (int(cache[1]) if cache else 0)))
    return found


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """This process's folder of a v1 controller (v2: the empty name) and all above it, which bind as well."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            mount = root / "sys/fs/cgroup" / (names if controller else "")
            if controller and not mount.is_dir():
                mount = root / "sys/fs/cgroup" / controller
            parts = [part for part in path.split("/") if part and part != ".."]
            return [mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
    return []


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "")
    return int(value) if value.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
