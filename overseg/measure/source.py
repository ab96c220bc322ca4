"""Labels to measure on: an array in memory or a volume at rest, read alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import ResourceError

Box = tuple[slice, slice, slice]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Source:
    """Labels of one time point.

    Attributes
    ----------
    name : str
        For messages.
    shape : tuple of int
        (z, y, x).
    dtype : dtype
    voxel_size : tuple of float
        (z, y, x); ones where it is not known.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel_size: Triple
    _array: npt.NDArray[Any] | None
    _volume: Any

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The labels in a half-open box (z, y, x)."""
        if self._array is not None:
            return self._array[box]
        block: npt.NDArray[Any] = self._volume.read(box)
        return block

    def read_all(self, copies: float = 1.0) -> npt.NDArray[Any]:
        """The whole volume, if `copies` of it fit the memory that is free.

        Raises
        ------
        ResourceError
            If they do not.
        """
        from overseg.cluster.limits import available

        need = copies * self.dtype.itemsize * float(np.prod(self.shape))
        free = available().memory
        if need > free:
            raise ResourceError(
                f"the volume is worked on whole and needs about {need / 2**30:.1f} GiB; "
                f"{free / 2**30:.1f} GiB are free",
                where=self.name,
                remedy="give a crop of it, or a machine with more memory",
            )
        return self.read((slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2])))

    def boxes(self, z: slice | None = None) -> Iterator[Box]:
        """Half-open boxes that tile the volume, or its layers `z`, each inside one write unit."""
        z = z or slice(0, self.shape[0])
        if self._array is not None:
            step = max(1, 2**24 // (self.shape[1] * self.shape[2]))
            for start in range(z.start, z.stop, step):
                layers = slice(start, min(start + step, z.stop))
                yield layers, slice(0, self.shape[1]), slice(0, self.shape[2])
            return
        grid = self._volume.grid()
        for unit in range(grid.n):
            box = grid.box(unit)
            layers = slice(max(box[0].start, z.start), min(box[0].stop, z.stop))
            if layers.start < layers.stop and 0 in grid.times(unit):
                yield layers, box[1], box[2]


def open_source(source: Any, label: str | None = None, voxel_size: Triple | None = None) -> Source:
    """Look at labels in memory or at rest.

    Parameters
    ----------
    source : path, URL, zarr.Array, zarr.Group or ndarray of int, shape (z, y, x)
        The labels. Of a volume with several time points the first is taken.
    label : str, optional
        Which labels of an OME-Zarr image.
    voxel_size : tuple of float, optional
        (z, y, x); overrules the metadata.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        If these are no labels.
    """
    from overseg.volume import open_volume
    from overseg.volume.arrays import check_array

    if not isinstance(source, np.ndarray):
        volume = open_volume(source, label=label, voxel_size=voxel_size)
        return Source(volume.location, volume.shape, volume.dtype, volume.voxel_size, None, volume)
    check_array(source)
    z, y, x = source.shape
    return Source("the array", (z, y, x), source.dtype, voxel_size or (1.0, 1.0, 1.0), source, None)
