"""The benchmarks' own arithmetic: turns, tiles, counts, and the page made of them."""

from __future__ import annotations

import inspect
from importlib import import_module
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from benchmarks import reference
from benchmarks.speed import masks, operations, organ, page, reach, tiles, timing
from overseg.measure.truth import Split, Truth, write_truth


def test_ways_are_timed_in_turns_after_one_that_does_not_count() -> None:
    done: list[str] = []
    clock = count().__next__
    found = timing.interleaved({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 2, clock)
    assert done == ["a", "b"] * 3
    assert found["a"] == {"median": 1, "min": 1, "max": 1, "seconds": [1, 1]}


@pytest.mark.parametrize("name", page.TITLES)
def test_every_benchmark_can_be_run_and_told(name: str) -> None:
    module = import_module(f"benchmarks.speed.{name}")
    assert list(inspect.signature(module.measure).parameters) == ["small", "scratch"]
    assert list(inspect.signature(module.table).parameters) == ["data"]
    assert list(inspect.signature(module.figures).parameters) == ["data"]


def test_the_page_holds_the_tables_of_the_results(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    page.rewrite(copy)
    assert copy.read_text(encoding="utf-8") == page.PAGE.read_text(encoding="utf-8")


def test_a_figure_that_falls_short_says_so() -> None:
    lines = reach.table({"scan": 0.5, "emd exact": 50.0, "help": 0.7})
    told = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[-2:] for line in lines[2:]}
    assert told["scan ÷ (read + decode), per core, the worst of four"] == ["0.50", "at least |"]
    assert told["EMD exact against the POT loop, difference ≤ 1e-9"] == ["50×", "aim |"]
    assert told["`overseg --help`"][1].startswith("short")
    assert told["MB/s at 128 GiB against 1 GiB"][0] == "not run"


def _tiling(folder: Path) -> tiles.Tiling:
    """Two boxes of labels 1 and 2 that are one cell, and a cell 3 of its own."""
    labels = np.zeros((tiles.SIDE,) * 3, np.uint32)
    labels[10:50, 5:200, 5:200], labels[52:90, 5:200, 5:200], labels[100:250] = 1, 2, 3
    names = np.array([1, 2, 3], np.uint64)
    split = Split(1, 1, 2, 49, 2, "missing")
    for name in ("whole", "often", "one"):
        np.save(folder / f"{name}.npy", labels)
        write_truth(
            Truth(names, np.array([1, 1, 3], np.uint64), (split,), (), (), 0), folder / f"{name}.truth"
        )
    return tiles.Tiling(folder, stride=4, cells=3, one_per=tiles.OFTEN)


def test_a_tile_is_stored_as_zarr_stores_it_and_links_leave_it_alone(tmp_path: Path) -> None:
    tiling = _tiling(tmp_path)
    source, place = tmp_path / "source.zarr", (0, 0, 1)
    whole = tiles.create_labels(source, (256, 256, 512), np.uint32, tiles.UNIT, voxel_size=(1.0, 1.0, 1.0))
    tiles._write_tile((str(source), place, tiling))
    unit = whole.grid().unit((0, 0, 2))
    written = source / "c" / "0" / "0" / "2"
    before, data = written.read_bytes(), whole.read_unit(unit)
    assert set(np.unique(data).tolist()) == {
        0,
        4 * tiles.tile_number(place) + 1,
        4 * tiles.tile_number(place) + 2,
    }
    whole.write_unit(unit, data)
    assert written.read_bytes() == before
    tiles._write_tile((str(source), (0, 0, 0), tiling))
    linked = tiles.linked(source, tmp_path / "cells.zarr", (1, 1, 1))
    linked.write_unit(0, np.zeros(tiles.UNIT, np.uint32) + 7)
    assert whole.read_unit(0).max() == 2


def test_what_became_of_splits_is_told_from_ids(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tiling = _tiling(tmp_path)
    (tmp_path / "a.overseg" / "plan").mkdir(parents=True)
    second = 4 * tiles.tile_number((0, 0, 1))
    # Joined as they should be in the first tile; two different cells in the second.
    merges = {"t": [0, 0], "old": [2, second + 3], "new": [1, second + 1]}
    pq.write_table(pa.table(merges), tmp_path / "a.overseg" / "plan" / "merges.parquet")
    found = tiles.outcome(tmp_path / "a.overseg", (1, 1, 2), tiling)
    assert found == {"splits": 2, "joined": 1, "merges": 2, "same": 1}


def test_store_operations_are_counted(tmp_path: Path) -> None:
    volume = tiles.create_labels(tmp_path / "a.zarr", (8, 8, 8), np.uint8, (4, 8, 8))
    with operations.counting() as done:
        volume.write_unit(1, np.ones((4, 8, 8), np.uint8))
        volume.read_unit(0)
        volume.read_unit(1)
    assert done == {"writes": 1, "reads": 2}


def test_an_organ_is_worked_out_from_the_largest_volume() -> None:
    row = {
        "size": "1", "tiles": 1, "logical": 4e9, "counts": {"cells": 10_000}, "rows": 1000,
        "steps": {"scan": 1.0, "decide": 2.0}, "tasks": {"scan": 3, "seam": 1},
        "bytes": {"run/scan": 100, "run/journal": 10, "plan": 1}, "peak": {"driver": 2e8, "worker": 3e8},
    }  # fmt: skip
    large = row | {"tiles": 2, "logical": 8e9, "counts": {"cells": 20_000}, "peak": {"driver": 2.1e8}}
    found = organ.cost({"rows": [row, large], "workers": 2})
    assert found["steps"]["scan"]["seconds"] == pytest.approx(1e13 / 2e9 * 2 / 100)  # shared by the workers
    assert found["steps"]["decide"]["seconds"] == pytest.approx(2 * 1e8 / 20_000)  # the driver's alone
    assert found["tasks"] == pytest.approx(4 * 1e13 / 2e9)
    assert found["driver"] == pytest.approx(2.1e8 + 1e3 * (1e8 - 20_000))
    assert organ.first_to_break(found) == "driver's memory"
    assert organ.first_to_break(found | {"driver": 1e9}) == "decide"


def test_the_plain_interpolation_lies_between() -> None:
    one = np.zeros((30, 40), bool)
    one[8:20, 5:20] = True
    two = np.roll(one, 6, axis=1)
    (between,) = reference.interpolated(one, two, 1)
    wanted = np.roll(one, 3, axis=1)
    assert (between & wanted).sum() / (between | wanted).sum() > 0.9
    assert (reference.interpolated(one, one, 2)[1] == one).all()


def test_pairs_of_masks_are_always_the_same(monkeypatch: pytest.MonkeyPatch, real: object) -> None:
    monkeypatch.setattr(tiles, "real", real)
    first, again = masks.pairs(6), masks.pairs(6)
    assert len(first) == 18
    assert {pair.lag for pair in first} == {1, 2, 3}
    assert all((p.one == q.one).all() and (p.two == q.two).all() for p, q in zip(first, again, strict=True))
    assert all(masks.LEAST <= m.sum() <= masks.MOST for pair in first for m in (pair.one, pair.two))
