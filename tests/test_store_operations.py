"""How often each stored unit is read and written: counted at the store itself, by step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from twins.writing import contents, store
from zarr.abc.store import SuffixByteRequest
from zarr.storage import LocalStore

import overseg
from overseg.errors import ChangedError
from overseg.volume import Volume, direct
from overseg.volume.files import LocalFiles

SHARDED = {"shards": (8, 32, 32)}


def columns() -> np.ndarray:
    """Columns of cells; those on the left are cut in two by a missing layer, the others are whole."""
    z, y, x = np.indices((24, 64, 96))
    labels = np.zeros(z.shape, np.uint16)
    centres = [(cy, cx) for cy in range(8, 64, 16) for cx in range(8, 96, 16)]
    for i, (cy, cx) in enumerate(centres):
        inside = ((y - cy) ** 2 + (x - cx) ** 2 < 36) & (z > 2) & (z < 22)
        labels[inside] = i + 1
        if cx < 32:
            labels[inside & (z == 10)] = 0
            labels[inside & (z > 10)] = 100 + i
    return labels


class Tally:
    """Counts what a store is asked for, by step and unit; a step is what progress was told of last."""

    def __init__(self, volume: Volume) -> None:
        self.unit_of = {volume.unit_key(unit): unit for unit in range(volume.grid(0).n)}
        self.step = ""
        self.read: dict[str, Counter[int]] = {}
        self.written: dict[str, Counter[int]] = {}

    def progress(self, step: str, done: int, total: int) -> None:
        self.step = step

    def take(self) -> tuple[dict[str, Counter[int]], dict[str, Counter[int]]]:
        """Reads and writes since the last look."""
        taken = self.read, self.written
        self.read, self.written = {}, {}
        return taken

    def note(self, counts: dict[str, Counter[int]], key: str) -> None:
        if key in self.unit_of:
            counts.setdefault(self.step, Counter())[self.unit_of[key]] += 1


@pytest.fixture(params=[{}, SHARDED], ids=["chunks", "shards"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Volume, np.ndarray, Tally]:
    data = columns()
    chunks = (8, 16, 16) if request.param else (8, 32, 32)
    volume = store(tmp_path / "cells.zarr", data, chunks, **request.param)
    tally = Tally(volume)
    get, put, delete = LocalStore.get, LocalStore.set, LocalStore.delete

    async def counted_get(self: Any, key: str, *args: Any, **options: Any) -> Any:
        span = options.get("byte_range", args[1] if len(args) > 1 else None)
        # Of a shard the index is asked for, and then chunks in it: that is one unit, read once.
        if span is None or isinstance(span, SuffixByteRequest):
            tally.note(tally.read, key)
        return await get(self, key, *args, **options)

    async def counted_set(self: Any, key: str, *args: Any, **options: Any) -> None:
        tally.note(tally.written, key)
        await put(self, key, *args, **options)

    async def counted_delete(self: Any, key: str) -> None:
        tally.note(tally.written, key)
        await delete(self, key)

    # Plain chunks are read and written without zarr.
    load, save = direct.load, direct.save

    def counted_load(path: str) -> bytes:
        tally.note(tally.read, str(Path(path).relative_to(volume.location)))
        return load(path)

    def counted_save(path: str, content: Any, fence: Any = None) -> None:
        tally.note(tally.written, str(Path(path).relative_to(volume.location)))
        save(path, content, fence)

    monkeypatch.setattr(direct, "through_zarrs", lambda *_: None)  # it has a store of its own
    monkeypatch.setattr(direct, "load", counted_load)
    monkeypatch.setattr(direct, "save", counted_save)
    monkeypatch.setattr(LocalStore, "get", counted_get)
    monkeypatch.setattr(LocalStore, "set", counted_set)
    monkeypatch.setattr(LocalStore, "delete", counted_delete)
    return volume, data, tally


def changed_units(volume: Volume, before: np.ndarray, after: np.ndarray) -> list[int]:
    grid = volume.grid(0)
    return [unit for unit in range(grid.n) if (before[grid.slices(unit)] != after[grid.slices(unit)]).any()]


def once(units: Any) -> Counter[int]:
    return Counter(list(units))


def test_every_unit_is_read_once_and_each_changed_one_once_more(
    case: tuple[Volume, np.ndarray, Tally],
) -> None:
    volume, data, tally = case
    n = volume.grid(0).n
    tally.take()
    plan = overseg.plan(volume.location, progress=tally.progress, workers=1)
    reads, writes = tally.take()
    assert reads.pop("scan") == once(range(n)) and writes == {}
    assert (
        sum(sum(counts.values()) for counts in reads.values()) < n
    )  # boxes of the undecided, masks restored

    touched = plan.data.units.unit[plan.data.units.touched].tolist()
    assert 0 < len(touched) < n
    result = overseg.apply(plan, progress=tally.progress, workers=1)
    reads, writes = tally.take()
    changed = changed_units(volume, data, contents(volume)[0])
    assert 0 < len(changed) == result.rewritten
    assert reads == {"write": once(touched)} and writes == {"write": once(changed)}

    tally.take()
    overseg.undo(plan, progress=tally.progress, workers=1)
    assert tally.take() == ({"undo": once(changed)}, {"undo": once(changed)})
    np.testing.assert_array_equal(contents(volume)[0], data)


def test_an_applied_plan_costs_nothing(case: tuple[Volume, np.ndarray, Tally]) -> None:
    volume, _, tally = case
    plan = overseg.correct(volume.location, workers=1)
    tally.take()
    overseg.apply(plan, progress=tally.progress, workers=1)
    assert tally.take() == ({}, {})


def test_units_stored_anew_are_read_before_anything_is_written(
    case: tuple[Volume, np.ndarray, Tally],
) -> None:
    volume, _, tally = case
    plan = overseg.plan(volume.location, workers=1)
    touched = plan.data.units.unit[plan.data.units.touched].tolist()
    same, other = touched[0], touched[-1]
    volume.write_unit(same, volume.read_unit(same))
    tally.take()
    overseg.apply(plan, progress=tally.progress, workers=1)
    reads, _ = tally.take()
    assert reads == {"check": once([same]), "write": once(touched)}
    overseg.undo(plan, workers=1)

    volume.write_unit(other, volume.read_unit(other) + np.uint16(1))
    foreign = contents(volume)[0]
    tally.take()
    with pytest.raises(ChangedError, match=f"unit {other} "):
        overseg.apply(plan, workers=1)
    assert tally.take()[1] == {}
    np.testing.assert_array_equal(contents(volume)[0], foreign)


def test_a_change_that_no_stamp_shows_is_refused_when_its_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFiles, "stamp", lambda files, key: "always the same")
    data = columns()
    volume = store(tmp_path / "cells.zarr", data, (8, 32, 32))
    plan = overseg.plan(volume.location, workers=1)
    last = int(plan.data.units.unit[plan.data.units.touched][-1])
    before = volume.read_unit(last)
    volume.write_unit(last, before + np.uint16(1))
    with pytest.raises(ChangedError, match=f"unit {last} "):
        overseg.apply(plan, workers=1)
    volume.write_unit(last, before)
    overseg.undo(plan, workers=1)
    np.testing.assert_array_equal(contents(volume)[0], data)
