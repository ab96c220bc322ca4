"""Two drivers at once, and a scheduler that is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twins.trials import LIMIT, Subject, finish

from benchmarks.fault_rows import Row, timed


def two_at_once(subject: Subject, times: int) -> Row:
    """A second `apply`, `undo` and `correct` while the first one writes."""
    with timed("two drivers at once") as row:
        for _ in range(times):
            volume = subject.fresh()
            place = volume.parent / "v.overseg"
            subject.run("plan", volume)
            first = subject.start("apply", place)
            first.in_step(("write",))
            rivals = [("apply", place), ("undo", place), ("correct", volume)]
            endings = [subject.start(verb, target, workers=1) for verb, target in rivals]
            refused = [ending.end() for ending in endings]
            done = first.end()
            for ending in refused:
                # One that came when the first was through did its work, or found nothing to do.
                row.landed += ending.said.get("error") == "LockedError"
                if ending.said.get("error") not in (None, "LockedError", "PlanError"):
                    raise AssertionError(str(ending))
            if done.code:
                raise AssertionError(str(done))
            row.times += len(rivals)
            finish(subject, volume)
    row.result = f"the second is refused ({row.landed} met the first at work), the first ends as ever"
    return row


def scheduler_lost(subject: Subject, times: int) -> Row:
    """A scheduler of its own, with two workers, is killed while a run plans or writes."""
    waits = []
    with timed("scheduler lost") as row:
        while row.landed < times:
            volume = subject.fresh()
            with scheduler(volume.parent) as (process, address):
                run = subject.start("correct", volume, scheduler=address)
                step = subject.random.choice(["scan", "fill", "write"])
                if not run.in_step((step,)):
                    raise AssertionError(str(run.end()))
                process.kill()
                struck = time.monotonic()
                ending = run.end()
                waits.append(time.monotonic() - struck)
            row.times += 1
            row.landed += 1
            if ending.code != 1 or "scheduler is gone" not in ending.said.get("what", ""):
                raise AssertionError(str(ending))
            finish(subject, volume)  # on workers of its own
    row.result = f"a clear error after {max(waits):.0f} s at most, and run again the same hash and voxels"
    return row


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Dask scheduler and two workers, as somebody's cluster has them."""
    note = folder / "scheduler.json"
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen([*words, "--no-dashboard", "--scheduler-file", str(note)], **quiet)
    mine = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(note)]
    options = [
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
        "--local-directory",
        str(folder / "scratch"),
    ]
    end = time.monotonic() + LIMIT
    while not note.exists() and time.monotonic() < end:
        time.sleep(0.05)
    workers = [subprocess.Popen([*mine, *options], **quiet) for _ in range(2)]
    try:
        import json

        from distributed import Client

        address = json.loads(note.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=LIMIT)
        yield first, address
    finally:
        for process in (*workers, first):
            process.send_signal(signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        note.unlink(missing_ok=True)
