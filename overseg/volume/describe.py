"""What a volume is, from its metadata alone: nothing is decoded."""

from __future__ import annotations

import math
from typing import Any

from overseg.volume.level import Level
from overseg.volume.volume import Volume


def describe(volume: Volume) -> dict[str, Any]:
    """Facts of a volume as plain JSON values.

    Parameters
    ----------
    volume : Volume
        As `open_volume` gives it.

    Returns
    -------
    dict
        ``location``, ``name``, ``zarr_format``, ``ome_version``, ``axes``, ``shape`` (z, y, x), ``n_times``,
        ``dtype``, ``voxel_size`` (z, y, x), ``voxel_size_known``, ``unit``, ``voxels`` and ``bytes``
        (level 0, decoded), ``units`` (write units of level 0), ``unit_bytes`` (one of them, decoded) and
        ``levels``, each with path, stored shape, chunk, shard (``None`` without shards), codecs and scale.
    """
    first = volume.levels[0]
    voxels = math.prod(first.shape)
    return {
        "location": volume.location,
        "name": volume.name,
        "zarr_format": volume.zarr_format,
        "ome_version": volume.ome_version,
        "axes": list(volume.axes),
        "shape": list(volume.shape),
        "n_times": volume.n_times,
        "dtype": first.dtype.name,
        "voxel_size": list(volume.voxel_size),
        "voxel_size_known": volume.voxel_size_known,
        "unit": volume.unit,
        "voxels": voxels,
        "bytes": voxels * first.dtype.itemsize,
        "units": volume.grid().n,
        "unit_bytes": math.prod(first.unit_shape) * first.dtype.itemsize,
        "levels": [_level(volume, number, level) for number, level in enumerate(volume.levels)],
    }


def _level(volume: Volume, number: int, level: Level) -> dict[str, Any]:
    return {
        "path": level.path,
        "shape": list(level.shape),
        "dtype": level.dtype.name,
        "chunk": list(level.chunk_shape),
        "shard": list(level.unit_shape) if level.sharded else None,
        "codecs": volume.codecs(number),
        "scale": list(level.scale),
        "translation": list(level.translation),
    }
