"""Labels survive every pair of formats, with their type and voxel size; what cannot be kept is refused."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from overseg.errors import InputError, MissingPackageError, StorageError, VolumeError
from overseg.volume import create_labels, open_volume, sinks
from overseg.volume import source as source_module
from overseg.volume.convert import convert
from overseg.volume.create import fill
from overseg.volume.formats import parse_name
from overseg.volume.sources import open_source

SUFFIXES = [".ome.zarr", ".zarr", ".tif", ".ome.tif", ".h5", ".npy", ".npz"]
SIZE = (0.3, 0.1083, 0.1083)
SHAPE = (7, 30, 41)


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of 16 bits at a time, so that slabs matter."""
    monkeypatch.setattr(source_module, "SLAB_BYTES", 2 * SHAPE[1] * SHAPE[2] * 2)


def voxels(dtype: str) -> np.ndarray:
    top = min(np.iinfo(dtype).max, 2**63)
    data = np.random.default_rng(6).integers(0, 100, SHAPE).astype(dtype)
    data[0, 0, 0] = top
    return data


def load(path: Path) -> tuple[np.ndarray, Any, str | None]:
    with open_source(str(path)) as source:
        return source.read_layers(slice(0, source.shape[0])).copy(), source.voxel_size, source.unit


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(tmp_path: Path, suffix: str, dtype: str) -> None:
    data = voxels(dtype)
    np.save(tmp_path / "in.npy", data)
    middle = tmp_path / f"middle{suffix}"
    if suffix == ".ome.tif" and dtype.endswith("64"):
        with pytest.raises(InputError, match=f"cannot hold {dtype}") as caught:
            convert(tmp_path / "in.npy", middle)
        assert ".tif" in (caught.value.remedy or "")
        assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]
        return
    facts = convert(tmp_path / "in.npy", middle, voxel_size=SIZE)
    json.dumps(facts)
    assert facts["shape"] == list(SHAPE) and facts["dtype"] == dtype and facts["output"] == str(middle)
    got, size, _ = load(middle)
    np.testing.assert_array_equal(got, data)
    assert got.dtype == data.dtype
    assert (size is None and not facts["voxel_size_kept"]) if suffix == ".npy" else size == SIZE
    convert(middle, tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), data)


@pytest.mark.parametrize("there", SUFFIXES)
@pytest.mark.parametrize("here", SUFFIXES)
def test_every_pair_keeps_voxels_size_and_unit(tmp_path: Path, here: str, there: str) -> None:
    data = voxels("uint16")
    vol = create_labels(tmp_path / "start.zarr", SHAPE, "u2", (3, 16, 16), voxel_size=SIZE, unit="micrometer")
    fill(vol, lambda box: data[box])
    a, b = tmp_path / f"a{here}", tmp_path / f"b{there}"
    convert(tmp_path / "start.zarr", a)
    convert(a, b)
    got, size, unit = load(b)
    np.testing.assert_array_equal(got, data)
    if ".npy" not in (here, there):
        assert size == SIZE and unit == "micrometer"


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".npy"])
def test_unknown_voxel_sizes_stay_unknown(tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "in.npy", voxels("uint16"))
    assert convert(tmp_path / "in.npy", tmp_path / f"b{suffix}")["voxel_size"] is None
    _, size, _ = load(tmp_path / f"b{suffix}")
    assert size == (None if suffix != ".ome.zarr" else (1, 1, 1))


def test_converted_zarr_is_a_volume(tmp_path: Path) -> None:
    data = np.random.default_rng(7).integers(0, 500, (5, 600, 300)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data)
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr", voxel_size=(2, 0.5, 0.5))
    vol = open_volume(tmp_path / "a.ome.zarr")
    assert vol.ome_version == "0.5" and [level.shape for level in vol.levels] == [
        (5, 600, 300),
        (5, 300, 150),
        (5, 150, 75),
    ]
    np.testing.assert_array_equal(vol.read(np.s_[0:5, 0:150, 0:75], level=2), data[:, ::4, ::4])
    convert(tmp_path / "a.tif", tmp_path / "b.zarr")
    assert open_volume(tmp_path / "b.zarr").zarr_format == 3


def test_time_points_need_ome_zarr(tmp_path: Path) -> None:
    data = np.random.default_rng(8).integers(0, 9, (3, *SHAPE)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "TZYX"})
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr")
    vol = open_volume(tmp_path / "a.ome.zarr")
    for t in range(3):
        np.testing.assert_array_equal(vol.read(np.s_[0:7, 0:30, 0:41], t), data[t])
    with pytest.raises(InputError, match="3 time points"):
        convert(tmp_path / "a.ome.zarr", tmp_path / "b.tif")


# ------------------------------------------------------------------------------------------- TIFFs of others


def test_imagej_stack(tmp_path: Path) -> None:
    data = voxels("uint16")
    tifffile.imwrite(
        tmp_path / "a.tif",
        data[:, None],
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "ZCYX", "spacing": 2.0, "unit": "micron"},
    )
    got, size, unit = load(tmp_path / "a.tif")
    np.testing.assert_array_equal(got, data)
    assert size == (2.0, 0.5, 0.25) and unit == "micrometer"
    tifffile.imwrite(tmp_path / "b.tif", data, imagej=True, metadata={"axes": "ZYX"})
    assert load(tmp_path / "b.tif")[1] is None


def test_what_we_write_opens_in_imagej_with_its_scale(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", voxels("uint16"))
    convert(tmp_path / "a.npy", tmp_path / "a.tif", voxel_size=SIZE)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_imagej and file.imagej_metadata["spacing"] == 0.3
        assert file.series[0].axes == "ZYX"


def test_a_compression_that_needs_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("uint16"), compression="zlib")

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(MissingPackageError, match="LZW") as caught:
        convert(tmp_path / "a.tif", tmp_path / "b.zarr")
    assert "pip install imagecodecs" in (caught.value.remedy or "")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_plain_and_ome_pages(tmp_path: Path, compression: str | None) -> None:
    data = voxels("int32")
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, metadata=None)
    np.testing.assert_array_equal(load(tmp_path / "a.tif")[0], data)
    tifffile.imwrite(tmp_path / "b.tif", data, compression=compression, byteorder=">", bigtiff=True)
    np.testing.assert_array_equal(load(tmp_path / "b.tif")[0], data)
    size = {f"PhysicalSize{axis}": number for axis, number in zip("ZYX", (900, 200, 100), strict=True)}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
    tifffile.imwrite(
        tmp_path / "c.ome.tif",
        data[:, None],
        compression=compression,
        metadata={"axes": "ZCYX", **size, **units},
    )
    got, found, unit = load(tmp_path / "c.ome.tif")
    np.testing.assert_array_equal(got, data)
    assert found == (900, 200, 100) and unit == "nanometer"


def test_one_page_is_one_layer(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("uint16")[0])
    assert load(tmp_path / "a.tif")[0].shape == (1, *SHAPE[1:])


def test_several_series_need_a_number(tmp_path: Path) -> None:
    data = voxels("uint16")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(data[:5], metadata={"axes": "ZYX"})
        writer.write(data, metadata={"axes": "ZYX"})
    with pytest.raises(VolumeError, match="2 images") as caught:
        load(tmp_path / "a.tif")
    assert f"{tmp_path}/a.tif:0" in (caught.value.remedy or "")
    np.testing.assert_array_equal(load(Path(f"{tmp_path}/a.tif:1"))[0], data)
    with pytest.raises(VolumeError, match="no image '2'"):
        load(Path(f"{tmp_path}/a.tif:2"))


@pytest.mark.parametrize(
    ("axes", "shape", "why"),
    [("TYX", (4, 8, 8), "time points"), ("ZCYX", (4, 2, 8, 8), "channels"), ("YXS", (8, 8, 3), "colour")],
)
def test_tiffs_that_are_no_stack(tmp_path: Path, axes: str, shape: tuple[int, ...], why: str) -> None:
    photometric = "rgb" if axes == "YXS" else "minisblack"
    tifffile.imwrite(
        tmp_path / "a.tif", np.ones(shape, "u1"), metadata={"axes": axes}, photometric=photometric
    )
    with pytest.raises(VolumeError, match=why):
        convert(tmp_path / "a.tif", tmp_path / "b.zarr")


# ------------------------------------------------------------------------------------------- HDF5, npz


def test_hdf5_of_plantseg_ilastik_and_cremi(tmp_path: Path) -> None:
    data = voxels("uint32")
    with h5py.File(tmp_path / "plantseg.h5", "w") as file:
        file.create_dataset("segmentation", data=data, compression="gzip").attrs["element_size_um"] = SIZE
        file["raw"] = data.astype(np.float32)
    got, size, unit = load(tmp_path / "plantseg.h5")
    np.testing.assert_array_equal(got, data)
    assert size == SIZE and unit == "micrometer"
    with h5py.File(tmp_path / "ilastik.h5", "w") as file:
        out = file.create_dataset("exported_data", data=data[..., None])
        out.attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "zyxc"]})
    np.testing.assert_array_equal(load(tmp_path / "ilastik.h5")[0], data)
    with h5py.File(tmp_path / "cremi.h5", "w") as file:
        file.create_dataset("volumes/labels/neuron_ids", data=data).attrs["resolution"] = (40.0, 4.0, 4.0)
    assert load(tmp_path / "cremi.h5")[1:] == ((40, 4, 4), "nanometer")


def test_hdf5_written_for_plantseg(tmp_path: Path) -> None:
    vol = create_labels(
        tmp_path / "a.zarr", SHAPE, "u2", SHAPE, voxel_size=(300, 108.3, 108.3), unit="nanometer"
    )
    fill(vol, lambda box: voxels("uint16")[box])
    convert(tmp_path / "a.zarr", f"{tmp_path}/a.h5:/seg/cells")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["seg/cells"][:], voxels("uint16"))
        np.testing.assert_allclose(file["seg/cells"].attrs["element_size_um"], SIZE, rtol=1e-12)


def test_hdf5_choices(tmp_path: Path) -> None:
    data = voxels("uint16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["one"], file["group/two"], file["flat"] = data, data + 1, data[0]
    with pytest.raises(VolumeError, match=r"several 3D integer arrays.*/group/two.*/one") as caught:
        load(tmp_path / "a.h5")
    assert f"{tmp_path}/a.h5:/group/two" in (caught.value.remedy or "")
    np.testing.assert_array_equal(load(Path(f"{tmp_path}/a.h5:/group/two"))[0], data + 1)
    with pytest.raises(VolumeError, match=r"no dataset 'three' in the file; there are .*one"):
        load(Path(f"{tmp_path}/a.h5:three"))
    with pytest.raises(VolumeError, match="has shape"):
        load(Path(f"{tmp_path}/a.h5:flat"))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        out = file.create_dataset("exported_data", data=data)
        out.attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "xyz"]})
    with pytest.raises(VolumeError, match="axes of the dataset are x, y, z"):
        load(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["note"] = 3
    with pytest.raises(VolumeError, match=r"no 3D integer arrays; there are .*note"):
        load(tmp_path / "c.h5")


def test_npz_choices(tmp_path: Path) -> None:
    data = voxels("uint16")
    np.savez_compressed(tmp_path / "a.npz", labels=data, raw=data.astype(float), spacing=np.array(SIZE))
    got, size, _ = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(got, data)
    assert size == SIZE
    np.savez(tmp_path / "b.npz", one=data, two=np.asfortranarray(data + 1), spacing=[np.nan] * 3)
    with pytest.raises(VolumeError, match=r"several 3D integer arrays.*one.*two"):
        load(tmp_path / "b.npz")
    got, size, _ = load(Path(f"{tmp_path}/b.npz:two"))
    np.testing.assert_array_equal(got, data + 1)
    assert size is None
    with pytest.raises(VolumeError, match="no array 'three'"):
        load(Path(f"{tmp_path}/b.npz:three"))


def test_npz_is_what_numpy_reads(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", voxels("uint64"))
    convert(tmp_path / "a.npy", tmp_path / "a.npz", voxel_size=SIZE)
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive["labels"], voxels("uint64"))
        np.testing.assert_array_equal(archive["voxel_size"], SIZE)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">u2", "<u4", "u1"])
def test_any_memory_and_byte_order(tmp_path: Path, order: Any, dtype: str) -> None:
    data = np.array(voxels("uint8"), dtype, order=order)
    np.save(tmp_path / "a.npy", data)
    np.savez(tmp_path / "b.npz", data)
    for name in ["a.npy", "b.npz"]:
        convert(tmp_path / name, tmp_path / f"{name}.zarr")
        vol = open_volume(tmp_path / f"{name}.zarr")
        np.testing.assert_array_equal(vol.read(np.s_[0:7, 0:30, 0:41]), data)
        assert vol.dtype == data.dtype.newbyteorder("=")


# ------------------------------------------------------------------------------------------- refusals


def save_as(path: Path, data: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".npz":
        np.savez(path, labels=data)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["labels"] = data
    elif path.suffix == ".zarr":
        zarr.create_array(path, shape=data.shape, dtype=data.dtype)[:] = data
    else:
        tifffile.imwrite(path, data, photometric="minisblack")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".zarr", ".tif"])
@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64"])
def test_voxels_that_are_no_labels(tmp_path: Path, suffix: str, dtype: str) -> None:
    source = save_as(tmp_path / f"a{suffix}", np.ones(SHAPE, dtype))
    with pytest.raises(VolumeError, match=r"labels are whole numbers|no 3D integer") as caught:
        convert(source, tmp_path / "out.zarr")
    assert caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".zarr", ".tif"])
def test_negative_labels_are_found_while_reading_and_leave_nothing(tmp_path: Path, suffix: str) -> None:
    data = voxels("int32")
    data[-1, -1, -1] = -2
    source = save_as(tmp_path / f"a{suffix}", data)
    for output in ["b.zarr", "b.h5", "b.tif", "b.npz", "b.npy"]:
        with pytest.raises(VolumeError, match="negative labels, for example -2"):
            convert(source, tmp_path / output)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".tif"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    source = save_as(tmp_path / f"a{suffix}", voxels("uint16"))
    whole = source.read_bytes()
    for content in [b"", b"rubbish" * 40, whole[: len(whole) // 2]]:
        source.write_bytes(content)
        with pytest.raises((VolumeError, StorageError)) as caught:
            convert(source, tmp_path / "out.zarr")
        assert str(source) in (caught.value.where or "") and caught.value.remedy
        assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    bomb = np.array([[[print]]], object)
    np.save(tmp_path / "a.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "b.npz", labels=bomb)
    for name in ["a.npy", "b.npz"]:
        with pytest.raises(VolumeError):
            convert(tmp_path / name, tmp_path / "out.zarr")


def test_names_that_cannot_be(tmp_path: Path) -> None:
    source = save_as(tmp_path / "a.npy", voxels("uint16"))
    with pytest.raises(InputError, match="suffix does not say"):
        convert(source, tmp_path / "out.png")
    with pytest.raises(InputError, match="local file"):
        convert(source, "s3://bucket/out.zarr")
    with pytest.raises(InputError, match="exists already"):
        convert(source, source)
    with pytest.raises(VolumeError, match="does not exist"):
        convert(tmp_path / "b.tif", tmp_path / "out.zarr")
    with pytest.raises(InputError, match="above zero"):
        convert(source, tmp_path / "out.zarr", voxel_size=(0, 1, 1))
    with pytest.raises(VolumeError, match="has 2 axes"):
        convert(save_as(tmp_path / "c.npy", np.ones((3, 3), int)), tmp_path / "out.zarr")
    with pytest.raises(InputError, match="empty"):
        convert(save_as(tmp_path / "d.npy", np.ones((3, 0, 3), int)), tmp_path / "out.zarr")
    assert parse_name("a.zarr").key is None and parse_name("C.TIFF").kind == "tiff"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_conversion_killed_half_way_leaves_no_output_and_runs_again(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_as(tmp_path / "a.npy", voxels("uint16"))
    read = source_module.Source.read

    def killed(self: Any, box: Any, t: int = 0) -> np.ndarray:
        if box[0].stop > 2:
            raise KeyboardInterrupt
        return read(self, box, t)

    monkeypatch.setattr(source_module.Source, "read", killed)
    monkeypatch.setattr(sinks, "_CHUNK", (2, 16, 16))
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / f"out{suffix}")
    assert not (tmp_path / f"out{suffix}").exists()
    monkeypatch.setattr(source_module.Source, "read", read)
    convert(source, tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(load(tmp_path / f"out{suffix}")[0], voxels("uint16"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", f"out{suffix}"]


def test_a_full_disk_is_reported_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_as(tmp_path / "a.npy", voxels("uint16"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(sinks, "_write_array", full)
    with pytest.raises(StorageError, match="No space left"):
        convert(source, tmp_path / "out.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_slab_is_all_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_as(tmp_path / "a.npy", voxels("uint16"))
    spans = []
    read = source_module.Source.read

    def watched(self: Any, box: Any, t: int = 0) -> np.ndarray:
        spans.append((box[0].start, box[0].stop))
        return read(self, box, t)

    monkeypatch.setattr(source_module.Source, "read", watched)
    for suffix in [".tif", ".h5", ".npz"]:
        convert(source, tmp_path / f"b{suffix}")
        assert spans == [(0, 2), (2, 4), (4, 6), (6, 7)]
        spans.clear()
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        assert archive.testzip() is None


def test_a_real_volume_goes_through_every_format(tmp_path: Path, real: Callable[..., np.ndarray]) -> None:
    labels = real("plant_ovule_crop/ovule_crop")
    np.savez_compressed(tmp_path / "start.npz", labels=labels, spacing=np.array((0.235, 0.15, 0.15)))
    last = "start.npz"
    for suffix in [".ome.zarr", ".h5", ".tif", ".zarr", ".ome.tif", ".npz"]:
        convert(tmp_path / last, tmp_path / f"a{suffix}")
        last = f"a{suffix}"
    got, size, _ = load(tmp_path / last)
    np.testing.assert_array_equal(got, labels)
    assert size == (0.235, 0.15, 0.15) and got.dtype == labels.dtype
