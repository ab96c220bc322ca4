"""A crash before and after every single step of apply and of undo: running it again gives every voxel."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from twins.writing import contents, edits, metadata, plan_for, store, tissue, truth

from overseg.cluster.executor import InlineExecutor
from overseg.pipeline import work
from overseg.pipeline.apply import apply
from overseg.pipeline.journal import Segment, read_journal
from overseg.pipeline.undo import undo
from overseg.pipeline.verify import verify
from overseg.settings import RunSettings
from overseg.volume import Volume
from overseg.volume.files import LocalFiles
from overseg.volume.lock import locked

RUN = RunSettings()
INLINE = InlineExecutor(1, 1 << 30)
SHAPE = (8, 14, 14)
STEPS = (
    (Segment, "image"),
    (Segment, "done"),
    (Segment, "meta"),
    (Volume, "write_unit"),
    (LocalFiles, "write"),
)


class Crash(BaseException):
    """The power of a kill, without the process."""


@contextmanager
def crash_at(number: int, *, after: bool) -> Iterator[Callable[[], int]]:
    """Crash at the step of that number, before or after it takes effect; tells how many steps there were."""
    count = 0

    def wrapped(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            mine = count == number
            if mine and not after:
                raise Crash
            result = step(*args, **options)
            if mine:
                raise Crash
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
        yield lambda: count


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_step_of_apply_and_undo(tmp_path: Path, after: bool) -> None:
    data = tissue(SHAPE).astype(np.uint32)
    merges, fills = edits(SHAPE)
    expected = truth(data, merges, fills)
    path, folder = tmp_path / "tissue.zarr", tmp_path / "tissue.overseg"
    volume = store(path, data, (8, 8, 8))
    plan_for(volume, folder, merges, fills)
    files = metadata(path)
    number, crashes = 0, 1
    while crashes:
        number, crashes = number + 1, 0
        for command, outcome in (
            (lambda: apply(folder, RUN, INLINE), expected),
            (lambda: undo(folder, RUN), data),
        ):
            try:
                with crash_at(number, after=after):
                    command()
            except Crash:
                crashes += 1
            command()
            np.testing.assert_array_equal(contents(volume)[0], outcome)
        assert metadata(path) == files
        if number % 5 == 0:
            assert verify(folder).ok
    assert number > 12  # four units, journalled, written and marked


def test_a_task_that_is_run_again_elsewhere(tmp_path: Path) -> None:
    data = tissue(SHAPE).astype(np.uint32)
    merges, fills = edits(SHAPE)
    volume = store(tmp_path / "tissue.zarr", data, (8, 8, 8))
    plan = plan_for(volume, tmp_path / "tissue.overseg", merges, fills)
    journal = tmp_path / "journal"
    units = tuple(work.unit_list(plan, 0, range(4), read_journal(journal)))
    with locked(volume) as lock:
        for expected in (4, 0):
            job = work.Job(
                str(tmp_path / "tissue.overseg"), plan.hash, volume, str(journal), uuid.uuid4().hex, lock
            )
            assert work.write(job, 0, units)["written"] == expected
    np.testing.assert_array_equal(contents(volume)[0], truth(data, merges, fills))
    assert len(list(journal.glob("*.journal"))) == 2
    assert read_journal(journal).lost() == []


def test_an_alias_meets_the_same_state(tmp_path: Path) -> None:
    from overseg.volume import open_volume
    from overseg.volume.state import read_state

    volume = store(tmp_path / "tissue.zarr", tissue(SHAPE).astype(np.uint32), (8, 8, 8))
    plan = plan_for(volume, tmp_path / "tissue.overseg", *edits(SHAPE))
    apply(tmp_path / "tissue.overseg", RUN, INLINE)
    (tmp_path / "alias").symlink_to(tmp_path / "tissue.zarr")
    alias = open_volume(tmp_path / "alias")
    assert alias.location == volume.location
    assert read_state(alias).phase(plan.hash) == "applied"


def test_two_at_the_same_task_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit by unit the one is a step ahead: what it writes is in its journal, and nobody else's change."""
    data = tissue(SHAPE).astype(np.uint32)
    merges, fills = edits(SHAPE)
    volume = store(tmp_path / "tissue.zarr", data, (4, 7, 7))
    plan = plan_for(volume, tmp_path / "tissue.overseg", merges, fills)
    journal = tmp_path / "journal"
    units = work.unit_list(plan, 0, range(volume.grid(0).n), read_journal(journal))
    usual, ahead = Volume.read_unit, True
    with locked(volume) as lock:
        one, two = (
            work.Job(str(tmp_path / "tissue.overseg"), plan.hash, volume, str(journal), name, lock)
            for name in ("one", "two")
        )

        def read_unit(self: Volume, unit: int, level: int = 0) -> np.ndarray:
            nonlocal ahead
            if ahead:
                ahead = False
                work.write(one, level, (units[unit],))
                ahead = True
            return usual(self, unit, level)

        with monkeypatch.context() as patch:
            patch.setattr(Volume, "read_unit", read_unit)
            for task in (work.write, work.check):
                task(two, 0, tuple(units))
    np.testing.assert_array_equal(contents(volume)[0], truth(data, merges, fills))
