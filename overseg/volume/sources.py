"""Open labels for conversion, whatever they are stored in: TIFF, HDF5, npy, npz, zarr."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import VolumeError
from overseg.volume.formats import Name, parse_name, unit_name
from overseg.volume.level import Triple
from overseg.volume.open import open_volume
from overseg.volume.source import Layers, Source, reading, size_or_none
from overseg.volume.tiff import open_tiff
from overseg.volume.units import check_dtype
from overseg.volume.volume import Box

_SIZE_KEYS = ("voxel_size", "spacing")


def open_source(text: str, label: str | None = None) -> AbstractContextManager[Source]:
    """The labels behind a name, to be used in a ``with`` statement.

    Parameters
    ----------
    text : str
        ``stack.tif``, ``file.h5``, ``file.h5:/path``, ``array.npy``, ``arrays.npz:name``, ``volume.zarr`` or
        a URL of a zarr volume.
    label : str, optional
        Which labels of an OME-Zarr image.

    Raises
    ------
    VolumeError
        If there are no labels, or several and none is named.
    StorageError
        If the file cannot be read.
    """
    name = parse_name(text)
    openers = {
        "tiff": open_tiff,
        "ome-tiff": open_tiff,
        "hdf5": _open_hdf5,
        "npy": _open_npy,
        "npz": _open_npz,
    }
    if name.kind in openers and "://" not in text:
        if not os.path.exists(name.path):
            raise VolumeError(
                "the file does not exist", where=name.path, remedy="check the path for typing errors"
            )
        if os.path.isfile(name.path):
            return openers[name.kind](name)
    return _open_zarr(text, label)


@contextmanager
def _open_zarr(text: str, label: str | None) -> Iterator[Source]:
    vol = open_volume(text, label=label)
    known = vol.voxel_size_known
    yield Source(
        vol.location,
        vol.shape,
        vol.dtype,
        vol.read,
        vol.n_times,
        vol.voxel_size if known else None,
        vol.unit,
        vol.levels[0].unit_shape[-3],
    )


# ------------------------------------------------------------------------------------------- HDF5


@contextmanager
def _open_hdf5(name: Name) -> Iterator[Source]:
    import h5py

    with reading(name.text):
        file = h5py.File(name.path, "r")
    with file:
        with reading(name.text):
            data = _dataset(file, name)
            kept = _kept_axes(data, name.text)
            size, unit = _hdf5_size(data)
        check_dtype(data.dtype, f"{name.path}:{data.name}")
        shape = tuple(data.shape[axis] for axis in kept)

        def load(box: Box, t: int) -> npt.NDArray[np.integer]:
            where: list[Any] = [0] * data.ndim
            for axis, span in zip(kept, box, strict=True):
                where[axis] = span
            return np.asarray(data[tuple(where)])

        layers = data.chunks[kept[0]] if data.chunks else 1
        yield Source(
            f"{name.path}:{data.name}",
            (shape[0], shape[1], shape[2]),
            data.dtype.newbyteorder("="),
            load,
            voxel_size=size,
            unit=unit,
            layers=layers,
        )


def _dataset(file: Any, name: Name) -> Any:
    """The dataset that is named, or the only one that can hold labels."""
    import h5py

    found: list[Any] = []
    file.visititems(lambda _, node: found.append(node) if isinstance(node, h5py.Dataset) else None)
    listed = "; ".join(f"{name.path}:{data.name} {data.shape} {data.dtype}" for data in found[:20])
    if name.key is not None:
        data = file.get(name.key)
        if isinstance(data, h5py.Dataset):
            return data
        raise VolumeError(
            f"there is no dataset {name.key!r} in the file; there are {listed or 'none'}",
            where=name.path,
            remedy="check the part after the colon",
        )
    fit = [data for data in found if data.dtype.kind in "iu" and sum(n != 1 for n in data.shape) == 3]
    return _only(fit or [data for data in found if data.ndim == 3], listed, name, lambda data: str(data.name))


def _only(fit: list[Any], listed: str, name: Name, key: Any) -> Any:
    if len(fit) == 1:
        return fit[0]
    example = key(fit[0]) if fit else "name"
    raise VolumeError(
        f"the file holds {'several' if fit else 'no'} 3D integer arrays; there are {listed or 'none'}",
        where=name.path,
        remedy=f"name the one with the labels after a colon, for example {name.path}:{example}",
    )


def _kept_axes(data: Any, where: str) -> tuple[int, int, int]:
    """The stored axes that are z, y, x; others must have length one."""
    axes = _axis_names(data)
    if axes is not None:
        kept = [i for i, axis in enumerate(axes) if axis in "zyx"]
        if "".join(axes[i] for i in kept) != "zyx":
            raise VolumeError(
                f"the axes of the dataset are {', '.join(axes)}, overseg needs z, y, x",
                where=where,
                remedy="save it transposed to z, y, x",
            )
    else:
        kept = [i for i, n in enumerate(data.shape) if n != 1] if data.ndim > 3 else list(range(data.ndim))
    if len(kept) != 3 or any(n != 1 for i, n in enumerate(data.shape) if i not in kept):
        raise VolumeError(
            f"the dataset has shape {data.shape}, a label volume has three axes (z, y, x)",
            where=where,
            remedy="save one 3D dataset (z, y, x)",
        )
    return kept[0], kept[1], kept[2]


def _axis_names(data: Any) -> list[str] | None:
    """Axes as ilastik stores them."""
    tags = data.attrs.get("axistags")
    if tags is None:
        return None
    axes = [str(axis["key"]) for axis in json.loads(tags)["axes"]]
    return axes if len(axes) == data.ndim else None


def _hdf5_size(data: Any) -> tuple[Triple | None, str | None]:
    """Voxel size of a dataset, or of its file, as overseg, PlantSeg and CREMI write it."""
    for holder in (data.attrs, data.file.attrs):
        unit = holder.get("unit")
        for key, named in (("voxel_size", unit), ("element_size_um", "um"), ("resolution", "nm")):
            size = size_or_none(holder.get(key))
            if size is not None:
                return size, unit_name(named)
    return None, None


# ------------------------------------------------------------------------------------------- NumPy


@contextmanager
def _open_npy(name: Name) -> Iterator[Source]:
    def load(box: Box, t: int) -> npt.NDArray[np.integer]:
        # mapped anew each time: pages of a map that stays open count as memory of the process
        return np.array(np.load(name.path, mmap_mode="r", allow_pickle=False)[box])

    with reading(name.text):
        mapped = np.load(name.path, mmap_mode="r", allow_pickle=False)
        shape, dtype = mapped.shape, mapped.dtype
        del mapped
    _check_array(dtype, shape, name.text)
    yield Source(name.text, (shape[0], shape[1], shape[2]), dtype.newbyteorder("="), load)


@contextmanager
def _open_npz(name: Name) -> Iterator[Source]:
    with reading(name.text), zipfile.ZipFile(name.path) as archive:
        facts = {
            member[:-4]: _header(archive, member) for member in archive.namelist() if member[-4:] == ".npy"
        }
        size = next(filter(None, (_npz_size(archive, key) for key in _SIZE_KEYS if key in facts)), None)
        unit = _npz_text(archive, "unit") if "unit" in facts else None
    listed = "; ".join(f"{name.path}:{key} {shape} {dtype}" for key, (shape, _, dtype) in facts.items())
    if name.key is not None and name.key not in facts:
        raise VolumeError(
            f"there is no array {name.key!r} in the file; there are {listed or 'none'}",
            where=name.path,
            remedy="check the part after the colon",
        )
    fit = [key for key, (shape, _, dtype) in facts.items() if len(shape) == 3 and dtype.kind in "iu"]
    fit = fit or [key for key, (shape, _, _) in facts.items() if len(shape) == 3]
    key = name.key if name.key is not None else _only(fit, listed, name, str)
    shape, fortran, dtype = facts[key]
    _check_array(dtype, shape, f"{name.path}:{key}")
    stream = _NpzStream(name.path, f"{key}.npy", shape, dtype, fortran)
    try:
        yield Source(
            f"{name.path}:{key}",
            (shape[0], shape[1], shape[2]),
            dtype.newbyteorder("="),
            Layers(stream.load),
            1,
            size,
            unit_name(unit),
        )
    finally:
        stream.close()


class _NpzStream:
    """Layers of one array in an npz archive, decompressed once as long as they are asked for in order."""

    def __init__(
        self, path: str, member: str, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool
    ) -> None:
        self._path, self._member, self._shape, self._dtype = path, member, shape, dtype
        self._fortran = fortran
        self._whole: npt.NDArray[np.integer] | None = None
        self._file: IO[bytes] | None = None
        self._next = 0

    def load(self, first: int, last: int, t: int) -> npt.NDArray[np.integer]:
        if self._fortran:
            return self._transposed()[first:last]
        if first < self._next:
            self.close()
        file = self._file or self._rewind()
        layer = self._shape[1] * self._shape[2] * self._dtype.itemsize
        while self._next < first:
            _exactly(file, layer)
            self._next += 1
        data = _exactly(file, layer * (last - first))
        self._next = last
        return np.frombuffer(data, self._dtype).reshape(last - first, *self._shape[1:])

    def _transposed(self) -> npt.NDArray[np.integer]:
        """An array in Fortran order has its layers spread over the whole file."""
        if self._whole is None:
            with np.load(self._path, allow_pickle=False) as archive:
                self._whole = archive[self._member[:-4]]
        return self._whole

    def _rewind(self) -> IO[bytes]:
        with zipfile.ZipFile(self._path) as archive:
            self._file = archive.open(self._member)  # keeps the archive's file open
        _read_header(self._file)
        self._next = 0
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _exactly(file: IO[bytes], n: int) -> bytearray:
    data = bytearray(n)
    view, at = memoryview(data), 0
    while at < n:
        part = file.read(min(n - at, 2**24))
        if not part:
            raise ValueError(f"the array ends {n - at} bytes early")
        view[at : at + len(part)] = part
        at += len(part)
    return data


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with archive.open(member) as file:
        return _read_header(file)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy version {version} holds no plain integers")
    shape, fortran, dtype = readers[version](file)
    return tuple(shape), bool(fortran), np.dtype(dtype)


def _npz_size(archive: zipfile.ZipFile, key: str) -> Triple | None:
    with archive.open(f"{key}.npy") as file:
        return size_or_none(np.lib.format.read_array(file, allow_pickle=False).ravel())


def _npz_text(archive: zipfile.ZipFile, key: str) -> str:
    with archive.open(f"{key}.npy") as file:
        return str(np.lib.format.read_array(file, allow_pickle=False))


def _check_array(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> None:
    check_dtype(dtype, where)
    if len(shape) != 3:
        raise VolumeError(
            f"the array has {len(shape)} axes {shape}, a label volume has three (z, y, x)",
            where=where,
            remedy="save one 3D array",
        )
