"""Bytes that were cut short or changed are noticed, and the unit is named; background is never made up."""

from __future__ import annotations

from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ShardingCodec

from overseg.errors import StorageError, VolumeError
from overseg.volume import open_volume

SHAPE = (7, 22, 23)
UNIT = 5
CODECS = {
    "v2 plain": {"zarr_format": 2, "chunks": (4, 8, 8), "compressors": None},
    "v2 zstd": {"zarr_format": 2, "chunks": (4, 8, 8)},
    "v2 blosc": {"zarr_format": 2, "chunks": (4, 8, 8), "compressors": numcodecs.Blosc()},
    "v2 lz4": {"zarr_format": 2, "chunks": (4, 8, 8), "compressors": numcodecs.LZ4()},
    "v2 zlib": {"zarr_format": 2, "chunks": (4, 8, 8), "compressors": numcodecs.Zlib()},
    "v3 plain": {"chunks": (4, 8, 8), "compressors": None},
    "v3 zstd": {"chunks": (4, 8, 8)},
    "v3 gzip": {"chunks": (4, 8, 8), "compressors": GzipCodec()},
    "v3 blosc": {"chunks": (4, 8, 8), "compressors": BloscCodec()},
    "shards": {"chunks": (2, 4, 4), "shards": (4, 8, 8)},
    "plain shards": {"chunks": (2, 4, 4), "shards": (4, 8, 8), "compressors": None},
    "index first": {
        "chunks": (4, 8, 8),
        "serializer": ShardingCodec(chunk_shape=(2, 4, 4), codecs=[BytesCodec()], index_location="start"),
        "compressors": None,
    },
}


def stored(tmp_path: Path, codec: str) -> tuple[Path, np.ndarray]:
    data = np.random.default_rng(3).integers(1, 1000, SHAPE).astype(np.uint32)
    path = tmp_path / "cells.zarr"
    zarr.create_array(path, shape=SHAPE, dtype=data.dtype, **CODECS[codec])[:] = data
    return path, data


@pytest.mark.parametrize("codec", CODECS)
def test_truncated_units_are_named_and_never_read_as_background(tmp_path: Path, codec: str) -> None:
    path, data = stored(tmp_path, codec)
    vol = open_volume(path)
    file = path / vol.unit_key(UNIT)
    whole = file.read_bytes()
    for length in [0, 1, 4, 20, len(whole) // 4, len(whole) // 2, len(whole) - 4, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(VolumeError, match="damaged voxels") as caught:
            vol.read_unit(UNIT)
        assert f"unit {UNIT} " in caught.value.where and caught.value.remedy
        with pytest.raises(VolumeError) as caught:
            vol.read(np.s_[0:7, 0:22, 0:23])
        assert f"unit {UNIT} " in caught.value.where
        np.testing.assert_array_equal(vol.read_unit(UNIT + 1), data[vol.grid().slices(UNIT + 1)])
    file.write_bytes(whole)
    np.testing.assert_array_equal(vol.read(np.s_[0:7, 0:22, 0:23]), data)


@pytest.mark.parametrize("codec", ["v2 zlib", "v3 gzip", "v3 zstd", "shards", "plain shards"])
def test_garbled_units_are_named(tmp_path: Path, codec: str) -> None:
    path, _ = stored(tmp_path, codec)
    vol = open_volume(path)
    file = path / vol.unit_key(UNIT)
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    with pytest.raises(VolumeError, match="damaged voxels"):
        vol.read_unit(UNIT)


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_unit_can_be_written_anew(tmp_path: Path, codec: str) -> None:
    path, data = stored(tmp_path, codec)
    vol = open_volume(path)
    for unit in [UNIT, vol.grid().n - 1]:
        (path / vol.unit_key(unit)).write_bytes(b"rubbish")
        vol.write_unit(unit, data[vol.grid().slices(unit)])
    np.testing.assert_array_equal(vol.read(np.s_[0:7, 0:22, 0:23]), data)


def test_too_long_plain_chunk(tmp_path: Path) -> None:
    path, _ = stored(tmp_path, "v3 plain")
    vol = open_volume(path)
    with (path / vol.unit_key(UNIT)).open("ab") as file:
        file.write(b"more")
    with pytest.raises(VolumeError, match="damaged voxels"):
        vol.read_unit(UNIT)


def test_an_unreadable_unit_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = stored(tmp_path, "v3 zstd")
    vol = open_volume(path)
    key = vol.unit_key(UNIT)
    get = zarr.storage._local._get

    def refuse(file: Path, *rest: object) -> object:
        if str(file).endswith(key):
            raise PermissionError(13, "Permission denied", str(file))
        return get(file, *rest) if rest else Path(file).read_bytes()

    monkeypatch.setattr(zarr.storage._local, "_get", refuse)
    monkeypatch.setattr("overseg.volume.direct.load", refuse)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        vol.read(np.s_[0:7, 0:22, 0:23])
    assert f"unit {UNIT} " in caught.value.where


def test_chunks_that_were_never_written_are_background(tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    zarr.create_array(path, shape=SHAPE, dtype="u4", **CODECS["shards"])
    assert not open_volume(path).read(np.s_[0:7, 0:22, 0:23]).any()
