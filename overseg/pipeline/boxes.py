"""Boxes of voxels that are read together: a chunk is decoded once for all the boxes that it touches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Int, Labels

if TYPE_CHECKING:
    from overseg.volume import Volume

Span = tuple[int, int]
Box = tuple[Span, Span, Span]
Index = tuple[int, ...]

HELD_BYTES = 64 << 20
"""Boxes that are held at a time; what does not fit is read when those before it were."""

_BITS = 21  # of an index, so that three fit into one number
_LEAST_VOXELS = 1 << 16  # to start a read takes as long as to decode so many


class Boxed(Protocol):
    """What has a box of voxels."""

    @property
    def voxels(self) -> int:
        """Size of the box."""
        ...


_Boxed = TypeVar("_Boxed", bound=Boxed)


def batched(wanted: Sequence[_Boxed], rows: int, voxels: int) -> Iterator[tuple[_Boxed, ...]]:
    """Batches in the order given, of so many rows and voxels at most; a larger box makes one by itself."""
    batch: list[_Boxed] = []
    held = 0
    for each in wanted:
        if batch and (len(batch) == rows or held + each.voxels > voxels):
            yield tuple(batch)
            batch, held = [], 0
        batch.append(each)
        held += each.voxels
    if batch:
        yield tuple(batch)


class Reader:
    """Reads boxes of one time point.

    Parameters
    ----------
    volume : Volume
        Only read.
    t : int
        Time point.
    boxes : iterable of ((z0, z1), (y0, y1), (x0, x1))
        What will be read, half open, in about this order. Other boxes may be read as well, one by one.

    Attributes
    ----------
    shape : tuple of int
        Of the volume, (z, y, x).
    """

    def __init__(self, volume: Volume, t: int, boxes: Iterable[Box] = ()) -> None:
        self._volume, self._t = volume, t
        self.shape = volume.shape
        self._tile = tile_of(volume)
        self._order = list(dict.fromkeys(boxes))
        self._place = {box: i for i, box in enumerate(self._order)}
        self._held: dict[Box, npt.NDArray[Any]] = {}

    def read(self, z: Span, y: Span, x: Span) -> Labels:
        """Labels of a half-open box, as uint64."""
        box = z, y, x
        if box not in self._held:
            self._held = {}
            self._held = self._together(self._following(box))
        return self._held[box].astype(np.uint64)

    def _following(self, box: Box) -> list[Box]:
        """The box and those expected after it, as many as may be held."""
        group, size = [box], _voxels(box)
        for following in self._order[self._place.get(box, len(self._order)) + 1 :]:
            size += _voxels(following)
            if size * self._volume.dtype.itemsize > HELD_BYTES:
                break
            group.append(following)
        return group

    def _together(self, boxes: list[Box]) -> dict[Box, npt.NDArray[Any]]:
        """Go through the chunks and copy of each what the boxes hold of it."""
        held = {box: np.empty([stop - start for start, stop in box], self._volume.dtype) for box in boxes}
        wanted = defaultdict(list)
        for box in boxes:
            for chunk in tiles(box, self._tile):
                wanted[chunk].append((box, _common(box, chunk, self._tile)))
        for chunk in sorted(wanted):
            parts = [part for _, part in wanted[chunk]]
            around = tuple(
                (min(s[0] for s in axis), max(s[1] for s in axis)) for axis in zip(*parts, strict=True)
            )
            z, y, x = (slice(*span) for span in around)
            data = self._volume.read((z, y, x), self._t)
            for box, part in wanted[chunk]:
                held[box][_inside(part, box)] = data[_inside(part, around)]
        return held


def tile_of(volume: Volume) -> Index:
    """What is read at once at most: a chunk (z, y, x) of level 0, or some side by side if it is small."""
    z, y, x = volume.levels[0].chunk_shape[-3:]
    while z * y * x < _LEAST_VOXELS:
        y, x = (2 * y, x) if y < x else (y, 2 * x)
    return z, y, x


def tiles(box: Box, tile: Index) -> Iterator[Index]:
    """Chunks that a box touches."""
    return product(*(range(s // n, -(-e // n)) for (s, e), n in zip(box, tile, strict=True)))


def along_a_curve(index: Int, bends: Sequence[int] = (0, 0, 0)) -> Int:
    """An order in which neighbours in space mostly stay neighbours (Morton's curve).

    Parameters
    ----------
    index : ndarray of int64, shape (n, 3)
        Of chunks, from 0 to 2**21 - 1.
    bends : sequence of int
        How many bits later the curve turns along each axis: by 3 along z, and 8 by 8 chunks of a layer of
        chunks come before any of the next layer.

    Returns
    -------
    ndarray of int64, shape (n,)
        Rows in order; of equal ones the first first.
    """
    key = np.zeros(len(index), np.int64)
    for axis in range(3):
        least = _BITS - int(index[:, axis].max(initial=0)).bit_length()
        for bit in range(_BITS - min(bends[axis], least)):
            key |= ((index[:, axis] >> bit) & 1) << (3 * (bit + min(bends[axis], least)) + 2 - axis)
    return np.argsort(key, kind="stable")


def _voxels(box: Sequence[Span]) -> int:
    return int(np.prod([stop - start for start, stop in box]))


def _common(box: Box, chunk: Index, tile: Index) -> Box:
    z, y, x = ((max(s, i * n), min(e, (i + 1) * n)) for (s, e), i, n in zip(box, chunk, tile, strict=True))
    return z, y, x


def _inside(part: Sequence[Span], box: Sequence[Span]) -> tuple[slice, ...]:
    return tuple(slice(s - start, e - start) for (s, e), (start, _) in zip(part, box, strict=True))
