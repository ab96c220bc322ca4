"""Writers that stand still change nothing once another run has taken over; those that die leave nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from twins.writing import contents, edits, plan_for, store, tissue

from overseg.cluster.executor import InlineExecutor
from overseg.errors import LockedError
from overseg.pipeline import work
from overseg.pipeline.apply import Application, apply
from overseg.pipeline.batch import prepare_apply
from overseg.pipeline.undo import undo
from overseg.pipeline.verify import verify
from overseg.pipeline.work import sweep
from overseg.settings import RunSettings
from overseg.volume import Volume
from overseg.volume.create import create_labels
from overseg.volume.lock import FOLDER, Lock, locked
from overseg.volume.state import Entry, State, read_state, write_state

DATA = np.arange(1, 8 * 8 * 8 + 1, dtype=np.uint32).reshape(8, 8, 8)

_HOLD = """
import sys
import threading
from overseg.volume import open_volume
from overseg.volume.lock import _acquire, _this_process
lock = _acquire(open_volume(sys.argv[1]), _this_process(), False)
print(lock.generation, lock.token)
"""


@pytest.fixture(params=["chunks", "shards", "blosc"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    """As `Volume` stores it by itself, and as zarr does."""
    if request.param == "blosc":
        import zarr

        zarr.create_array(
            str(tmp_path / "v.zarr"), shape=(8, 8, 8), chunks=(8, 8, 8), dtype="u4",
            compressors=zarr.codecs.BloscCodec(),
        )  # fmt: skip
        from overseg.volume import open_volume

        made = open_volume(tmp_path / "v.zarr")
    else:
        shards = (8, 8, 8) if request.param == "shards" else None
        chunks = (4, 4, 4) if shards else (8, 8, 8)
        made = create_labels(tmp_path / "v.zarr", (8, 8, 8), np.uint32, chunks, shards=shards)
    made.write_unit(0, DATA)
    return made


def dead_lock(volume: Volume) -> Lock:
    """The lock of a process that ended without giving it back."""
    words = [sys.executable, "-c", _HOLD, volume.location]
    generation, token = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return Lock(volume, int(generation), token)


def files(volume: Volume) -> list[str]:
    return sorted(str(path) for path in Path(volume.location).rglob("*") if ".overseg" not in str(path))


def test_taken_over_between_look_and_write(volume: Volume) -> None:
    old, before = dead_lock(volume), files(volume)
    looks = 0

    def stands_still() -> None:
        nonlocal looks
        looks += 1
        old.check()  # still held the first time
        if looks == 1:
            with locked(volume):  # another run, from its beginning to its end
                sweep(volume, everywhere=True)

    with pytest.raises(LockedError, match="no longer holds"):
        volume.write_unit(0, DATA + 1, fence=stands_still)
    assert looks == 2
    np.testing.assert_array_equal(volume.read_unit(0), DATA)
    assert files(volume) == before


def test_taken_over_before_the_look(volume: Volume) -> None:
    old, before = dead_lock(volume), files(volume)
    with locked(volume), pytest.raises(LockedError, match="no longer holds"):
        volume.write_unit(0, DATA + 1, fence=old.check)
    np.testing.assert_array_equal(volume.read_unit(0), DATA)
    assert files(volume) == before


def test_the_holder_writes(volume: Volume) -> None:
    with locked(volume) as lock:
        volume.write_unit(0, DATA + 1, fence=lock.check)
    np.testing.assert_array_equal(volume.read_unit(0), DATA + 1)


def test_what_a_dead_worker_left_is_removed(tmp_path: Path) -> None:
    data = tissue((8, 14, 14)).astype(np.uint32)
    volume = store(tmp_path / "v.zarr", data, (4, 7, 7))
    place = tmp_path / "v.overseg"
    plan_for(volume, place, *edits((8, 14, 14)))
    left = Path(volume.location) / "c" / "0" / "0" / f"0.{'0' * 32}.partial"

    def dies(*arguments: object) -> dict[str, object]:
        """As if a worker had been killed under this unit, which was done again by another."""
        left.write_bytes(b"half")
        return work.write(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("overseg.pipeline.apply.write", dies)
        apply(place, RunSettings(), InlineExecutor(1, 1 << 30))
    assert not left.exists()
    left.write_bytes(b"half")
    undo(place, RunSettings())
    assert not left.exists()
    np.testing.assert_array_equal(contents(volume)[0], data)


class Interrupted(InlineExecutor):
    """Something happens once a step is done: as if the run stood still for as long as it takes.

    Parameters
    ----------
    step : str
    then : callable
    """

    def __init__(self, step: str, then: Callable[[], object]) -> None:
        super().__init__(1, 1 << 30)
        self._step, self._then = step, then

    def run(self, step: str, *more: Any, **others: Any) -> Any:
        yield from super().run(step, *more, **others)
        if step == self._step:
            self._then()


def moved_elsewhere(volume: Volume) -> None:
    """The lock that is held now becomes one of another machine."""
    (key,) = volume.files.list(FOLDER)
    owner = json.loads(volume.files.read(key) or b"")
    volume.files.write(key, json.dumps(owner | {"host": "node7", "machine": "another"}).encode())


def test_an_undo_that_stood_still_forgets_no_plan_of_those_who_took_over(tmp_path: Path) -> None:
    shape, force = (8, 14, 14), RunSettings(break_lock=True)
    data = tissue(shape).astype(np.uint32)
    volume = store(tmp_path / "v.zarr", data, (4, 7, 7))
    merges, fills = edits(shape)
    first, second = tmp_path / "first.overseg", tmp_path / "second.overseg"
    plan_for(volume, first, merges, fills)
    apply(first, RunSettings(), InlineExecutor(1, 1 << 30))

    def others() -> None:
        moved_elsewhere(volume)
        undo(first, force)
        plan_for(volume, second, merges, replace(fills, new=fills.new + 1))
        apply(second, RunSettings(), InlineExecutor(1, 1 << 30))

    with pytest.raises(LockedError, match="no longer holds"):
        undo(first, RunSettings(), executor=Interrupted("check", others))
    assert [entry.phase for entry in read_state(volume).plans] == ["undone", "applied"]
    undo(second, RunSettings())
    np.testing.assert_array_equal(contents(volume)[0], data)


def test_the_state_taken_over_between_look_and_write(volume: Volume) -> None:
    before = State(volume.location)
    with locked(volume) as lock:
        write_state(volume, before, lock.check)
    old, looks = dead_lock(volume), 0

    def stands_still() -> None:
        nonlocal looks
        looks += 1
        old.check()  # still held the first time
        if looks == 1:
            with locked(volume):
                sweep(volume, everywhere=False)

    late = before.with_entry(Entry("a plan", "its place", "applying", "its journal"))
    with pytest.raises(LockedError, match="no longer holds"):
        write_state(volume, late, stands_still)
    assert looks == 2 and read_state(volume) == before
    assert len(list((Path(volume.level_place(0).location) / ".overseg").iterdir())) == 2


@pytest.mark.parametrize("command", ["apply", "undo", "prepare"])
def test_who_takes_over_looks_at_the_state_after_the_sweep(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a late writer's state would come in between, and be written over."""
    shape, place, executor = (8, 14, 14), tmp_path / "v.overseg", InlineExecutor(1, 1 << 30)
    volume = store(tmp_path / "v.zarr", tissue(shape).astype(np.uint32), (4, 7, 7))
    plan = plan_for(volume, place, *edits(shape))
    if command == "undo":
        apply(place, RunSettings(), executor)
    seen = []
    for module in ("apply", "undo", "batch"):
        for name, usual in (("sweep", sweep), ("read_state", read_state)):

            def noted(*args: Any, _name: str = name, _usual: Any = usual, **how: Any) -> Any:
                if volume.files.list(FOLDER):
                    seen.append(_name)
                return _usual(*args, **how)

            monkeypatch.setattr(f"overseg.pipeline.{module}.{name}", noted)
    if command == "apply":
        apply(place, RunSettings(), executor)
    elif command == "undo":
        undo(place, RunSettings())
    else:
        prepare_apply(place, plan, RunSettings(), executor, 2, None)
    assert seen[0] == "sweep" and "read_state" in seen


@pytest.mark.parametrize("next_", ["undo", "another plan"])
def test_a_worker_that_stood_still_until_its_run_was_over(
    next_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at the lock after the last sweep of its own run, and goes on after the next one began."""
    shape, place, inline = (8, 14, 14), tmp_path / "v.overseg", InlineExecutor(1, 1 << 30)
    data = tissue(shape).astype(np.uint32)
    volume = store(tmp_path / "v.zarr", data, (4, 7, 7))
    merges, fills = edits(shape)
    plan_for(volume, place, merges, fills)
    looked, goes_on = threading.Event(), threading.Event()
    late: list[threading.Thread] = []
    said: list[BaseException] = []

    def write_again(lock: Lock) -> None:
        def stands_still() -> None:
            lock.check()
            looked.set()
            goes_on.wait(30)

        try:
            volume.write_unit(0, volume.read_unit(0), fence=stands_still)
        except LockedError as error:
            said.append(error)

    def noted(application: Application, **changes: Any) -> None:
        usual(application, **changes)
        if changes.get("noted"):
            late.append(threading.Thread(target=write_again, args=(application.lock,)))
            late[0].start()
            looked.wait(30)

    usual = Application._set
    with monkeypatch.context() as patch:
        patch.setattr(Application, "_set", noted)
        apply(place, RunSettings(), inline)

    def wakes() -> None:
        goes_on.set()
        late[0].join()

    if next_ == "undo":
        undo(place, RunSettings(), executor=Interrupted("undo", wakes))
        np.testing.assert_array_equal(contents(volume)[0], data)
    else:
        other = tmp_path / "other.overseg"
        plan_for(volume, other, merges, replace(fills, new=fills.new + 1))
        apply(other, RunSettings(), Interrupted("write", wakes))
        assert verify(other).ok
    assert said
