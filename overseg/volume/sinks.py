"""Write converted labels: zarr, OME-Zarr, HDF5, npy, npz. TIFF is in `overseg.volume.tiff`."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from overseg.volume.create import create_labels, fill
from overseg.volume.formats import in_micrometers
from overseg.volume.level import Triple
from overseg.volume.source import SLAB_BYTES, Source

_CHUNK = (32, 256, 256)
_HDF5_CHUNK = (16, 128, 128)
_LEVELS = 8


def write_zarr(path: Path, source: Source, size: Triple | None, unit: str | None, *, ome: bool) -> None:
    """A bare v3 array, or an OME-Zarr 0.5 label group with its pyramid and all time points."""
    chunk = _chunk(source)
    lead, axes = ((), ()) if source.n_times == 1 else ((source.n_times,), ("t",))
    vol = create_labels(
        path,
        (*lead, *source.shape),
        source.dtype,
        (*(1 for _ in lead), *chunk),
        voxel_size=size,
        unit=unit,
        ome=ome,
        axes=(*axes, "z", "y", "x"),
        levels=_LEVELS,
    )
    for t in range(source.n_times):
        fill(vol, partial(source.read, t=t), t)


def _chunk(source: Source) -> tuple[int, int, int]:
    """Chunks of a few megabytes, fewer layers where whole layers are so large that a slab would not fit."""
    layer = source.shape[1] * source.shape[2] * source.dtype.itemsize
    depth = max(1, min(_CHUNK[0], 4 * SLAB_BYTES // max(1, layer)))
    z, y, x = (min(n, m) for n, m in zip(source.shape, (depth, *_CHUNK[1:]), strict=True))
    return z, y, x


def write_hdf5(path: Path, source: Source, size: Triple | None, unit: str | None, key: str | None) -> None:
    """One compressed dataset (``labels`` unless named), with ``element_size_um`` as PlantSeg reads it."""
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            key or "labels",
            source.shape,
            source.dtype,
            chunks=tuple(min(n, m) for n, m in zip(source.shape, _HDF5_CHUNK, strict=True)),
            compression="gzip",
            shuffle=True,
        )
        for span in source.slabs():
            data[span] = source.read_layers(span)
        if size is None:
            return
        data.attrs["voxel_size"] = size
        if unit:
            data.attrs["unit"] = unit
        in_um = in_micrometers(size, unit)
        if in_um:
            data.attrs["element_size_um"] = in_um


def write_npy(path: Path, source: Source) -> None:
    """A plain array; the format has no place for a voxel size."""
    with path.open("wb") as file:
        _write_array(file, source)


def _write_array(file: IO[bytes], source: Source) -> None:
    # written, not mapped: a full disk is then an error and not the end of the process
    header = {
        "descr": np.lib.format.dtype_to_descr(source.dtype),
        "fortran_order": False,
        "shape": source.shape,
    }
    np.lib.format.write_array_header_1_0(file, header)
    for span in source.slabs():
        file.write(np.ascontiguousarray(source.read_layers(span), source.dtype).data)


def write_npz(path: Path, source: Source, size: Triple | None, unit: str | None, key: str | None) -> None:
    """A compressed archive of ``labels`` and, where they are known, ``voxel_size`` and ``unit``."""
    facts: dict[str, Any] = {} if size is None else {"voxel_size": np.array(size)}
    if size is not None and unit:
        facts["unit"] = np.array(unit)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{key or 'labels'}.npy", "w", force_zip64=True) as file:
            _write_array(file, source)
        for name, value in facts.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, value, allow_pickle=False)
