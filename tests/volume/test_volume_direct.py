"""Chunks without zarr in between: the same voxels, the same bytes on disk, and no answer of their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from overseg.errors import StorageError
from overseg.volume import direct, open_volume
from overseg.volume.direct import plain_chunks, through_zarrs

SHAPE, CHUNKS = (7, 22, 23), (4, 8, 8)
PLAIN = {
    "v2": {"zarr_format": 2, "compressors": None},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(level=3, checksum=True)},
    "v2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip(level=2)},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("lz4", 5, 2)},
    "v2 dots": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3": {"compressors": None},
    "v3 zstd": {"compressors": ZstdCodec(level=0)},
    "v3 checked zstd": {"compressors": ZstdCodec(level=7, checksum=True)},
    "v3 gzip": {"compressors": GzipCodec(level=1)},
    "v3 blosc": {"compressors": BloscCodec(cname="zstd", clevel=3)},
    "v3 filled": {"fill_value": 9},
}
OTHERS = {
    "shards": {"shards": (8, 16, 16)},
    "big endian": {"serializer": BytesCodec(endian="big")},
    "transposed": {"filters": TransposeCodec(order=(2, 1, 0))},
    "summed": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "v2 columns first": {"zarr_format": 2, "order": "F"},
    "v2 filtered": {"zarr_format": 2, "filters": numcodecs.Delta("u4")},
    "v2 lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
}
ALL = {**PLAIN, **OTHERS}


def stored(path: Path, name: str, dtype: str = "u4") -> np.ndarray:
    data = np.random.default_rng(3).integers(1, 100, SHAPE).astype(dtype)
    data[:4, :8, :8] = 9
    given_ = {"shape": SHAPE, "dtype": dtype, "chunks": CHUNKS, "fill_value": 0, **ALL[name]}
    zarr.create_array(path, **given_)[:] = data
    return data


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["u4", "i8", "u1"])
def test_the_same_voxels_as_zarr(tmp_path: Path, name: str, dtype: str) -> None:
    if name == "v2 filtered" and dtype != "u4":
        return
    data = stored(tmp_path / "a.zarr", name, dtype)
    vol = open_volume(tmp_path / "a.zarr")
    for unit in range(vol.grid().n):
        found = vol.read_unit(unit)
        np.testing.assert_array_equal(found, data[vol.grid().slices(unit)])
        assert found.flags.c_contiguous and found.flags.writeable
    box = np.s_[1:6, 3:21, 0:23]
    np.testing.assert_array_equal(vol.read(box), data[box])


@pytest.mark.parametrize("name", ALL)
def test_who_goes_without_zarr(tmp_path: Path, name: str) -> None:
    stored(tmp_path / "a.zarr", name)
    array = zarr.open_array(tmp_path / "a.zarr")
    assert (plain_chunks(array, str(tmp_path / "a.zarr")) is not None) == (name in PLAIN)


@pytest.mark.parametrize("name", ALL)
def test_the_same_bytes_as_zarr(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # gzip stores the second of writing in its header
    monkeypatch.setattr("gzip.time", SimpleNamespace(time=lambda: 0))
    places = [tmp_path / "one.zarr", tmp_path / "two.zarr"]
    for path in places:
        data = stored(path, name)
    changed = np.where(data == 50, 51, data).astype(data.dtype)
    changed[4:, 8:16, 8:16] = ALL[name].get("fill_value", 0)
    for path in places:
        vol = open_volume(path)
        for unit in range(vol.grid().n):
            vol.write_unit(unit, changed[vol.grid().slices(unit)])
        monkeypatch.setattr(direct, "plain_chunks", lambda *_: None)
    files = [{str(f.relative_to(path)): f for f in path.rglob("*") if f.is_file()} for path in places]
    assert files[0].keys() == files[1].keys()
    for key, file in files[0].items():
        assert file.read_bytes() == files[1][key].read_bytes(), key
    np.testing.assert_array_equal(zarr.open_array(places[0])[:], changed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([n for n in PLAIN if n != "v2 dots"]), st.data())
def test_damaged_bytes_are_read_as_zarr_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject
) -> None:
    path = tmp_path / f"{name}.zarr"
    if not path.exists():
        stored(path, name)
    vol = open_volume(path)
    file = path / vol.unit_key(5)
    whole = file.read_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole)))] + data.draw(st.binary(max_size=6))
    at, flip = data.draw(st.integers(0, len(cut))), data.draw(st.integers(0, 255))
    file.write_bytes(cut[:at] + bytes(b ^ flip for b in cut[at : at + 1]) + cut[at + 1 :])
    answers = []
    with monkeypatch.context() as patch:
        for _ in range(2):
            try:
                answers.append(open_volume(path).read_unit(5).tolist())
            except Exception as error:
                answers.append(f"{type(error).__name__} {error}")
            patch.setattr(direct, "plain_chunks", lambda *_: None)
    file.write_bytes(whole)
    assert answers[0] == answers[1]


def test_shards_go_through_the_compiled_pipeline(tmp_path: Path) -> None:
    data = stored(tmp_path / "a.zarr", "shards")
    array = zarr.open_array(tmp_path / "a.zarr")
    compiled = through_zarrs(str(tmp_path / "a.zarr"), array)
    assert type(compiled._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
    np.testing.assert_array_equal(compiled[:], data)
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").unlink()
    vol = open_volume(tmp_path / "a.zarr")
    assert not vol.read_unit(0).any()
    np.testing.assert_array_equal(vol.read_unit(1), data[vol.grid().slices(1)])


def test_without_the_compiled_pipeline_zarr_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(tmp_path / "a.zarr", "shards")
    monkeypatch.setattr(direct, "find_spec", lambda _: None)
    vol = open_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(vol.read_unit(1), data[vol.grid().slices(1)])


def test_a_write_that_fails_leaves_the_old_chunk_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = stored(tmp_path / "a.zarr", "v3 zstd")
    before = sorted(tmp_path.rglob("*"))
    vol = open_volume(tmp_path / "a.zarr")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(direct.os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        vol.write_unit(5, np.ones_like(data[vol.grid().slices(5)]))
    assert sorted(tmp_path.rglob("*")) == before
    np.testing.assert_array_equal(vol.read_unit(5), data[vol.grid().slices(5)])
