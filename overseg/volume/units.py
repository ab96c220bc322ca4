"""Write units: the pieces that are written whole or not at all, their numbering and their digests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from overseg.errors import VolumeError

MAX_LABEL = 2**63


@dataclass(frozen=True)
class UnitGrid:
    """The grid of write units (shards where there are shards, else chunks) of one stored array.

    Attributes
    ----------
    array_shape, unit_shape : tuple of int
        Of the stored array, in stored axes.
    axes : tuple of str
        Stored axes; the last three are z, y, x.
    """

    array_shape: tuple[int, ...]
    unit_shape: tuple[int, ...]
    axes: tuple[str, ...] = ("z", "y", "x")

    @property
    def shape(self) -> tuple[int, ...]:
        """Units along each stored axis."""
        return tuple(-(-n // u) for n, u in zip(self.array_shape, self.unit_shape, strict=True))

    @property
    def n(self) -> int:
        """Number of units."""
        return math.prod(self.shape)

    def coords(self, unit: int) -> tuple[int, ...]:
        """Position of a unit in the grid (C order)."""
        if not 0 <= unit < self.n:
            raise IndexError(f"unit {unit} of {self.n}")
        place = []
        for size in reversed(self.shape):
            unit, at = divmod(unit, size)
            place.append(at)
        return tuple(reversed(place))

    def unit(self, coords: tuple[int, ...]) -> int:
        """Number of the unit at a position in the grid."""
        unit = 0
        for size, at in zip(self.shape, coords, strict=True):
            unit = unit * size + at
        return unit

    def slices(self, unit: int) -> tuple[slice, ...]:
        """Where a unit lies in the stored array, clipped at the array's end."""
        return tuple(
            slice(at * u, min(at * u + u, n))
            for at, u, n in zip(self.coords(unit), self.unit_shape, self.array_shape, strict=True)
        )

    def box(self, unit: int) -> tuple[slice, slice, slice]:
        """The (z, y, x) part of `slices`."""
        z, y, x = self.slices(unit)[-3:]
        return z, y, x

    def times(self, unit: int) -> range:
        """Time points that a unit holds; ``range(1)`` without a time axis."""
        if "t" not in self.axes:
            return range(1)
        span = self.slices(unit)[self.axes.index("t")]
        return range(span.start, span.stop)

    def extent(self, unit: int) -> tuple[int, ...]:
        """Shape of a unit, clipped at the array's end."""
        return tuple(span.stop - span.start for span in self.slices(unit))

    def over(self, box: tuple[slice, slice, slice], t: int = 0) -> list[int]:
        """Units that meet a (z, y, x) box at one time point, sorted."""
        spans = {"t": slice(t, t + 1), "c": slice(0, 1)}
        spans.update(zip("zyx", box, strict=True))
        ranges = [
            range(spans[axis].start // u, -(-spans[axis].stop // u))
            for axis, u in zip(self.axes, self.unit_shape, strict=True)
        ]
        units = [0]
        for size, places in zip(self.shape, ranges, strict=True):
            units = [unit * size + at for unit in units for at in places]
        return units


def overlap(
    where: tuple[slice, ...], place: tuple[slice, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The voxels that two boxes share, as slices of the one and of the other."""
    starts = [max(a.start, b.start) for a, b in zip(where, place, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(where, place, strict=True)]
    ends = list(zip(starts, stops, strict=True))
    return (
        tuple(slice(lo - a.start, hi - a.start) for (lo, hi), a in zip(ends, where, strict=True)),
        tuple(slice(lo - b.start, hi - b.start) for (lo, hi), b in zip(ends, place, strict=True)),
    )


def unit_digest(data: npt.NDArray[np.integer]) -> bytes:
    """XXH3-128 of decoded voxels, so that two units are told apart whatever their codec or layout on disk.

    Parameters
    ----------
    data : ndarray of integers
        Any memory order and byte order; hashed in C order, little endian, after dtype and shape.

    Returns
    -------
    bytes
        16 bytes.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.arange(6, dtype=np.uint16).reshape(2, 3)
    >>> unit_digest(a) == unit_digest(np.asfortranarray(a)) == unit_digest(a.astype(">u2"))
    True
    >>> unit_digest(a) == unit_digest(a.reshape(3, 2))
    False
    """
    little = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    # numpy says "<u2" but "|u1", on every machine
    head = f"{little.dtype.str}{data.shape}".encode()
    hasher = xxhash.xxh3_128(head)
    hasher.update(little.reshape(-1).view(np.uint8).data)
    return hasher.digest()


def check_dtype(dtype: np.dtype[Any], where: str) -> None:
    """Refuse voxels of a type that labels cannot have. Raises `VolumeError`."""
    if dtype.kind in "iu":
        return
    remedy = "save the labels as an integer array"
    if dtype.kind == "b":
        remedy = (
            "a mask has no cells in it: label its connected parts first (for example scipy.ndimage.label)"
        )
    if dtype.kind in "fc":
        remedy = "save it as an integer array if every value is a whole number; an image is no label volume"
    raise VolumeError(f"the voxels are {dtype.name}, labels are whole numbers", where=where, remedy=remedy)


def check_block(data: npt.NDArray[np.integer], where: str = "") -> None:
    """Refuse voxels that are no labels: negative ones, and those above 2^63.

    Parameters
    ----------
    data : ndarray of integers
        Any shape.
    where : str, optional
        Named in the error.

    Raises
    ------
    VolumeError
        If a voxel is negative or above 2^63.
    """
    if data.size == 0:
        return
    if data.dtype.kind == "i" and (lowest := int(data.min())) < 0:
        raise VolumeError(
            f"the volume holds negative labels, for example {lowest}",
            where=where or None,
            remedy="give those voxels a label above zero, or 0 if they are background, and save again",
        )
    if data.dtype.itemsize == 8 and (highest := int(data.max())) > MAX_LABEL:
        raise VolumeError(
            f"the volume holds a label above 2^63: {highest}",
            where=where or None,
            remedy="renumber the labels, for example with fastremap.renumber, and save again",
        )
