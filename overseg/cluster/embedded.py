"""Worker processes of this driver: started, watched, replaced, and gone when it is."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from overseg.errors import ResourceError

#: POT loads every array library it finds; of torch alone that is seconds and 180 MB, and none is used here.
NOT_FOR_POT = tuple(f"POT_BACKEND_DISABLE_{name}" for name in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"))

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "BLOSC_NTHREADS",
    "ZARR_THREADING__MAX_WORKERS",
)
_PREFIX = "overseg-workers-"
_OVER = 1.25  # times its memory a worker may take, before it is ended rather than the whole job


class Workers:
    """A fixed number of worker processes for the scheduler at `address`.

    Parameters
    ----------
    address : str
        The scheduler's.
    count : int
        How many to keep alive.
    memory : int
        Bytes for each.
    folder : Path
        For their temporary files.
    """

    def __init__(self, address: str, count: int, memory: int, folder: Path) -> None:
        self._address, self._count, self._memory, self._folder = address, count, memory, folder
        self._alive: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._deaths = 0
        self._greedy: set[str] = set()

    def keep(self) -> None:
        """Start the workers that are missing.

        Raises
        ------
        ResourceError
            If they die again and again while no unit gets done.
        """
        for name, process in list(self._alive.items()):
            if process.poll() is not None:
                self._bury(name)
                self._deaths += 1
                if self._deaths > 3 * self._count + 3:
                    raise ResourceError(
                        f"worker processes keep dying (the last with status {process.returncode})",
                        where=self.last_words(name),
                        remedy="look for the out-of-memory killer in the system's log; give fewer --workers "
                        "or more --memory",
                    )
            elif self._resident(process.pid) > _OVER * self._memory:
                self._greedy.add(name)
                process.kill()
        while len(self._alive) < self._count:
            self._start(f"worker-{self._started}")

    def progressed(self) -> None:
        """A unit was done: deaths so far are forgiven."""
        self._deaths = 0

    def ended_for_memory(self, name: str) -> bool:
        """Whether the worker was ended since it took far more memory than it was given."""
        return name in self._greedy

    def last_words(self, name: str) -> str:
        """The last line a worker wrote to its standard error, or its name."""
        try:
            lines = self._log(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{name}: {lines[-1]}" if lines else name

    def kill(self) -> None:
        """End all workers now; `keep` starts new ones."""
        for process in self._alive.values():
            process.kill()
        for name in list(self._alive):
            self._bury(name)

    def __enter__(self) -> Self:
        self.keep()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _start(self, name: str) -> None:
        words = [sys.executable, "-m", "overseg.cluster.worker", self._address, name, str(os.getpid())]
        with self._log(name).open("wb") as log:
            self._alive[name] = subprocess.Popen(
                [*words, str(self._memory), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **one_thread(), **python_path()},
            )
        self._started += 1

    def _bury(self, name: str) -> None:
        process = self._alive.pop(name)
        process.wait()
        if process.stdin:
            process.stdin.close()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    @staticmethod
    def _resident(pid: int) -> int:
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for workers; those that killed drivers left behind go as well.

    A driver locks its folder as long as it lives, so nobody takes a living one's away.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        with suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "new").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (folder / "new").rename(folder / "lock")  # seen by others only now that it is locked
            yield folder


def one_thread() -> dict[str, str]:
    """Variables that give each library one thread, and POT none of the array libraries it asks for."""
    return dict.fromkeys((*_ONE_THREAD, *NOT_FOR_POT), "1")


def python_path() -> dict[str, str]:
    """Variables for modules to be found where this process finds them."""
    places = [str(Path(place or os.curdir).resolve()) for place in sys.path]
    return {
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONSAFEPATH": "1",  # not also the working directory, where anything may lie
    }
