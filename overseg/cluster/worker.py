"""One embedded worker: ``python -m overseg.cluster.worker ADDRESS NAME DRIVER_PID MEMORY FOLDER``.

A plain process with one thread for work. It needs nothing of the caller's script (no ``__main__`` guard),
and it dies with its driver, however that one dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def die_with(driver: int) -> None:
    """Arrange for this process to be gone as soon as the driver is.

    The kernel's signal comes even while a kernel of ours holds the interpreter. The end of standard input,
    whose other end only the driver holds, serves where there is no such signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:  # it died before the signal was arranged
        os._exit(1)
    threading.Thread(target=_watch, name="driver-watch", daemon=True).start()


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


async def _serve(address: str, name: str, memory: int, folder: str) -> None:
    from distributed import Worker

    worker = Worker(
        address,
        name=name,
        nthreads=1,
        memory_limit=memory,
        local_directory=folder,
        host="127.0.0.1",
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )
    async with worker:
        await worker.finished()


def main(argv: list[str]) -> None:
    """Serve until the scheduler lets go or the driver is gone."""
    address, name, driver, memory, folder = argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    die_with(int(driver))
    import dask

    # Results are paths, so there is nothing to spill; and a paused worker would wait for ever in silence.
    quiet = {f"distributed.worker.memory.{act}": False for act in ("target", "spill", "pause", "terminate")}
    with dask.config.set({**quiet, "temporary-directory": folder}):
        asyncio.run(_serve(address, name, int(memory), folder))


if __name__ == "__main__":
    main(sys.argv[1:])
