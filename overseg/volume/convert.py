"""Labels from one file format to another, without ever holding the whole volume."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from overseg.errors import InputError, OversegError
from overseg.volume.faults import storage_error
from overseg.volume.files import TEMPORARY
from overseg.volume.formats import Kind, Name, parse_output
from overseg.volume.level import Triple
from overseg.volume.open import check_voxel_size
from overseg.volume.sinks import write_hdf5, write_npy, write_npz, write_zarr
from overseg.volume.source import Source
from overseg.volume.sources import open_source
from overseg.volume.tiff import write_tiff


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    voxel_size: tuple[float, float, float] | None = None,
    label: str | None = None,
) -> dict[str, Any]:
    """Convert labels between TIFF, HDF5, npy, npz, zarr and OME-Zarr; suffixes say which.

    Works through slabs of layers (npz archives in Fortran order and TIFF planes without pages excepted). The
    integer type stays as it is. The output appears under its name when it is complete; a conversion that was
    killed can be run again.

    Parameters
    ----------
    source : str or Path
        ``.tif``, ``.h5``, ``.npy``, ``.npz``, ``.zarr`` or a zarr URL. A colon names what is meant inside the
        file: ``file.h5:/path``, ``file.npz:name``, ``file.tif:0``.
    destination : str or Path
        ``.ome.zarr`` (0.5, with pyramid), ``.zarr`` (a v3 array), ``.tif``, ``.ome.tif``, ``.h5``, ``.npy``
        or ``.npz``; nothing may be there.
    voxel_size : tuple of float, optional
        (z, y, x); overrules what the source says.
    label : str, optional
        Which labels of an OME-Zarr image.

    Returns
    -------
    dict
        ``source``, ``output``, ``format``, ``shape`` (z, y, x), ``n_times``, ``dtype``, ``voxel_size``
        (``None`` if unknown), ``voxel_size_kept``, ``unit`` and ``bytes`` (decoded).

    Raises
    ------
    VolumeError
        If the source holds no labels, several and none is named, or is damaged.
    InputError
        If the output exists, its suffix says nothing, or its format cannot hold these labels.
    StorageError
        If the disk is full or refuses.
    """
    name, kind = parse_output(os.fspath(destination))
    if "://" in name.path:
        raise InputError(
            "the output of a conversion is a local file",
            where=name.path,
            remedy="convert to a local file and copy that to the bucket",
        )
    path = Path(name.path).expanduser().absolute()
    _check_free(path)
    with open_source(os.fspath(source), label) as labels:
        size = labels.voxel_size if voxel_size is None else check_voxel_size(voxel_size)
        if 0 in labels.shape:
            raise InputError(
                f"the volume is empty: its shape is {labels.shape}",
                where=labels.text,
                remedy="give a volume with at least one voxel",
            )
        if labels.n_times > 1 and kind != "ome-zarr":
            raise InputError(
                f"the volume has {labels.n_times} time points, which {kind} files from overseg do not hold",
                where=labels.text,
                remedy="write .ome.zarr",
            )
        _write(path, name, kind, labels, size)
        return {
            "source": labels.text,
            "output": str(path),
            "format": kind,
            "shape": list(labels.shape),
            "n_times": labels.n_times,
            "dtype": labels.dtype.name,
            "voxel_size": None if size is None else list(size),
            "voxel_size_kept": size is None or kind != "npy",
            "unit": labels.unit,
            "bytes": int(np.prod(labels.shape, dtype=np.int64)) * labels.n_times * labels.dtype.itemsize,
        }


def _write(path: Path, name: Name, kind: Kind, labels: Source, size: Triple | None) -> None:
    """Write under a hidden name beside the output, and give it its name when it is complete."""
    hidden = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(hidden)  # left by a conversion that was killed
        if kind in ("zarr", "ome-zarr"):
            write_zarr(hidden, labels, size, labels.unit, ome=kind == "ome-zarr")
        elif kind in ("tiff", "ome-tiff"):
            write_tiff(hidden, labels, size, labels.unit, ome=kind == "ome-tiff")
        elif kind == "hdf5":
            write_hdf5(hidden, labels, size, labels.unit, name.key)
        elif kind == "npy":
            write_npy(hidden, labels)
        else:
            write_npz(hidden, labels, size, labels.unit, name.key)
        _check_free(path)
        os.rename(hidden, path)
    except OversegError:
        _remove(hidden)
        raise
    except (OSError, RuntimeError) as error:  # h5py says either
        _remove(hidden)
        raise storage_error("cannot write the output", str(path), error) from None


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(
            "the output exists already",
            where=str(path),
            remedy="choose another name, or remove it first",
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
