"""A Dask scheduler that is lost, and workers of it that come back when another run has taken over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client
from twins.trials import LIMIT, Subject, files_of

from benchmarks.fault_rows import Clock, Row, timed

COMMAND = "python -m benchmarks.faults scheduler"
_MODULE = "distributed.cli.dask_"
_LAST_GASP = 3.0  # seconds in which a worker that was let go of would end what it had begun


def rows(seed: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Ten schedulers lost, and ten times workers that hung meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder), seed)
        clock = Clock(seconds)  # which undisturbed runs do not take from
        yield scheduler_lost(subject, 10, clock.left(0.5)).plain()
        yield workers_back(subject, 10, clock.left()).plain()


def always() -> bool:
    """No limit of time."""
    return True


@dataclass
class Cluster:
    """A scheduler and two workers, as somebody's cluster has them."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]

    def signal(self, number: int) -> None:
        """To those workers that are still there."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                worker.send_signal(number)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Started in a folder, and gone in the end."""
    note = folder / "scheduler.json"
    whole = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **whole}
    words = [sys.executable, "-m", f"{_MODULE}scheduler", "--host", "127.0.0.1", "--port", "0"]
    first = subprocess.Popen([*words, "--no-dashboard", "--scheduler-file", str(note)], **quiet)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        end = time.monotonic() + LIMIT
        while not note.exists() and time.monotonic() < end and first.poll() is None:
            time.sleep(0.05)
        mine = [sys.executable, "-m", f"{_MODULE}worker", "--scheduler-file", str(note), "--nthreads", "1"]
        mine += ["--no-nanny", "--no-dashboard", "--memory-limit", "2GiB"]
        workers += [
            subprocess.Popen([*mine, "--local-directory", str(folder / "scratch")], **quiet) for _ in range(2)
        ]
        address = json.loads(note.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=LIMIT)
        yield Cluster(address, first, workers)
    finally:
        for process in (*workers, first):
            process.kill()
            process.wait()
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        note.unlink(missing_ok=True)


def scheduler_lost(subject: Subject, times: int, go_on: Callable[[], bool] = always) -> Row:
    """The scheduler is killed while `correct` plans or writes; then on with a new one, or none."""
    waits = []
    steps = ("scan", "fill", "write")
    with timed("scheduler lost", COMMAND) as row:
        while row.landed < times and row.times < 3 * times and go_on():
            volume, aim = subject.fresh(), steps[row.times % len(steps)]
            row.times += 1
            with cluster(volume.parent) as lost:
                run = subject.start("correct", volume, "--scheduler", lost.address)
                if run.in_step((aim,), least=subject.random.uniform(0, 0.5)):
                    lost.scheduler.kill()
                begin = time.monotonic()
                ending = run.end()
            if ending.code:
                row.landed += 1
                waits.append(time.monotonic() - begin)
                if "scheduler" not in ending.error():
                    raise AssertionError(f"the error does not tell of the scheduler: {ending}")
            if row.times % 2:
                with cluster(volume.parent) as other:
                    subject.check_hash(subject.run("correct", volume, "--scheduler", other.address))
                subject.check_corrected(volume, subject.hash)
                shutil.rmtree(volume.parent)
            else:
                subject.finish(volume)
    row.result = (
        f"exit 1, a clear error after {max(waits, default=0):.0f} s at most; run again, with a new scheduler "
        "or with none, the same hash and voxels"
    )
    return row


def workers_back(subject: Subject, times: int, go_on: Callable[[], bool] = always) -> Row:
    """Workers hang while they write, and the scheduler dies; they come back when another run is done.

    That other run is an undo, or an apply.
    """
    with timed("scheduler lost, its workers hang and come back later", COMMAND) as row:
        while row.landed < times and row.times < 3 * times and go_on():
            volume = subject.fresh()
            place = subject.plan(volume)
            row.times += 1
            with cluster(volume.parent) as lost:
                run = subject.start("apply", place, "--scheduler", lost.address)
                met = run.in_step(("write",), least=subject.random.uniform(0, 0.8))
                time.sleep(subject.random.uniform(0, 0.05))
                lost.signal(signal.SIGSTOP)
                lost.scheduler.kill()
                ending = run.end()
                if ending.code:
                    ending.error()
                row.landed += bool(met and ending.code)
                back = row.times % 2
                subject.run("undo" if back else "apply", place, "--workers", 1)
                then = files_of(volume)
                lost.signal(signal.SIGCONT)
                time.sleep(_LAST_GASP)
                if files_of(volume) != then:
                    raise AssertionError("a worker of the lost scheduler wrote after another run was done")
            if back:
                subject.check_original(volume)
            else:
                subject.check_corrected(volume, subject.hash)
            shutil.rmtree(volume.parent)
    row.result = (
        "they look at the lock before each write, and write nothing: every byte as the other run left it"
    )
    return row
