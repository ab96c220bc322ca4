"""Label volumes that are arrays in memory: checked, and put to rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from overseg.errors import VolumeError
from overseg.volume.create import create_labels, fill
from overseg.volume.level import Triple
from overseg.volume.units import check_block, check_dtype
from overseg.volume.volume import Volume

_WHERE = "array in memory"
_CHUNK = (32, 256, 256)


def check_array(array: npt.NDArray[Any]) -> None:
    """Refuse what is no label volume.

    Parameters
    ----------
    array : ndarray
        Should be (z, y, x), of an integer type, with labels from 0 to 2^63.

    Raises
    ------
    VolumeError
        If it is something else.
    """
    if array.ndim != 3 or 0 in array.shape:
        raise VolumeError(
            f"an array of shape {array.shape} is no label volume: it is (z, y, x), with at least one voxel",
            where=_WHERE,
            remedy="pass one 3D stack",
        )
    check_dtype(array.dtype, _WHERE)
    check_block(array, _WHERE)


def store_array(path: Path, array: npt.NDArray[Any], voxel_size: Triple | None) -> Volume:
    """Write an array as a new bare Zarr array. Raises what `create_labels` raises.

    Parameters
    ----------
    path : Path
        Nothing may be there yet.
    array : ndarray of int, shape (z, y, x)
    voxel_size : tuple of float, optional
        (z, y, x).

    Returns
    -------
    Volume
    """
    chunks = tuple(min(size, most) for size, most in zip(array.shape, _CHUNK, strict=True))
    volume = create_labels(path, array.shape, array.dtype, chunks, voxel_size=voxel_size)
    fill(volume, array.__getitem__)
    return volume
