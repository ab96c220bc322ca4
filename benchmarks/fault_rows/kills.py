"""SIGKILL: workers in each step, drivers at any moment, and a driver whose volume is undone at once."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twins.trials import PAPER, Run, Subject

from benchmarks.fault_rows import Clock, Row, timed

COMMAND = "python -m benchmarks.faults kills"
_EACH = 2  # kills in a step of one run: a unit that ends three workers is given up, as it should be
_OURS = {"scan": ("scan",), "fill": ("fill",), "apply": ("write",)}
_PAPERS = {"scan": ("scan",), "score": ("score", "distances"), "apply": ("write",)}
_WRITING = 0.05  # seconds that a worker which went on would need to be seen


def rows(seed: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A hundred workers, a hundred drivers, and twenty drivers of which a plan is undone at once."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("ours", "papers"):
            (home / name).mkdir()
        ours, papers = Subject(home / "ours", seed), Subject(home / "papers", seed, PAPER)
        clock = Clock(seconds)  # which undisturbed runs do not take from
        yield workers([papers, ours], 100, clock.left(0.4)).plain()
        yield drivers([ours, papers], 100, clock.left(0.8)).plain()
        yield undone_at_once(ours, 20, clock.left()).plain()


def always() -> bool:
    """No limit of time."""
    return True


def workers(subjects: list[Subject], times: int, go_on: Callable[[], bool] = always) -> Row:
    """A random worker is killed while `correct` scans, scores, fills or writes; nobody helps."""
    struck: Counter[str] = Counter()
    runs = deaths = 0
    with timed("SIGKILL of a random worker during scan, score, apply", COMMAND) as row:
        while row.landed < times and row.times < 3 * times and go_on():
            subject = subjects[runs % len(subjects)]
            runs += 1
            volume = subject.fresh()
            run = subject.start("correct", volume)
            for step, names in (_PAPERS if subject.settings == PAPER else _OURS).items():
                for share in sorted(subject.random.uniform(0, 0.8) for _ in range(_EACH)):
                    if row.landed < times and run.in_step(names, least=share):
                        row.times += 1
                        hit = _strike(run, subject, names)
                        row.landed += hit
                        struck[step] += hit
            ending = run.end()
            deaths += run.deaths()
            subject.check_hash(ending)
            subject.check_corrected(volume, ending.said["plan_hash"])
            shutil.rmtree(volume.parent)
    told = ", ".join(f"{count} in {step}" for step, count in struck.items())
    row.result = (
        f"same hash, same voxels, nobody helped ({told}; {runs} runs; {deaths} units lost their worker)"
    )
    return row


def _strike(run: Run, subject: Subject, names: tuple[str, ...]) -> bool:
    """Kill one of the workers there are; whether the step was still running."""
    time.sleep(subject.random.uniform(0, 0.03))
    victims = run.workers()
    name, done, total = run.step()
    if not victims or name not in names or done >= total or run.process.poll() is not None:
        return False
    subject.random.choice(victims).kill()
    return True


def drivers(subjects: list[Subject], times: int, go_on: Callable[[], bool] = always) -> Row:
    """The driver of `correct` is killed at any moment, up to four times; then it is run to its end."""
    struck: Counter[str] = Counter()
    alone = volumes = 0
    with timed("SIGKILL of the driver, then again", COMMAND) as row:
        while row.landed < times and row.times < 3 * times and go_on():
            subject = subjects[volumes % len(subjects)]
            volumes += 1
            volume = subject.fresh()
            for _ in range(min(subject.random.choice([2, 3, 4]), times - row.landed)):
                run = subject.start("correct", volume)
                aim = subject.random.choice(["scan", "fill", "write", "write", "distances", ""])
                if aim == "distances" and subject.settings != PAPER:
                    aim = "score"
                if aim:  # a step that an earlier run has done is not there any more
                    run.in_step((aim,), least=subject.random.uniform(0, 0.8))
                else:
                    time.sleep(subject.random.uniform(0, subject.seconds))
                time.sleep(subject.random.uniform(0, 0.1))
                step, _, _ = run.step()
                group = subject.random.random() < 0.5
                row.times += 1
                if run.kill(group):
                    row.landed += 1
                    alone += not group
                    struck[step or "start"] += 1
            subject.finish(volume)
    told = ", ".join(f"{count} in {step}" for step, count in struck.most_common())
    row.result = (
        f"run again: same hash, same voxels ({told}; {alone} the driver alone, {row.landed - alone} with its "
        f"workers; {volumes} volumes)"
    )
    return row


def undone_at_once(subject: Subject, times: int, go_on: Callable[[], bool] = always) -> Row:
    """Only the driver is killed while it writes, and the plan is undone in the same moment."""
    with timed("SIGKILL of the driver alone while it writes, undo at once", COMMAND) as row:
        while row.landed < times and row.times < 3 * times and go_on():
            volume = subject.fresh()
            place = subject.plan(volume)
            run = subject.start("apply", place)
            run.in_step(("write",), least=subject.random.uniform(0, 0.8))
            row.times += 1
            undo = None
            if run.kill():
                row.landed += 1
                undo = subject.run("undo", place, "--workers", subject.random.choice([1, 2]))
            if undo is not None:
                subject.check_original(volume)
                time.sleep(_WRITING)
                subject.check_original(volume)
            shutil.rmtree(volume.parent)
    row.result = "every byte of the volume is as it was before the plan"
    return row
