"""Cells and contacts in physical units, from the integers of `overseg.kernels.solids`.

Second moments become floats only after n·Σxx − (Σx)² was formed in integers, so that neither the cut of the
volume nor the place of its origin changes a bit of a covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.kernels.solids import Solids, Touches
from overseg.kernels.tables import Int, Labels

Float = npt.NDArray[np.float64]
Triple = tuple[float, float, float]

#: Pairs of axes of the second moments, in the order of `Solids.sums`.
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_SAFE = 2.0**62


@dataclass(frozen=True)
class Neighbours:
    """Cells with everything that touches them.

    Attributes
    ----------
    solids : Solids
        m labels, sorted: cells, and the neighbours of cells.
    start : ndarray of int64, shape (m + 1,)
        Contacts of label i are ``start[i]:start[i + 1]``; there are none for one that is only a neighbour.
    touches : Touches
        k contacts, sorted by (a, b), seen from a: each appears once from either side, and its area vector
        points from a to b. All labels are among the solids.
    """

    solids: Solids
    start: Int
    touches: Touches

    @classmethod
    def of(cls, solids: Solids, touches: Touches) -> Neighbours:
        """All labels with all contacts, of a whole array: each contact once, as `touch_array` gives them."""
        both = mirrored(touches)
        return cls(solids, np.searchsorted(both.a, np.append(solids.label, np.uint64(2**64 - 1))), both)


def mirrored(touches: Touches) -> Touches:
    """Each contact seen from both of its labels, sorted by (a, b)."""
    a, b = np.concatenate([touches.a, touches.b]), np.concatenate([touches.b, touches.a])
    order = np.lexsort((b, a))
    twice = np.concatenate([np.arange(len(touches))] * 2)[order]
    signed = np.concatenate([touches.signed, -touches.signed])[order]
    return Touches(a[order], b[order], touches.faces[twice], signed, touches.sums[twice])


@dataclass(frozen=True)
class Bodies:
    """Cells as solid bodies.

    Attributes
    ----------
    n, volume : ndarray of float64, shape (m,)
        Voxels, and their volume.
    mean : ndarray of float64, shape (m, 3)
        Centroid, in physical units; voxel v has its centre at v times its size.
    cov : ndarray of float64, shape (m, 3, 3)
        Covariance of the points of the body, a voxel's own extent included.
    surface, bare : ndarray of float64, shape (m,)
        Area of all voxel faces towards anything else, and of those towards background.
    """

    n: Float
    volume: Float
    mean: Float
    cov: Float
    surface: Float
    bare: Float


@dataclass(frozen=True)
class Patches:
    """Contacts as surfaces.

    Attributes
    ----------
    faces, area : ndarray of float64, shape (k,)
        Voxel faces, and their area.
    vector : ndarray of float64, shape (k, 3)
        Area vector from the first label to the second: its length is the area of the contact without its
        steps and ruggedness, its direction the mean normal.
    mean : ndarray of float64, shape (k, 3)
        Centroid of the faces, weighted with their area.
    cov : ndarray of float64, shape (k, 3, 3)
        Covariance of the faces' centres, weighted with their area.
    """

    faces: Float
    area: Float
    vector: Float
    mean: Float
    cov: Float


def bodies(solids: Solids, voxel_size: Triple) -> Bodies:
    """Cells in physical units.

    Parameters
    ----------
    solids : Solids
        Labels that are not `TOO_LARGE`; of others the moments mean nothing.
    voxel_size : tuple of float
        (z, y, x).

    Returns
    -------
    Bodies
    """
    size = np.array(voxel_size, np.float64)
    corner = solids.box[:, ::2]
    mean, cov = _moments(solids.n, _about(solids.sums, solids.n, corner))
    return Bodies(
        solids.n.astype(np.float64),
        np.asarray(solids.n * float(size.prod()), np.float64),
        np.asarray((corner + mean) * size, np.float64),
        (cov + np.eye(3) / 12.0) * (size[:, None] * size),
        areas_of(solids.faces, voxel_size),
        areas_of(solids.bare, voxel_size),
    )


def patches(touches: Touches, corner: Int, voxel_size: Triple) -> Patches:
    """Contacts in physical units.

    Parameters
    ----------
    touches : Touches
    corner : ndarray of int64, shape (k, 3)
        A voxel near each contact: the corner of one label's box.
    voxel_size : tuple of float
        (z, y, x).

    Returns
    -------
    Patches
    """
    size = np.array(voxel_size, np.float64)
    side = _face_areas(size)
    area = areas_of(touches.faces, voxel_size)
    # About its own middle, so that a flat contact is flat to the last bit.
    middle = 2 * corner + np.rint(_weighted(touches, 2 * corner, side)[:, :3] / area[:, None]).astype(
        np.int64
    )
    sums = _weighted(touches, middle, side)
    mean, second = sums[:, :3] / area[:, None], sums[:, 3:]
    cov = np.empty((len(touches), 3, 3))
    for k, (i, j) in enumerate(_PAIRS):
        cov[:, i, j] = cov[:, j, i] = second[:, k] / area - mean[:, i] * mean[:, j]
    # Faces were in doubled coordinates.
    return Patches(
        touches.faces.sum(axis=1).astype(np.float64),
        area,
        touches.signed * side,
        0.5 * (middle + mean) * size,
        0.25 * cov * (size[:, None] * size),
    )


def corners_of(solids: Solids, labels: Labels) -> Int:
    """The corner (z, y, x) of each label's box; all must be there."""
    return solids.box[solids.index(labels)][:, ::2]


def areas_of(faces: Int, voxel_size: Triple) -> Float:
    """Area of voxel faces.

    Parameters
    ----------
    faces : ndarray of int64, shape (n, 3)
        Numbers of faces normal to z, y, x.
    voxel_size : tuple of float
        (z, y, x).

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    side = _face_areas(np.array(voxel_size, np.float64))
    area: Float = faces[:, 0] * side[0] + faces[:, 1] * side[1] + faces[:, 2] * side[2]
    return area


def _weighted(touches: Touches, origin: Int, side: Float) -> Float:
    """Sums over the faces of all three directions about doubled coordinates, weighted with their areas."""
    total = np.zeros((len(touches), 9))
    for axis in range(3):
        total += side[axis] * _about(touches.sums[:, axis], touches.faces[:, axis], origin)
    return total


def _face_areas(size: Float) -> Float:
    return np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])


def _about(sums: Int, n: Int, corner: Int) -> Int:
    """Sums of coordinates and their products about another origin, exactly modulo 2^64."""
    first, c = sums[:, :3], corner
    moved = [first[:, k] - c[:, k] * n for k in range(3)]
    for k, (i, j) in enumerate(_PAIRS):
        moved.append(sums[:, 3 + k] - c[:, i] * first[:, j] - c[:, j] * first[:, i] + c[:, i] * c[:, j] * n)
    return np.stack(moved, axis=1)


def _moments(n: Int, sums: Int) -> tuple[Float, Float]:
    """Mean and covariance of integer coordinates, (m, 3) and (m, 3, 3)."""
    count = n.astype(np.float64)
    mean, cov = sums[:, :3] / count[:, None], np.empty((len(n), 3, 3))
    for k, (i, j) in enumerate(_PAIRS):
        cov[:, i, j] = cov[:, j, i] = _numerator(n, sums[:, 3 + k], sums[:, i], sums[:, j]) / (count * count)
    return mean, cov


def _numerator(n: Int, product: Int, one: Int, two: Int) -> Float:
    """n·Σxy − Σx·Σy as a float; through Python's integers where 64 bits are too few."""
    top = np.maximum(np.abs(n.astype(np.float64) * product), np.abs(one.astype(np.float64) * two))
    found = (n * product - one * two).astype(np.float64)
    for row in np.flatnonzero(top >= _SAFE).tolist():
        found[row] = float(int(n[row]) * int(product[row]) - int(one[row]) * int(two[row]))
    return found
