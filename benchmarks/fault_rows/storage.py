"""Disks that fill up, turn read-only, or refuse one unit, while a plan is made, applied or undone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twins.disks import Cure, fill, make_read_only, may_mount, refuse, small_disk
from twins.trials import CHUNKS, Run, Subject

from benchmarks.fault_rows import Clock, Row, timed

COMMAND = "python -m benchmarks.faults storage"
_STEPS = {"plan": ("scan", "score", "fill"), "apply": ("write",), "undo": ("undo",)}


@dataclass(frozen=True)
class Case:
    """One way for a disk to fail.

    Attributes
    ----------
    verb : {"plan", "apply", "undo"}
        What is at work.
    step : str
        When it happens.
    where : {"plan", "volume"}
        Which of the two the disk holds.
    """

    verb: str
    step: str
    where: str


ON_DISKS = (
    Case("plan", "scan", "plan"),
    Case("plan", "fill", "plan"),
    Case("apply", "write", "plan"),
    Case("apply", "write", "volume"),
    Case("undo", "undo", "volume"),
)
ON_UNITS = (
    Case("plan", "scan", "volume"),
    Case("apply", "write", "volume"),
    Case("undo", "undo", "volume"),
)


def rows(seed: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Each case three times."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder), seed)
        clock = Clock(seconds)  # which undisturbed runs do not take from
        yield disk_full(subject, 3, clock.left(0.4)).plain()
        yield read_only(subject, 3, clock.left(0.6)).plain()
        yield one_unit(subject, 3, clock.left()).plain()


def always() -> bool:
    """No limit of time."""
    return True


def disk_full(
    subject: Subject, times: int, go_on: Callable[[], bool] = always, cases: tuple[Case, ...] = ON_DISKS
) -> Row:
    """No byte is left on the disk of the plan folder, or of the volume."""
    with timed("disk full", COMMAND) as row:
        _all(row, subject, cases, times, go_on, lambda run, case, disk, folder: fill(run, disk))
    how = "a full tmpfs" if may_mount() else "a limit on the size of files"
    row.result += f" ({how}; plan folder and volume; plan, apply, undo)"
    return row


def read_only(
    subject: Subject, times: int, go_on: Callable[[], bool] = always, cases: tuple[Case, ...] = ON_DISKS
) -> Row:
    """Plan folder or volume cannot be written any more."""
    with timed("store read-only midway", COMMAND) as row:
        _all(row, subject, cases, times, go_on, lambda run, case, disk, folder: make_read_only(run, folder))
    how = "a mount turned read-only" if may_mount() else "file modes"
    row.result += f" ({how}; plan folder and volume; plan, apply, undo)"
    return row


def one_unit(
    subject: Subject, times: int, go_on: Callable[[], bool] = always, cases: tuple[Case, ...] = ON_UNITS
) -> Row:
    """One chunk late in the volume cannot be read, or cannot be replaced."""

    def inflict(run: Run, case: Case, disk: Path, volume: Path) -> Cure:
        z, y, x = (n // chunk - 1 for n, chunk in zip(subject.shape, CHUNKS, strict=True))
        row_of = volume / "c" / str(z) / str(y)
        if case.verb == "plan":
            return refuse(run, [row_of / str(x)], 0o444)
        return refuse(run, [row_of], 0o222)

    with timed("permission lost on one unit", COMMAND) as row:
        _all(row, subject, cases, times, go_on, inflict)
    row.result += (
        " (its file for plan, the folder it is in for apply and undo; run without the right of root)"
    )
    return row


def _all(
    row: Row,
    subject: Subject,
    cases: tuple[Case, ...],
    times: int,
    go_on: Callable[[], bool],
    inflict: Callable[[Run, Case, Path, Path], Cure],
) -> None:
    words: dict[str, str] = {}
    for _ in range(times):
        for case in cases:
            if go_on() or not row.landed:
                row.times += 1
                said = trial(subject, case, inflict)
                if said:
                    row.landed += 1
                    words[case.verb] = said
    row.result = "exit 1 with what, where and remedy; after the cure the same command gives the same"


def trial(
    subject: Subject, case: Case, inflict: Callable[[Run, Case, Path, Path], Cure], step_share: float = 0.5
) -> str:
    """One fault, its error and its cure; gives the error's words, or none if the fault came too late."""
    home = subject.home()
    with small_disk(home) as disk:
        volume = subject.fresh(disk if case.where == "volume" else home)
        place = (disk if case.where == "plan" else home) / "v.overseg"
        out = ("--out", place) if case.verb == "plan" else ()
        if case.verb != "plan":
            subject.plan(volume, "--out", place)
        if case.verb == "undo":
            subject.run("apply", place)
        target = volume if case.verb == "plan" else place
        run = subject.start(case.verb, target, *out, modes=True, place=place)
        cure = None
        try:
            if run.in_step((case.step,), least=subject.random.uniform(0, step_share)):
                cure = inflict(run, case, disk, place if case.where == "plan" else volume)
            ending = run.end()
        finally:
            if cure is not None:
                cure()
        said = "" if ending.code == 0 else ending.error()
        if said and str(disk) not in said and "unit " not in said:
            raise AssertionError(f"the error does not say where: {said}")
        _after(subject, case, run, bool(said), volume, place, target, out)
    shutil.rmtree(home)
    return said


def _after(
    subject: Subject,
    case: Case,
    run: Run,
    failed: bool,
    volume: Path,
    place: Path,
    target: Path,
    out: tuple[object, ...],
) -> None:
    """The same command again ends as if nothing had been, and what was done is not done again."""
    step, done, _ = run.step()
    again = subject.start(case.verb, target, *out, place=place)
    subject.check_hash(again.end())
    if failed and case.verb == "plan":
        steps = {event["step"]: event["done"] for event in again.events() if event["event"] == "step"}
        if steps.get(step, done) < done:
            raise AssertionError(f"{done} units of {step} were done, {steps[step]} were found again")
        subject.run("apply", place)
    if case.verb == "undo":
        subject.check_original(volume)
    else:
        if case.verb == "plan" and not failed:
            subject.run("apply", place)
        subject.check_corrected(volume, subject.hash, place)
