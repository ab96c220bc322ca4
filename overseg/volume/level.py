"""One stored array of a volume's pyramid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Level:
    """One stored array of the pyramid.

    Attributes
    ----------
    path : str
        Below the volume's group; empty for a bare array.
    shape, unit_shape, chunk_shape : tuple of int
        Of the stored array, in stored axes. The unit is the shard where there are shards, else the chunk.
    dtype : dtype
        In the machine's byte order.
    scale, translation : tuple of float
        (z, y, x): the centre of voxel i lies at ``translation + i * scale``.
    """

    path: str
    shape: tuple[int, ...]
    unit_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: np.dtype[np.integer]
    scale: Triple = (1.0, 1.0, 1.0)
    translation: Triple = (0.0, 0.0, 0.0)

    @property
    def sharded(self) -> bool:
        """Several chunks share one stored object."""
        return self.unit_shape != self.chunk_shape
