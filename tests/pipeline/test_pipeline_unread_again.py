"""Chunks that cannot be decoded: what comes back is planned anew, and odd volumes are treated alike."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.ndimage import maximum_filter

import overseg
from overseg.errors import DamagedError, PlanError
from overseg.measure import generate_tissue, simulate_splits
from overseg.volume import open_volume
from overseg.volume.create import create_labels, fill

CHUNKS = (4, 16, 16)
TORN = "c/1/1/1"
JUNK = b"\xff" * 99


@pytest.fixture(scope="module")
def broken() -> np.ndarray:
    tissue = generate_tissue((16, 48, 48), n_cells=30, seed=4)
    return simulate_splits(tissue, rate=0.5, seed=4)[0]


def store(path: Path, data: np.ndarray) -> Path:
    config = {"write_empty_chunks": True}
    zarr.create_array(str(path), shape=data.shape, chunks=CHUNKS, dtype="u4", config=config)[:] = data
    return path


def near(data: np.ndarray, reach: int = 3) -> set[int]:
    """The plain truth: labels within `reach` of the torn chunk, which itself cannot be seen."""
    inside = np.zeros(data.shape, bool)
    inside[4:8, 16:32, 16:32] = True
    return set(np.unique(data[maximum_filter(inside, size=2 * reach + 1) & ~inside]).tolist())


def files(volume: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(volume.rglob("*")) if p.is_file() and ".overseg" not in str(p)}


def test_a_partial_plan_is_another_than_the_whole_one_that_changes_the_same(
    broken: np.ndarray, tmp_path: Path
) -> None:
    wide = np.zeros((16, 48, 96), np.uint32)
    wide[:, :, :48] = broken
    path = store(tmp_path / "v.zarr", wide)
    empty = path / "c/1/1/5"  # no label is near
    sound = empty.read_bytes()
    empty.write_bytes(JUNK)
    partial = overseg.plan(path, workers=1)
    assert partial.unread[0]["voxels"] == "t 0:1, z 4:8, y 16:32, x 80:96"
    assert not any(row["reason"] == "unread" for row in partial.candidates.to_pylist())
    empty.write_bytes(sound)
    whole = overseg.plan(path, workers=1)
    assert whole.hash != partial.hash and whole.path != partial.path
    assert whole.data.fills.z.tolist() == partial.data.fills.z.tolist()
    overseg.apply(whole, workers=1)


def test_a_chunk_restored_with_its_old_size_and_time_is_read_again(
    broken: np.ndarray, tmp_path: Path
) -> None:
    path = store(tmp_path / "v.zarr", broken)
    whole = overseg.plan(path, workers=1, out=tmp_path / "whole")
    torn = path / TORN
    sound, facts = torn.read_bytes(), torn.stat()

    def put(data: bytes) -> None:
        torn.write_bytes(data)
        os.utime(torn, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    put(b"\xff" * len(sound))
    out = tmp_path / "twice"
    assert overseg.plan(path, workers=1, out=out).unread
    put(sound)
    assert overseg.plan(path, workers=1, out=out).hash == whole.hash


def test_correct_does_not_take_an_applied_partial_plan_for_all_there_is(
    broken: np.ndarray, tmp_path: Path
) -> None:
    path = store(tmp_path / "v.zarr", broken)
    torn = path / TORN
    sound = torn.read_bytes()
    torn.write_bytes(JUNK)
    overseg.apply(overseg.plan(path, workers=1), allow_partial=True, workers=1)
    with pytest.raises(PlanError, match="the plan is partial"):
        overseg.correct(path, workers=1)
    torn.write_bytes(sound)
    assert not overseg.correct(path, workers=1).unread


def test_0_may_be_a_cell(broken: np.ndarray, tmp_path: Path) -> None:
    def planned(data: np.ndarray, name: str, background: int) -> list[dict[str, object]]:
        path = store(tmp_path / name, data)
        (path / TORN).write_bytes(JUNK)
        return list(overseg.plan(path, workers=1, background=background).candidates.to_pylist())

    plain = planned(broken, "plain.zarr", 0)
    concerned = near(broken) - {0}
    # A cell that is the only one near the chunk in a candidate changes names with the background.
    alone = [{row["a"], row["b"]} & concerned for row in plain if row["reason"] == "unread"]
    cell = next(min(labels) for labels in alone if len(labels) == 1)
    swapped = np.where(broken == 0, cell, np.where(broken == cell, 0, broken)).astype(np.uint32)
    other = planned(swapped, "swapped.zarr", cell)
    told = [
        sorted((row["z"], row["gap"], row["overlap"], row["kind"], row["reason"]) for row in rows)
        for rows in (plain, other)
    ]
    assert told[0] == told[1]
    assert {row["reason"] for row in other if 0 in (row["a"], row["b"])} == {"unread"}


@pytest.mark.timeout(600)
def test_the_same_for_every_number_of_workers_and_when_run_again(broken: np.ndarray, tmp_path: Path) -> None:
    path = store(tmp_path / "v.zarr", broken)
    (path / TORN).write_bytes(JUNK)
    one = overseg.plan(path, workers=1, out=tmp_path / "one")
    assert overseg.plan(path, workers=1, out=tmp_path / "one").hash == one.hash
    two = overseg.plan(path, workers=2, out=tmp_path / "two")
    assert two.hash == one.hash and two.unread == one.unread


def test_times_and_levels(broken: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overseg.volume.create._SMALLEST_TOP", 24)
    path = tmp_path / "film.zarr"
    film = create_labels(
        path, (2, *broken.shape), "u4", (1, *CHUNKS), ome=True, axes=("t", "z", "y", "x"), levels=2
    )
    for t in range(2):
        fill(film, lambda box: broken[box].astype(np.uint32), t)
    levels = [Path(film.level_place(level).location) for level in range(2)]
    (levels[0] / "c/1/1/1/1").write_bytes(JUNK)
    plan = overseg.plan(path, workers=1)
    rows = plan.candidates.to_pylist()
    concerned = near(broken) - {0}
    assert plan.unread[0]["voxels"] == "t 1:2, z 4:8, y 16:32, x 16:32"
    assert {row["reason"] for row in rows if row["t"] == 1 and {row["a"], row["b"]} & concerned} == {"unread"}
    assert not any(row["reason"] == "unread" for row in rows if row["t"] == 0)
    before = files(path)
    overseg.apply(plan, allow_partial=True, workers=1)
    coarse = open_volume(path).read(tuple(slice(0, n) for n in film.levels[1].shape[1:]), 1, 1)
    step = [round(b / a) for a, b in zip(film.levels[0].scale, film.levels[1].scale, strict=True)]
    was = broken[:: step[0], :: step[1], :: step[2]]
    kept = np.isin(was, list(concerned))
    np.testing.assert_array_equal(coarse[kept], was[kept])
    assert (coarse != was).any()
    assert overseg.verify(plan, workers=1).ok
    overseg.undo(plan, workers=1)
    assert files(path) == before
    # A coarser level is not planned from: apply refuses it, before anything is written.
    for chunk in (p for p in (levels[1] / "c").rglob("*") if p.is_file()):
        chunk.write_bytes(JUNK)
    before = files(path)
    with pytest.raises(DamagedError, match="cannot be decoded"):
        overseg.apply(plan, allow_partial=True, workers=1)
    assert files(path) == before


def test_one_inner_chunk_takes_its_shard_along(broken: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    zarr.create_array(str(path), shape=broken.shape, chunks=(2, 8, 8), shards=CHUNKS, dtype="u4")[:] = broken
    torn = path / TORN
    data = bytearray(torn.read_bytes())
    index = np.frombuffer(bytes(data[-(16 * 8 + 4) : -4]), "<u8").reshape(8, 2)  # before its checksum
    start, size = map(int, index[index[:, 0] != 2**64 - 1][0])
    data[start : start + size] = bytes(size)
    torn.write_bytes(data)
    plan = overseg.plan(path, workers=1)
    assert [each["voxels"] for each in plan.unread] == ["t 0:1, z 4:8, y 16:32, x 16:32"]
    concerned = near(broken) - {0}
    rows = [row for row in plan.candidates.to_pylist() if {row["a"], row["b"]} & concerned]
    assert rows and {row["reason"] for row in rows} == {"unread"}
    overseg.apply(plan, allow_partial=True, workers=1)
    assert torn.read_bytes() == data
    assert overseg.verify(plan, workers=1).ok
    overseg.undo(plan, workers=1)
    # The shards around are as they were, voxel by voxel.
    stored = zarr.open_array(str(path), mode="r")
    np.testing.assert_array_equal(stored[8:], broken[8:])
    np.testing.assert_array_equal(stored[:4], broken[:4])
