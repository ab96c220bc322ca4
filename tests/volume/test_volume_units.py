"""Numbering, digests and whole writes of write units, on every layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.errors import InputError, VolumeError
from overseg.volume import UnitGrid, check_block, copy_volume, open_volume, unit_digest

SHAPE = (7, 20, 21)
LAYOUTS = {
    "v2": {"zarr_format": 2, "chunks": (3, 8, 8)},
    "v2 plain": {"zarr_format": 2, "chunks": (3, 8, 8), "compressors": None},
    "v2 fortran": {"zarr_format": 2, "chunks": (3, 8, 8), "order": "F"},
    "v2 one chunk beyond the end": {"zarr_format": 2, "chunks": (16, 32, 32)},
    "v3": {"zarr_format": 3, "chunks": (3, 8, 8)},
    "v3 plain": {"zarr_format": 3, "chunks": (3, 8, 8), "compressors": None},
    "v3 single layers": {"zarr_format": 3, "chunks": (1, 20, 21)},
    "v3 shards": {"zarr_format": 3, "chunks": (2, 4, 4), "shards": (4, 8, 8)},
    "v3 one shard": {"zarr_format": 3, "chunks": (1, 8, 8), "shards": (8, 24, 24)},
    "v3 shards of one chunk": {"zarr_format": 3, "chunks": (4, 8, 8), "shards": (4, 8, 8)},
}
Make = Callable[..., tuple[Path, np.ndarray]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A stored volume of random labels, and its voxels."""

    def build(layout: str = "v3", dtype: str = "uint32", **extra: object) -> tuple[Path, np.ndarray]:
        data = np.random.default_rng(1).integers(1, 120, SHAPE).astype(dtype)
        path = tmp_path / "cells.zarr"
        options = LAYOUTS[layout] | extra
        zarr.create_array(path, shape=SHAPE, dtype=data.dtype, **options)[:] = data
        return path, data

    return build


@pytest.mark.parametrize("layout", LAYOUTS)
def test_units_tile_the_volume_and_are_written_alone(make: Make, layout: str) -> None:
    path, data = make(layout)
    vol = open_volume(path)
    grid = vol.grid()
    seen = np.zeros(SHAPE, int)
    for unit in range(grid.n):
        seen[grid.slices(unit)] += 1
        assert grid.unit(grid.coords(unit)) == unit
        np.testing.assert_array_equal(vol.read_unit(unit), data[grid.slices(unit)])
    assert (seen == 1).all()

    unit = grid.n - 1
    before = {key: vol.files.read(key) for key in vol.files.list()}
    vol.write_unit(unit, data[grid.slices(unit)] + 1)
    after = {key: vol.files.read(key) for key in vol.files.list()}
    assert [key for key in after if after[key] != before[key]] == [vol.unit_key(unit)]
    expected = data.copy()
    expected[grid.slices(unit)] += 1
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], expected)


@pytest.mark.parametrize("layout", ["v2", "v3", "v3 shards"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", ">u2", "uint32", ">i8", "uint64"])
def test_read_gives_any_box_in_native_order(make: Make, layout: str, dtype: str) -> None:
    path, data = make(layout, dtype)
    vol = open_volume(path)
    for box in [np.s_[0:7, 0:20, 0:21], np.s_[2:5, 7:9, 8:21], np.s_[6:7, 19:20, 0:1], np.s_[3:3, 0:4, 0:4]]:
        got = vol.read(box)
        assert got.dtype == vol.dtype == data.dtype.newbyteorder("=") and got.flags.c_contiguous
        np.testing.assert_array_equal(got, data[box])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [0, 5])
def test_a_unit_of_one_value_reads_back_as_it_was_written(make: Make, layout: str, value: int) -> None:
    path, _ = make(layout, fill_value=5)
    vol = open_volume(path)
    flat = np.full(vol.grid().extent(0), value, np.uint32)
    vol.write_unit(0, flat)
    np.testing.assert_array_equal(vol.read_unit(0), flat)
    assert vol.unit_stamp(0) != "absent"  # the chunk was there, so it stays there


def test_an_absent_unit_stays_absent_when_nothing_but_fill_is_written(make: Make) -> None:
    path, _ = make()
    vol = open_volume(path)
    vol.files.delete(vol.unit_key(0))
    assert vol.unit_stamp(0) == "absent"
    vol.write_unit(0, np.zeros(vol.grid().extent(0), np.uint32))
    assert vol.unit_stamp(0) == "absent"


@pytest.mark.parametrize("layout", ["v2", "v3", "v3 shards"])
def test_what_a_killed_write_leaves_is_no_part_of_the_volume(
    make: Make, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = make(layout)
    vol = open_volume(path)
    before = vol.files.list()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # zarr writes in a thread of its own, where nothing but a real kill leaves this file
    (path / vol.unit_key(1)).with_suffix(f".{'0123456789abcdef' * 2}.partial").write_bytes(b"half")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            vol.files.write(vol.unit_key(1), b"")
    assert sum(file.is_file() for file in path.rglob("*")) == len(before) + 2
    assert vol.files.list() == before
    np.testing.assert_array_equal(vol.read(np.s_[0:7, 0:20, 0:21]), data)
    copy = open_volume(copy_volume(vol, path.with_name("copy.zarr")))
    assert sum(file.is_file() for file in Path(copy.location).rglob("*")) == len(before)


def test_missing_fill_value_reads_as_background(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=SHAPE, dtype="u4", chunks=(4, 8, 8), zarr_format=2, fill_value=None
    )
    assert array.metadata.fill_value is None
    vol = open_volume(tmp_path / "a.zarr")
    assert not vol.read(np.s_[0:7, 0:20, 0:21]).any()
    vol.write_unit(0, np.zeros(vol.grid().extent(0), np.uint32))
    assert not vol.read_unit(0).any()


def test_the_stamp_changes_with_the_stored_bytes_only(make: Make) -> None:
    path, _ = make()
    vol = open_volume(path)
    stamp = vol.unit_stamp(3)
    vol.write_unit(2, vol.read_unit(2) + 1)
    assert vol.unit_stamp(3) == stamp
    vol.write_unit(3, vol.read_unit(3) + 1)
    assert vol.unit_stamp(3) != stamp


def test_only_whole_units_of_the_right_type_are_written(make: Make) -> None:
    path, data = make()
    vol = open_volume(path)
    with pytest.raises(InputError, match="unit 0"):
        vol.write_unit(0, data[:1, :8, :8])
    with pytest.raises(InputError, match="int64"):
        vol.write_unit(0, data[:3, :8, :8].astype(np.int64))
    np.testing.assert_array_equal(vol.read(np.s_[0:7, 0:20, 0:21]), data)


def test_boxes_outside_the_volume_are_refused(make: Make) -> None:
    vol = open_volume(make()[0])
    for box in [np.s_[0:8, 0:20, 0:21], np.s_[-1:3, 0:2, 0:2], np.s_[0:4:2, 0:2, 0:2]]:
        with pytest.raises(InputError, match="not inside"):
            vol.read(box)


def test_a_volume_is_small_when_pickled_and_works_on_the_other_side(make: Make) -> None:
    path, data = make("v3 shards")
    vol = open_volume(path)
    vol.read_unit(0)  # an open array must not travel
    text = pickle.dumps(vol)
    assert len(text) < 2_000
    other = pickle.loads(text)
    assert other == vol
    np.testing.assert_array_equal(other.read(np.s_[0:7, 0:20, 0:21]), data)


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 4), st.integers(1, 3), st.data())
def test_over_finds_exactly_the_units_that_meet_a_box(sizes, times, per, data) -> None:
    shape = (times, 1, *(n for n, _ in sizes))
    grid = UnitGrid(shape, (per, 1, *(u for _, u in sizes)), ("t", "c", "z", "y", "x"))
    box = []
    for n, _ in sizes:
        start = data.draw(st.integers(0, n - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, n))))
    t = data.draw(st.integers(0, times - 1))
    inside = np.zeros(shape, bool)
    inside[(slice(t, t + 1), slice(0, 1), *box)] = True
    meets = [unit for unit in range(grid.n) if inside[grid.slices(unit)].any()]
    assert grid.over(tuple(box), t) == meets
    assert all(t in grid.times(unit) for unit in meets)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["u1", "i2", "u4", "i8", "u8"]))
def test_digest_depends_on_voxels_type_and_shape_and_on_nothing_else(seed: int, dtype: str) -> None:
    data = np.random.default_rng(seed).integers(0, 100, (2, 3, 4)).astype(dtype)
    digest = unit_digest(data)
    assert isinstance(digest, bytes) and len(digest) == 16
    assert digest == unit_digest(np.asfortranarray(data)) == unit_digest(data.astype(">" + dtype))
    other = data.copy()
    other[1, 2, 3] += 1
    different = [other, data.reshape(3, 2, 4), data.astype("u2"), data[:1]]
    assert all(unit_digest(voxels) != digest for voxels in different)


def test_digest_is_the_plain_hash_of_header_and_voxels() -> None:
    voxels = np.arange(24, dtype="<u4").reshape(2, 3, 4)
    assert unit_digest(voxels) == xxhash.xxh3_128(b"<u4(2, 3, 4)" + voxels.tobytes()).digest()


def test_blocks_with_impossible_labels_are_refused() -> None:
    check_block(np.array([0, 2**63], np.uint64))
    check_block(np.array([], np.int32))
    with pytest.raises(VolumeError, match="negative labels, for example -3"):
        check_block(np.array([5, -3, 0], np.int16))
    with pytest.raises(VolumeError, match="above 2"):
        check_block(np.array([2**63 + 1], np.uint64), "unit 7")
