"""Two drivers at once, on one volume and on one plan folder."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twins.trials import Subject

from benchmarks.fault_rows import Clock, Row, timed

COMMAND = "python -m benchmarks.faults drivers"


def rows(seed: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Ten times each."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder), seed)
        clock = Clock(seconds)  # which undisturbed runs do not take from
        yield two_at_once(subject, 15, clock.left(0.6)).plain()
        yield two_plans(subject, 10, clock.left()).plain()


def always() -> bool:
    """No limit of time."""
    return True


def two_at_once(subject: Subject, times: int, go_on: Callable[[], bool] = always) -> Row:
    """A second `apply`, `undo` or `correct` while the first one writes, and then stands still."""
    with timed("two drivers at once on a volume", COMMAND) as row:
        while row.landed < times and row.times < 2 * times and go_on():
            volume = subject.fresh()
            place = subject.plan(volume)
            first = subject.start("apply", place)
            met = first.in_step(("write",), least=subject.random.uniform(0, 0.8))
            first.process.send_signal(signal.SIGSTOP)
            rivals = [("apply", place), ("undo", place), ("correct", volume)]
            begun = [subject.start(verb, target, "--workers", 1) for verb, target in rivals]
            endings = [rival.end() for rival in begun]
            first.process.send_signal(signal.SIGCONT)
            done = first.end()
            row.times += len(endings)
            if met:
                for ending in endings:
                    if "another run is writing" not in ending.error():
                        raise AssertionError(f"not refused for the first: {ending}")
                row.landed += len(endings)
                subject.check_hash(done)
                subject.check_corrected(volume, subject.hash)
            shutil.rmtree(volume.parent)
    row.result = "the second (`apply`, `undo`, `correct`) is refused and names the first, which ends as ever"
    return row


def two_plans(subject: Subject, times: int, go_on: Callable[[], bool] = always) -> Row:
    """Two `plan` into one folder, with the same settings and with others."""
    with timed("two drivers at once on a plan folder", COMMAND) as row:
        while row.landed < times and row.times < 2 * times and go_on():
            volume = subject.fresh()
            first = subject.start("plan", volume)
            met = first.in_step(("scan", "score", "fill"), least=subject.random.uniform(0, 0.8))
            first.process.send_signal(signal.SIGSTOP)
            others = ("--emd", "undecided") if row.times % 2 else ("--emd", "all")
            second = subject.start("plan", volume, *others, "--workers", 1).end()
            first.process.send_signal(signal.SIGCONT)
            row.times += 1
            subject.check_hash(first.end())
            if met:
                if "another run is planning" not in second.error():
                    raise AssertionError(f"not refused for the first: {second}")
                row.landed += 1
            subject.finish(volume)
    row.result = "the second is refused and names the first, which ends as ever"
    return row
