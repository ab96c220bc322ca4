"""The plan folder: what is written is read, and nothing damaged is."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from overseg.errors import PlanError
from overseg.pipeline.plandata import _feed_words
from overseg.pipeline.planfile import (
    TABLES,
    Features,
    Fills,
    Merges,
    PlanData,
    Units,
    compute_plan_hash,
    read_candidates,
    read_header,
    read_plan,
    sort_fills,
    sort_merges,
    write_plan,
)

VOLUME = {
    "location": "/data/tissue.zarr",
    "axes": ["z", "y", "x"],
    "shape": [8, 9, 10],
    "dtype": "uint32",
    "voxel_size": [2.0, 1.0, 1.0],
    "fingerprint": "00ff",
    "levels": [],
}


def hashed(plan: PlanData) -> PlanData:
    volume = plan.volume
    name = compute_plan_hash(
        plan.settings,
        plan.model,
        volume["shape"],
        volume["voxel_size"],
        volume["fingerprint"],
        plan.candidates,
        plan.merges,
        plan.fills,
    )
    return replace(plan, hash=name)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.fixture
def plan() -> PlanData:
    candidates = pa.table(
        {
            "t": ints(0, 0),
            "a": labels(7, 2**63),
            "b": labels(9, 3),
            "z": ints(2, 4),
            "gap": ints(1, 2),
            "overlap": ints(30, 31),
            "kind": ["split", "split"],
            "area_a": ints(40, 41),
            "area_b": ints(42, 43),
            "drift": np.array([0.25, 0.5]),
            "p": np.array([0.99, 0.1]),
            "stage": ints(1, 1),
            "decision": ["merge", "keep"],
            "reason": ["probability", "below threshold"],
        }
    )
    merges = Merges(ints(0, 0), labels(2**63, 9), labels(7, 7))
    fills = Fills(ints(0, 0), ints(3, 3), ints(5, 4), ints(2, 1), ints(6, 4), labels(7, 7))
    digest = np.arange(48, dtype=np.uint8).reshape(3, 16)[::-1].copy()
    digest[:, -1] = 0  # a digest may end in a zero byte
    units = Units(ints(0, 0, 1), ints(0, 1, 0), digest, np.array([True, False, True]))
    return hashed(
        PlanData(
            "", {"max_gap": 2, "threshold": 0.8, "model": "default"}, "abc", VOLUME, {"cells": 3},
            {"scan": 1.5}, ["one warning"], candidates, merges, fills, units,
        )
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path, plan: PlanData) -> None:
    write_plan(tmp_path / "tissue.overseg", plan)
    back = read_plan(tmp_path / "tissue.overseg")
    for name in ("hash", "settings", "model", "volume", "counts", "seconds", "warnings", "partial"):
        assert getattr(back, name) == getattr(plan, name)
    assert read_candidates(tmp_path / "tissue.overseg").equals(plan.candidates)
    assert back.candidates.equals(plan.candidates.drop_columns(["drift"]))
    np.testing.assert_array_equal(back.merges.old, labels(9, 2**63))  # sorted by (t, old)
    np.testing.assert_array_equal(back.fills.y, ints(4, 5))
    np.testing.assert_array_equal(back.units.digest, plan.units.digest)
    np.testing.assert_array_equal(back.units.touched, plan.units.touched)
    assert (tmp_path / "tissue.overseg/plan/relabel.csv").read_text().splitlines()[1] == "0,9,7"


def test_features_are_written_block_by_block(tmp_path: Path, plan: PlanData) -> None:
    keys = plan.candidates.drop_columns(["drift"])
    blocks = tuple((lambda value=value: np.array([[value]])) for value in (0.25, 0.5))
    write_plan(tmp_path, replace(plan, candidates=keys, features=Features(("drift",), blocks)))
    assert read_candidates(tmp_path).equals(plan.candidates)
    none = replace(plan, candidates=keys.slice(0, 0), features=Features(("drift",), ()))
    write_plan(tmp_path / "none", hashed(none))
    assert read_candidates(tmp_path / "none").schema == plan.candidates.schema


def test_an_empty_plan_is_a_plan(tmp_path: Path, plan: PlanData) -> None:
    none = np.zeros(0, np.int64)
    empty = replace(
        plan,
        candidates=plan.candidates.slice(0, 0),
        merges=Merges(none, labels(), labels()),
        fills=Fills(none, none, none, none, none, labels()),
    )
    write_plan(tmp_path, hashed(empty))
    assert len(read_plan(tmp_path).merges.old) == 0


def test_hash_does_not_depend_on_order_or_cost(plan: PlanData) -> None:
    turned = replace(
        plan,
        candidates=plan.candidates.take([1, 0]).set_column(9, "drift", pa.array([1.0, 2.0])),
        merges=Merges(plan.merges.t[::-1], plan.merges.old[::-1], plan.merges.new[::-1]),
        fills=Fills(
            ints(0, 0, 0), ints(3, 3, 3), ints(4, 5, 5), ints(1, 4, 2), ints(4, 6, 4), labels(7, 7, 7)
        ),
        settings={"model": "/elsewhere/default", "threshold": 0.8, "max_gap": 2},
        volume={**VOLUME, "location": "s3://bucket/tissue.zarr", "dtype": "uint64"},
    )
    assert hashed(turned).hash == plan.hash


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"max_gap": 3, "threshold": 0.8}},
        {"model": "abd"},
        {"volume": {**VOLUME, "shape": [8, 9, 11]}},
        {"volume": {**VOLUME, "voxel_size": [2.5, 1.0, 1.0]}},
        {"volume": {**VOLUME, "fingerprint": "00fe"}},
        {"merges": Merges(ints(0), labels(9), labels(7))},
        {"fills": Fills(ints(0, 0), ints(3, 3), ints(5, 4), ints(2, 1), ints(6, 4), labels(7, 9))},
    ],
)
def test_hash_changes_with_the_answer(plan: PlanData, change: dict[str, object]) -> None:
    assert hashed(replace(plan, **change)).hash != plan.hash


def test_hash_sees_decisions_and_integers(plan: PlanData) -> None:
    table = plan.candidates
    for name, values in {"decision": ["merge", "review"], "overlap": [30, 32], "reason": ["a", "b"]}.items():
        changed = table.set_column(table.column_names.index(name), name, pa.array(values))
        assert hashed(replace(plan, candidates=changed)).hash != plan.hash


def test_hash_is_that_of_its_words_as_one_json_list(plan: PlanData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overseg.pipeline.plandata._ROWS", 2)
    words = ["merge", None, "keep", "merge", 'a "quoted" word', "µm", "keep"]
    for n in (0, 1, 2, 7):
        whole, found = xxhash.xxh3_128(), xxhash.xxh3_128()
        text = json.dumps(words[:n])
        whole.update(f"reason:{n}:{len(text)};{text}".encode())
        _feed_words(found, "reason", pa.chunked_array([words[:3][:n], words[3:n]], pa.string()))
        assert found.hexdigest() == whole.hexdigest()
    assert plan.hash == "036cdd09f7ace6e84d23c634066d931c"  # of version 1, for ever


def test_what_is_in_order_is_not_copied(plan: PlanData) -> None:
    merges, fills = sort_merges(plan.merges), sort_fills(plan.fills)
    assert merges is not plan.merges and fills is not plan.fills
    assert sort_merges(merges) is merges and sort_fills(fills) is fills


def test_features_are_held_few_blocks_at_a_time(tmp_path: Path, plan: PlanData) -> None:
    held: list[int] = []
    alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()

    def block() -> np.ndarray:
        held.append(len(alive))
        values = np.zeros((2, 1)).view(Watched)
        alive.add(values)
        return values

    many = plan.candidates.drop_columns(["drift"]).take(pa.array([0, 1] * 9))
    features = Features(("drift",), (block,) * 9)
    write_plan(tmp_path, hashed(replace(plan, candidates=many, features=features)))
    assert len(held) == 9 and max(held) <= 2


class Watched(np.ndarray):
    """Can be referred to weakly and hashed."""

    __hash__ = object.__hash__


def test_what_reading_takes_beside_the_tables_does_not_grow_with_them(tmp_path: Path, plan: PlanData) -> None:
    n, m = 40_000, 200_000
    table = plan.candidates.take(pa.array(np.arange(n) % 2))
    table = table.set_column(table.column_names.index("z"), "z", pa.array(np.arange(n)))
    y = np.arange(m)
    fills = Fills(0 * y, y // 1000, y % 1000, 0 * y + 1, 0 * y + 5, y.astype(np.uint64))
    large = hashed(replace(plan, candidates=table, fills=fills))
    assert large.hash == "d887fbcafbb4be0ea25bece2862bf033"
    write_plan(tmp_path, large)
    read_plan(tmp_path)  # code that is loaded on the way stays
    tracemalloc.start()  # sees numpy's and Python's own, not Arrow's
    try:
        back = read_plan(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(back.fills.t) == m and peak < 24 * m  # half of the fills alone


def test_plans_are_never_overwritten(tmp_path: Path, plan: PlanData) -> None:
    write_plan(tmp_path, plan)
    before = (tmp_path / "plan/plan.json").stat().st_mtime_ns
    write_plan(tmp_path, plan)
    assert (tmp_path / "plan/plan.json").stat().st_mtime_ns == before
    with pytest.raises(PlanError, match="another plan"):
        write_plan(tmp_path, hashed(replace(plan, model="other")))


def test_a_wrong_hash_is_not_written(tmp_path: Path, plan: PlanData) -> None:
    with pytest.raises(PlanError, match="hash"):
        write_plan(tmp_path, replace(plan, hash="0" * 32))
    assert not (tmp_path / "plan").exists()


def test_missing_and_unfinished(tmp_path: Path, plan: PlanData) -> None:
    with pytest.raises(PlanError, match="no plan here"):
        read_plan(tmp_path / "nowhere")
    write_plan(tmp_path, plan)
    (tmp_path / "plan/plan.json").unlink()
    with pytest.raises(PlanError, match="not finished"):
        read_plan(tmp_path)


@pytest.mark.parametrize("name", TABLES)
def test_damaged_tables(tmp_path: Path, plan: PlanData, name: str) -> None:
    write_plan(tmp_path, plan)
    path = tmp_path / f"plan/{name}.parquet"
    whole = path.read_bytes()
    for data in (whole[:-9], whole[:40] + b"\x00" + whole[41:], b""):
        path.write_bytes(data)
        if data != whole:
            with pytest.raises(PlanError, match="damaged") as caught:
                read_plan(tmp_path)
            assert name in str(caught.value)
    path.unlink()
    with pytest.raises(PlanError, match="missing"):
        read_plan(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\xff\xfe"])
def test_damaged_header(tmp_path: Path, plan: PlanData, text: str) -> None:
    write_plan(tmp_path, plan)
    (tmp_path / "plan/plan.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PlanError, match="damaged"):
        read_header(tmp_path)


def test_newer_version_and_changed_settings(tmp_path: Path, plan: PlanData) -> None:
    write_plan(tmp_path, plan)
    path = tmp_path / "plan/plan.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, "settings": {"max_gap": 9}}))
    with pytest.raises(PlanError, match="hash"):
        read_plan(tmp_path)
    path.write_text(json.dumps({**header, "version": 2}))
    with pytest.raises(PlanError, match="update overseg"):
        read_plan(tmp_path)
