"""SIGKILL: workers in each step, drivers at any moment, and a driver whose volume is undone at once."""

from __future__ import annotations

import shutil
import time
from collections import Counter

from twins.trials import WORKER_STEPS, Subject, finish

from benchmarks.fault_rows import Row, timed

_EACH = 2  # kills in a step of one run: a unit that ends three workers is given up, as it should be


def workers(subject: Subject, times: int) -> Row:
    """A random worker is killed while a run scans, scores or writes; nobody helps."""
    struck: Counter[str] = Counter()
    with timed("SIGKILL of a random worker during scan, score, apply") as row:
        while row.landed < times:
            volume = subject.fresh()
            run = subject.start("correct", volume)
            for step, names in WORKER_STEPS.items():
                for kill in range(min(_EACH, times - row.landed)):
                    if not run.in_step(names, least=1 + 3 * kill):
                        break
                    time.sleep(subject.random.uniform(0, 0.05))
                    victims, before = run.workers(), run.step()
                    if victims and before[0] in names and before[1] < before[2]:
                        subject.random.choice(victims).kill()
                        row.landed += 1
                        struck[step] += 1
            ending = run.end()
            if ending.code:
                raise AssertionError(f"{ending.said} {ending.stderr}")
            row.times += 1
            subject.check_corrected(volume, ending.said["hash"])
            shutil.rmtree(volume.parent)
    told = ", ".join(f"{count} in {step}" for step, count in struck.items())
    row.result = f"same hash, same voxels, nobody helped ({told}; {row.times} runs)"
    return row


def drivers(subject: Subject, times: int) -> Row:
    """The driver of `correct` is killed at any moment, again and again; then it is run to the end."""
    struck: Counter[str] = Counter()
    with timed("SIGKILL of the driver, then again") as row:
        while row.landed < times:
            volume = subject.fresh()
            for _ in range(min(subject.random.choice([1, 2, 3]), times - row.landed)):
                run = subject.start("correct", volume)
                run.wait_for(lambda run=run: bool(run.events()))
                aim = subject.random.choice(["scan", "fill", "write", ""])
                if aim:
                    run.in_step((aim,))
                time.sleep(subject.random.uniform(0, 0.3))
                step, _, _ = run.step()
                if run.kill():
                    row.landed += 1
                    struck[step or "start"] += 1
            row.times += 1
            finish(subject, volume)
    told = ", ".join(f"{count} in {step}" for step, count in struck.most_common())
    row.result = f"same hash, same voxels after running the command again ({told}; {row.times} volumes)"
    return row


def undone_at_once(subject: Subject, times: int) -> Row:
    """Only the driver is killed while it writes, and the plan is undone in the same moment."""
    with timed("driver killed while it writes, undone at once") as row:
        while row.landed < times:
            volume = subject.fresh()
            place = volume.parent / "v.overseg"
            subject.run("plan", volume)
            run = subject.start("apply", place)
            run.in_step(("write",))
            time.sleep(subject.random.uniform(0, 0.2))
            row.landed += run.kill()
            row.times += 1
            subject.run("undo", place)
            subject.check_original(volume)
            time.sleep(1.0)  # a worker that went on writing would be seen now
            subject.check_original(volume)
            shutil.rmtree(volume.parent)
    row.result = (
        "every byte as it was, also a second later: workers end with their driver, and look at the lock"
    )
    return row
