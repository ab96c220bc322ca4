"""Pairs of touching labels, looked at across their contact; a unit of work is a batch of them.

For each the box that its re-sliced grid sees is read, as known from the tables, so that no answer depends on
where a chunk border lies.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from overseg.kernels import resample
from overseg.kernels.resample import plane_axes, reslice
from overseg.model.across import ACROSS, across_features, published_across, unseen
from overseg.model.features import PAPER
from overseg.pipeline.boxes import HELD_BYTES, Reader, batched, tile_of
from overseg.pipeline.distances import Read
from overseg.pipeline.durable import write_atomically

if TYPE_CHECKING:
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Box = tuple[int, int, int, int, int, int]
Place = tuple[float, float, float]
Kind = Literal["tilted", "paper"]
Run = tuple[int, int, int, int, int]

MARGIN = 2
"""Voxels around what the grid sees, so that the borders of labels there are seen as well."""

_GOES_ON: resample.Faces = ((True, True),) * 3
_BATCH_ROWS = 64
_BATCH_VOXELS = 1 << 24


@dataclass(frozen=True)
class Across:
    """Two touching sides and where to look at them.

    Attributes
    ----------
    a, b : tuple of int
        Labels that make up each side: one, or a group merged before.
    box : tuple of int
        ``(z0, z1, y0, y1, x0, x1)``, half open; see `across_box`.
    point : tuple of float
        On the contact's plane, (z, y, x) in physical units; the centre of voxel v lies at v * voxel_size.
    normal : tuple of float
        Of the plane, (z, y, x), physical, from A to B.
    depth, radius : float
        How far to go along the normal and within the plane, to either side, in physical units. The published
        features take all there is in the box.
    fills : tuple of tuple of int
        Runs ``(z, y, x0, x1, side)`` in voxels, half open in x, that belong to A (0) or B (1) after gaps were
        filled.
    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    box: Box
    point: Place
    normal: Place
    depth: float
    radius: float
    fills: tuple[Run, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the box."""
        z0, z1, y0, y1, x0, x1 = self.box
        return z1 - z0, y1 - y0, x1 - x0

    @property
    def voxels(self) -> int:
        """Size of the box."""
        return prod(self.shape)


def across_box(
    box_a: Sequence[int],
    box_b: Sequence[int],
    point: Place,
    normal: Place,
    depth: float,
    radius: float,
    voxel_size: Place,
    shape: tuple[int, int, int],
) -> Box:
    """The part of both sides' boxes that the re-sliced grid can see, with a margin, inside the volume.

    Parameters
    ----------
    box_a, box_b : sequence of int
        ``(z0, z1, y0, y1, x0, x1)``, half open.
    point, normal, depth, radius
        As of `Across`.
    voxel_size : tuple of float
        (z, y, x), in physical units.
    shape : tuple of int
        Of the volume, (z, y, x).

    Returns
    -------
    tuple of int
        Half open. Never empty: of a grid that sees neither box, the voxels nearest to it.
    """
    reach = np.array([ceil(each / min(voxel_size)) * min(voxel_size) for each in (depth, radius, radius)])
    extent = np.abs(plane_axes(normal)).T @ reach
    found: list[int] = []
    for axis, size in enumerate(voxel_size):
        low = min(box_a[2 * axis], box_b[2 * axis])
        high = max(box_a[2 * axis + 1], box_b[2 * axis + 1])
        # What a grid's point reads are the voxels on both sides of it.
        first = int(np.floor((point[axis] - extent[axis]) / size))
        last = int(np.ceil((point[axis] + extent[axis]) / size)) + 1
        start = min(max(low, first), high - 1)
        stop = max(min(high, last), start + 1)
        found += [max(start - MARGIN, 0), min(stop + MARGIN, shape[axis])]
    z0, z1, y0, y1, x0, x1 = found
    return z0, z1, y0, y1, x0, x1


def batches(wanted: Sequence[Across]) -> Iterator[tuple[Across, ...]]:
    """Batches of a sensible size for `across_task`, in the order given."""
    return batched(wanted, _BATCH_ROWS, _BATCH_VOXELS)


def peak_bytes(volume: Volume, batch: Sequence[Across], kind: Kind = "tilted") -> int:
    """Memory that a task of these needs for its voxels and sections, at most."""
    size = volume.dtype.itemsize
    largest, together = max(look.voxels for look in batch), sum(look.voxels for look in batch)
    held = min(size * together, max(HELD_BYTES, size * largest))
    grids = max(_sections_bytes(look, kind, volume.voxel_size) for look in batch)
    # A box is widened to 64 bits, compared with one label after another, and told apart in a byte.
    return held + 3 * size * prod(tile_of(volume)) + 11 * largest + grids


def _sections_bytes(look: Across, kind: Kind, voxel_size: Place) -> int:
    view = _view(look, kind, voxel_size)
    spacing = min(view.voxel_size)
    layers, rows, columns = resample.grid_shape(view.depth, view.radius, spacing)
    # Sums of a layer are taken one by one; a section's points are listed, thinned and sorted.
    extra = layers * rows * columns + 256 * rows * columns
    return resample.peak_bytes(look.shape, view.depth, view.radius, spacing) + extra


def across_task(volume: Volume, batch: Sequence[Across], kind: Kind, path: str, t: int = 0) -> dict[str, Any]:
    """Read the boxes of a batch and write its features; a unit of work that may be run again.

    Parameters
    ----------
    volume : Volume
        Only read.
    batch : sequence of Across
    kind : {"tilted", "paper"}
        See `measured_across`.
    path : str
        ``.npy`` file of float64 to write, whole or not at all: those of `measured_across`.
    t : int
        Time point.

    Returns
    -------
    dict
        ``path``.
    """
    reader = Reader(volume, t, [(each.box[:2], each.box[2:4], each.box[4:]) for each in batch])

    def read(box: tuple[slice, slice, slice]) -> npt.NDArray[np.uint64]:
        z, y, x = ((part.start, part.stop) for part in box)
        return reader.read(z, y, x)

    file = io.BytesIO()
    np.save(file, measured_across(read, batch, kind, volume.voxel_size), allow_pickle=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), file.getvalue())
    return {"path": path}


def measured_across(read: Read, batch: Sequence[Across], kind: Kind, voxel_size: Place) -> Float:
    """Features of some contacts, each worked on by itself.

    Parameters
    ----------
    read : callable
        Gives the labels in a half-open box of slices (z, y, x).
    batch : sequence of Across
        Exchanging A and B (and turning the normal round) does not change a bit.
    kind : {"tilted", "paper"}
        Ours, or the published twelve, which are in voxels whatever these measure.
    voxel_size : tuple of float
        (z, y, x), in physical units.

    Returns
    -------
    ndarray of float64, shape (n, F)
        Columns `overseg.model.across.ACROSS` or `overseg.model.features.PAPER`. A row of the latter is NaN if
        one side has no section at all.

    Raises
    ------
    ResourceError
        If a transport problem of the published features is too large to be solved.
    """
    width = len(PAPER) if kind == "paper" else len(ACROSS)
    rows = [_row(read, look, kind, voxel_size) for look in batch]
    return np.array(rows, np.float64).reshape(len(batch), width)


def _row(read: Read, look: Across, kind: Kind, voxel_size: Place) -> Float:
    turned = min(look.a) > min(look.b)
    sides = _sides(read, look)
    if turned:  # the side with the least label is the first, as for gaps
        sides = np.array([0, 2, 1], np.uint8)[sides]
    if not (sides == 1).any() or not (sides == 2).any():
        return np.full(len(PAPER), np.nan) if kind == "paper" else unseen()
    view = _view(look, kind, voxel_size)
    normal = -view.normal if turned else view.normal
    found = reslice(sides, 1, 2, view.voxel_size, view.point, normal, view.depth, view.radius, _GOES_ON)
    return published_across(found) if kind == "paper" else across_features(found)


def _sides(read: Read, look: Across) -> npt.NDArray[np.uint8]:
    """The box with 1 for A, 2 for B, and 0 for all else."""
    z0, z1, y0, y1, x0, x1 = look.box
    block = read((slice(z0, z1), slice(y0, y1), slice(x0, x1)))
    sides = np.zeros(block.shape, np.uint8)
    for side, labels in enumerate((look.a, look.b), 1):
        for label in labels:
            sides[block == label] = side
    for z, y, start, stop, side in look.fills:
        if z0 <= z < z1 and y0 <= y < y1:
            sides[z - z0, y - y0, max(start - x0, 0) : max(stop - x0, 0)] = side + 1
    return sides


@dataclass(frozen=True)
class _View:
    """Where and how far a box is re-sliced; `point` from the centre of its first voxel."""

    voxel_size: Place
    point: Float
    normal: Float
    depth: float
    radius: float


def _view(look: Across, kind: Kind, voxel_size: Place) -> _View:
    size, corner = np.array(voxel_size), np.array(look.box[::2])
    point, normal = np.array(look.point), np.array(look.normal)
    if kind == "tilted":
        return _View(voxel_size, point - corner * size, normal, look.depth, look.radius)
    # In voxels a plane has the normal n * size: n . (v * size) = (n * size) . v.
    point, axes = point / size - corner, plane_axes(normal * size)
    corners = np.array(list(itertools.product(*((0, n - 1) for n in look.shape))))
    far = np.abs((corners - point) @ axes.T).max(axis=0)
    return _View((1.0, 1.0, 1.0), point, axes[0], float(far[0]), float(far[1:].max()))
