"""Voxels on their way into a zarr array. Imports zarr: load it where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.cpu import Buffer as CpuBuffer
from zarr.core.buffer.cpu import NDBuffer

_PIECE = 1 << 16  # voxels: most chunks are seen in the first piece not to be empty


class LabelBuffer(NDBuffer):  # type: ignore[misc]
    """Voxels that are compared with the fill value piece by piece.

    Before a chunk is stored zarr compares all of it with a fill value that is spread to the chunk's shape,
    which takes three times as long as compressing it.
    """

    def all_equal(self, other: Any, equal_nan: bool = True) -> bool:
        """Whether every voxel has the value `other`; integers have no NaN."""
        return other is not None and is_uniform(self._data, other)


def is_uniform(data: npt.NDArray[np.integer[Any]], value: Any) -> bool:
    """Whether every voxel has one value.

    Parameters
    ----------
    data : ndarray of integers
        Any shape and memory order; quick where it is C-contiguous.
    value : int
    """
    flat = data.reshape(-1)
    return all(bool((flat[at : at + _PIECE] == value).all()) for at in range(0, flat.size, _PIECE))


def prototype() -> BufferPrototype:
    """What a write is to make its buffers of."""
    kind: type[Buffer] = CpuBuffer
    return BufferPrototype(buffer=kind, nd_buffer=LabelBuffer)
