"""One writer per volume: a lock beside the voxels that a killed run cannot leave behind for ever.

A lock is a numbered file in ``.overseg/lock/``, made exclusively; the highest number holds. Whoever takes
over from a dead owner makes the next number, so that of several who try one wins, and the tasks of the former
owner, who look before each write, notice that they hold nothing any more.
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from overseg.errors import LockedError, OversegError, command_line

if TYPE_CHECKING:
    from overseg.volume.files import Files
    from overseg.volume.volume import Volume

FOLDER = ".overseg/lock"
_TRIES = 5
_LOOKS, _SOON = 5, 0.2  # at a lock that somebody tries to take over, and seconds in between
_ARRAY = "job array"  # in the place of a machine: held by processes that come and go


@dataclass(frozen=True)
class Owner:
    """A process, told apart from all others that ever were.

    Attributes
    ----------
    host : str
        Name of the machine as people know it.
    machine : str
        Identity of the machine and of the process numbers in force there (containers have their own).
    boot : str
        Identity of the machine's present run.
    pid : int
    started : str
        When the process started, in the system's own clock.
    token : str
        Unique to one lock.
    since : str
        Local time at which the lock was taken, for people.
    job : str
        Cluster and number of the SLURM job that the process is.
    restarts : int
        How often SLURM has put that job into the queue again: only when it had ended.
    """

    host: str
    machine: str
    boot: str
    pid: int
    started: str
    token: str
    since: str
    job: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Lock:
    """A lock that is held; small enough to travel with every task.

    Attributes
    ----------
    volume : Volume
    generation : int
        The number of the lock's file.
    token : str
        What the file must still say.
    """

    volume: Volume
    generation: int
    token: str

    @property
    def is_there(self) -> bool:
        """Whether the lock's file still says what it must."""
        owner = _read(self.volume.files, self.generation)
        return owner is not None and owner.token == self.token

    def check(self) -> None:
        """Make sure that the lock is still held; called before each write.

        Raises
        ------
        LockedError
            If another run took it over.
        """
        for _ in range(_LOOKS):
            if not self.is_there:
                break
            if self.volume.files.read(_key(self.generation + 1)) is None:
                return
            time.sleep(_SOON)  # who came too late to take it over takes that file away again
        raise LockedError(
            "this run no longer holds the volume: another run took the lock over",
            where=self.volume.location,
            remedy="nothing more was written. If that run still goes on, let it finish: `overseg show "
            "VOLUME` tells. A job array that was undone begins again with --prepare",
        )

    def release(self) -> None:
        """Hold the volume no more. Nothing happens if another run took it over."""
        if self.is_there:
            self.volume.files.delete(_key(self.generation))


@contextmanager
def locked(volume: Volume, *, break_lock: bool = False, held: Lock | None = None) -> Iterator[Lock]:
    """Hold a volume for the time of a ``with`` block.

    Parameters
    ----------
    volume : Volume
    break_lock : bool
        Take over a lock left by another host, whose processes cannot be seen from here.
    held : Lock, optional
        Of `hold`: not taken, but released in the end, if that end is a good one.

    Yields
    ------
    Lock

    Raises
    ------
    LockedError
        If a living process on this host holds the volume, or a process on another host may.
    StorageError
        If the store refuses.
    """
    if held is not None:
        held.check()
        yield held
        held.release()
        return
    lock = _acquire(volume, _this_process(), break_lock)
    try:
        yield lock
    finally:
        with suppress(OversegError):  # what cannot be removed is taken over by the next run
            lock.release()


def hold(volume: Volume, array: str, *, break_lock: bool = False) -> Lock:
    """Hold a volume for the tasks of a job array, which run on many machines, until it is released.

    Parameters
    ----------
    volume : Volume
    array : str
        Names the array; prepared once more it takes over from itself, and tasks of before write no more.
    break_lock : bool
        As for `locked`.

    Returns
    -------
    Lock

    Raises
    ------
    LockedError
        If a run, or another array, holds the volume.
    """
    me = Owner(array, _ARRAY, "", 0, "", uuid.uuid4().hex, time.strftime("%Y-%m-%d %H:%M:%S"))
    return _acquire(volume, me, break_lock)


def _acquire(volume: Volume, me: Owner, break_lock: bool) -> Lock:
    files = volume.files
    for _ in range(_TRIES):
        before = {generation: _read(files, generation) for generation in _generations(files)}
        highest = max(before, default=0)
        for generation in sorted(before, reverse=True):  # one above may be of who died as he came too late
            owner = before[generation]
            if owner is not None:
                _refuse_if_held(owner, me, volume, break_lock)
        if not files.create(_key(highest + 1), json.dumps(asdict(me)).encode()):
            continue  # another run was faster: look again
        # Locks below must still be those that were there; one above means that we came late. Also below there
        # may be a new one: who holds generation 1 began when all were given back, and is not to be robbed.
        now = {each: _read(files, each) for each in _generations(files) if each != highest + 1}
        lock = Lock(volume, highest + 1, me.token)
        if lock.is_there and all(each in before and it in (None, before[each]) for each, it in now.items()):
            for generation in now:
                files.delete(_key(generation))
            return lock
        lock.release()
    raise LockedError(
        "several runs are trying to take this volume at once",
        where=volume.location,
        remedy="let one of them go on and wait for it",
    )


def _refuse_if_held(owner: Owner, me: Owner, volume: Volume, break_lock: bool) -> None:
    if owner.machine == _ARRAY:
        if not break_lock and (me.machine, me.host) != (_ARRAY, owner.host):
            raise LockedError(
                f"the tasks of a job array hold this volume: {owner.host}, since {owner.since}",
                where=volume.location,
                remedy=f"finish it with `{command_line('apply', owner.host, '--finish')}`; or cancel its "
                "jobs, and then add --break-lock",
            )
        return
    if me.machine == _ARRAY:
        me = _this_process()
    here = owner.machine == me.machine and owner.host == me.host
    if here and not _alive(owner, me):
        return
    if me.job and me.job == owner.job and me.restarts > owner.restarts:
        return  # the same job on another node, which SLURM began anew since that one was lost
    who = f"process {owner.pid} on {owner.host}, since {owner.since}"
    if here:
        raise LockedError(
            f"another run is writing to this volume: {who}",
            where=volume.location,
            remedy=f"wait until it is done, or stop it (`kill {owner.pid}`) and run this again",
        )
    if not break_lock:
        raise LockedError(
            f"a run on another machine holds this volume: {who}",
            where=volume.location,
            remedy=f"if that run still goes on, wait; if it is gone (look on {owner.host}), add --break-lock",
        )


def _alive(owner: Owner, me: Owner) -> bool:
    return owner.boot == me.boot and _started(owner.pid) == owner.started


def _this_process() -> Owner:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    started, token = _started(pid) or "", uuid.uuid4().hex
    return Owner(platform.node(), _machine(), _boot(), pid, started, token, since, *_job())


def _job() -> tuple[str, int]:
    number, restarts = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")
    job = f"{os.environ.get('SLURM_CLUSTER_NAME', '')}:{number}" if number else ""
    return job, int(restarts) if restarts.isdigit() else 0


def _machine() -> str:
    """Identity of this machine and, on Linux, of the namespace in which its process numbers hold."""
    with suppress(OSError):
        with open("/etc/machine-id", encoding="ascii") as file:
            machine = file.read().strip()
        return f"{machine}:{os.readlink('/proc/self/ns/pid')}"
    return f"{uuid.getnode():x}"


def _boot() -> str:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    import psutil

    return f"{psutil.boot_time():.0f}"


def _started(pid: int) -> str | None:
    """When a process started, ``None`` if there is no such process (a zombie is none)."""
    with suppress(OSError):
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    if os.path.exists("/proc/self/stat"):
        return None
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def _generations(files: Files) -> list[int]:
    names = [key.rsplit("/", 1)[-1] for key in files.list(FOLDER)]
    return [int(name) for name in names if name.isdigit()]


def _key(generation: int) -> str:
    return f"{FOLDER}/{generation:08d}"


def _read(files: Files, generation: int) -> Owner | None:
    """Who holds a generation. A file that says nothing is nobody's: `create` is whole or not at all."""
    data = files.read(_key(generation))
    if data is None:
        return None
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None
