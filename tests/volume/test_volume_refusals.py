"""What cannot be corrected is refused before a byte is written, with a remedy."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from overseg.errors import InputError, OversegError, StorageError, VolumeError
from overseg.volume import create_labels, open_volume
from overseg.volume import files as files_module

EIGHT = np.arange(512, dtype=np.uint16).reshape(8, 8, 8)


def save(path: Path, data: np.ndarray, **options: object) -> Path:
    array = zarr.create_array(path, shape=data.shape, dtype=data.dtype, **options)
    if data.size:
        array[...] = data
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(source: object, match: str, **options: object) -> VolumeError:
    """The refusal, which must name a place and a remedy."""
    with pytest.raises(VolumeError, match=match) as caught:
        open_volume(source, **options)
    assert caught.value.remedy and caught.value.where
    return caught.value


def test_missing_path(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.zarr", "does not exist")


def test_plain_folder_points_at_the_volumes_inside(tmp_path: Path) -> None:
    save(tmp_path / "stack.zarr", EIGHT)
    assert "stack.zarr" in (refused(tmp_path, "not a zarr").remedy or "")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "not a zarr")


def test_other_formats_are_sent_to_convert(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", EIGHT)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = EIGHT
    np.save(tmp_path / "c.npy", EIGHT)
    (tmp_path / "d.txt").write_text("no labels")
    for name, kind in {"a.ome.tif": "TIFF", "b.h5": "HDF5", "c.npy": "NumPy"}.items():
        error = refused(tmp_path / name, kind)
        assert f"overseg convert {tmp_path / name}" in (error.remedy or "")
    refused(tmp_path / "d.txt", "a file, not a zarr")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_voxels_that_are_no_labels(tmp_path: Path, dtype: str, zarr_format: int) -> None:
    path = save(tmp_path / "a.zarr", EIGHT.astype(dtype), zarr_format=zarr_format)
    refused(path, f"voxels are {dtype}")


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8, 8), (64,), ()])
def test_bare_arrays_must_be_3d(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refused(save(tmp_path / "a.zarr", np.ones(shape, np.uint16)), f"has {len(shape)} axes")


def test_zero_size_axis(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.zarr", np.ones((4, 0, 8), np.uint16), chunks=(4, 4, 4)), "empty")


def test_transposed_array(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", EIGHT, dimension_names=("x", "y", "z"))
    refused(path, "axes are x, y, z")
    assert open_volume(save(tmp_path / "b.zarr", EIGHT, dimension_names=("z", "y", "x"))).shape == (8, 8, 8)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_group_lists_its_arrays(tmp_path: Path, zarr_format: int) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    refused(tmp_path / "a.zarr", "holds no labels")
    group.create_array("seg/cells", shape=(8, 8, 8), dtype="u4")
    error = refused(tmp_path / "a.zarr", "holds .*seg/cells")
    assert str(tmp_path / "a.zarr" / "seg" / "cells") in (error.remedy or "")
    assert open_volume(tmp_path / "a.zarr" / "seg" / "cells").name == "a-seg-cells"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"zarr_format": 3, "node_type": "array"}', b"\xff\xfe"])
def test_damaged_array_metadata(tmp_path: Path, zarr_format: int, text: bytes) -> None:
    path = save(tmp_path / "a.zarr", EIGHT, zarr_format=zarr_format)
    (path / ("zarr.json" if zarr_format == 3 else ".zarray")).write_bytes(text)
    refused(path, "metadata are damaged")


def test_unknown_codec(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", EIGHT)
    document = json.loads((path / "zarr.json").read_text())
    document["codecs"].append({"name": "compress-o-matic", "configuration": {}})
    (path / "zarr.json").write_text(json.dumps(document))
    refused(path, "damaged or not supported.*compress-o-matic")


@pytest.mark.parametrize("size", [(0, 1, 1), (1, -2, 1), (1, 1), "abc", (1, float("nan"), 1)])
def test_impossible_voxel_size(tmp_path: Path, size: object) -> None:
    path = save(tmp_path / "a.zarr", EIGHT)
    with pytest.raises(InputError, match="voxel size"):
        open_volume(path, voxel_size=size)
    save(tmp_path / "b.zarr", EIGHT, attributes={"voxel_size": [0, 1, 1]})
    with pytest.raises(InputError, match="above zero") as caught:
        open_volume(tmp_path / "b.zarr")
    assert "voxel_size" in (caught.value.where or "")


def test_volumes_in_memory_and_other_objects(tmp_path: Path) -> None:
    refused(zarr.create_array({}, shape=(8, 8, 8), dtype="u2"), "MemoryStore")
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        refused(zarr.create_array(store, shape=(8, 8, 8), dtype="u2"), "ZipStore")
    for thing in [EIGHT, 3, None]:
        with pytest.raises(VolumeError) as caught:
            open_volume(thing)
        assert caught.value.remedy


def test_open_objects_are_accepted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", EIGHT)
    vol = open_volume(zarr.open_array(path, mode="r"))
    assert vol == open_volume(path) == open_volume(str(path)) == open_volume(f"file://{path}")
    assert open_volume(vol) is vol and open_volume(vol, voxel_size=(3, 2, 1)).voxel_size == (3, 2, 1)
    (tmp_path / "link").symlink_to(path)
    assert open_volume(tmp_path / "link").location == str(path.resolve())


def test_label_name_for_a_single_array(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.zarr", EIGHT), "no labels 'cells'", label="cells")


def test_refusals_write_nothing(tmp_path: Path) -> None:
    create_labels(tmp_path / "a.zarr", (4, 4, 4), "u2", (2, 2, 2), ome=True, label="a")
    create_labels(tmp_path / "a.zarr", (4, 4, 4), "u2", (2, 2, 2), ome=True, label="b")
    save(tmp_path / "b.zarr", EIGHT.astype(float))
    before = contents(tmp_path)
    for name in ["a.zarr", "b.zarr", "c.zarr"]:
        with pytest.raises(OversegError):
            open_volume(tmp_path / name)
    assert contents(tmp_path) == before


def test_check_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", EIGHT)
    before = contents(tmp_path)
    open_volume(path).check_writable()
    assert contents(tmp_path) == before


def test_check_writable_notices_missing_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vol = open_volume(save(tmp_path / "a.zarr", EIGHT))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="cannot be written: Permission denied") as caught:
        vol.check_writable()
    assert "--output" in (caught.value.remedy or "")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_check_writable_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Root may pass the permission check on a file system that is mounted read-only."""
    vol = open_volume(save(tmp_path / "a.zarr", EIGHT))

    def refuse(path: str, data: bytes) -> str:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(files_module, "_write_beside", refuse)
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        vol.check_writable()
    assert str(tmp_path) in (caught.value.where or "") and caught.value.remedy


def test_addresses_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vol = create_labels("memory://fixed/a.zarr", (4, 4, 4), "u2", (4, 4, 4))

    def refuse(self: object, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(StorageError, match="can only be read") as caught:
        vol.check_writable()
    assert "--output" in (caught.value.remedy or "") and caught.value.where == "memory://fixed/a.zarr"
    monkeypatch.undo()
    fsspec.filesystem("memory").rm("/fixed", recursive=True)


def test_a_full_disk_while_writing_names_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vol = open_volume(save(tmp_path / "a.zarr", EIGHT, chunks=(4, 4, 4)))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zarr.storage._local, "_put", refuse)
    monkeypatch.setattr("overseg.volume.direct.save", refuse)
    with pytest.raises(StorageError, match="No space left") as caught:
        vol.write_unit(1, np.ones((4, 4, 4), np.uint16))
    assert "unit 1" in (caught.value.where or "") and "free some space" in (caught.value.remedy or "")
