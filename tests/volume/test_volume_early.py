"""The first layers of a chunk: the same voxels as of the whole chunk, and nothing more is decoded."""

from __future__ import annotations

from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from overseg.errors import VolumeError
from overseg.volume import create_labels, early, open_volume
from overseg.volume.early import cut, first_bytes, read_early

SHAPE, CHUNKS = (70, 100, 90), (40, 64, 64)
CODECS = {
    "zstd": {"compressors": ZstdCodec(level=0)},
    "checked zstd": {"compressors": ZstdCodec(level=7, checksum=True)},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(level=3)},
    "blosc": {"compressors": BloscCodec()},
    "plain": {"compressors": None},
    "shards": {"shards": (40, 128, 128)},
}


def tissue(dtype: str = "u4") -> np.ndarray:
    cells = np.random.default_rng(3).integers(0, 99, (7, 10, 9)).astype(dtype)
    data = cells.repeat(10, 0).repeat(10, 1).repeat(10, 2)
    data[3, 5, 7] = 17
    return data


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("dtype", ["u4", "i8", "u1"])
def test_the_same_as_the_volume_reads(tmp_path: Path, name: str, dtype: str) -> None:
    data = tissue(dtype)
    settings = {"shape": SHAPE, "dtype": dtype, "chunks": CHUNKS, "fill_value": 0, **CODECS[name]}
    zarr.create_array(tmp_path / "a.zarr", **settings)[:] = data
    volume = open_volume(tmp_path / "a.zarr")
    for z in ((0, 3), (17, 21), (38, 40), (38, 42), (42, 45), (66, 70)):
        for box in ((z, (5, 64), (0, 9)), (z, (64, 100), (64, 90)), (z, (60, 70), (1, 2))):
            where = tuple(slice(*span) for span in box)
            found = read_early(volume, where)
            assert found.dtype == data.dtype and found.flags.c_contiguous
            np.testing.assert_array_equal(found, data[where])


def test_a_time_point_and_an_empty_chunk(tmp_path: Path) -> None:
    data = np.stack([0 * tissue(), tissue()])
    volume = create_labels(
        tmp_path / "a.zarr", data.shape, "u4", (1, *CHUNKS), ome=True, axes=("t", "z", "y", "x")
    )
    for unit in range(volume.grid().n):
        volume.write_unit(unit, np.ascontiguousarray(data[volume.grid().slices(unit)]))
    for t in (0, 1):
        found = read_early(volume, (slice(4, 7), slice(0, 60), slice(0, 60)), t)
        np.testing.assert_array_equal(found, data[t, 4:7, :60, :60])


def test_later_layers_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="u4", chunks=CHUNKS)
    array[:] = tissue()
    volume, box = open_volume(tmp_path / "a.zarr"), (slice(4, 7), slice(0, 60), slice(0, 60))
    path = tmp_path / "a.zarr" / "c" / "0" / "0" / "0"
    raw = path.read_bytes()
    sizes = []
    monkeypatch.setattr(early, "cut", lambda raw, n: sizes.append(n) or cut(raw, n))
    np.testing.assert_array_equal(read_early(volume, box), tissue()[box])
    assert sizes == [1]  # of five blocks
    path.write_bytes(raw[:-9])  # later layers are not looked at
    np.testing.assert_array_equal(read_early(volume, box), tissue()[box])
    for damaged in (raw[:20], b"", b"\0" * 99, raw[:9] + bytes(len(raw) - 9)):
        path.write_bytes(damaged)
        with pytest.raises(VolumeError):
            read_early(volume, box)


@pytest.mark.parametrize("level", [-5, 0, 1, 9, 19])
@pytest.mark.parametrize("kind", ["tissue", "noise", "one"])
def test_frames_are_cut_at_any_level(level: int, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 900_001).astype(np.uint8)
    data = {"tissue": tissue().reshape(-1).view(np.uint8), "noise": noise, "one": 0 * noise + 5}[kind]
    codec = numcodecs.Zstd(level)
    raw = bytes(codec.encode(data))
    for stop in (1, 1 << 17, (1 << 17) + 1, 500_000):
        found = first_bytes(raw, stop, data.nbytes, codec)
        # Some levels cut what they pack into smaller blocks: then there is no answer, but never a wrong one.
        assert found is not None or level > 9
        if found is not None:
            assert len(found) >= stop
            np.testing.assert_array_equal(found, data[: len(found)])
    assert first_bytes(raw, data.nbytes, data.nbytes, codec) is None
    assert cut(raw[:22], 3) is None and cut(raw, 99) is None and cut(b"", 1) is None
