"""Exact earth mover's distances along one cell, for the second scoring stage and the published features.

A cell is the list of its layers' masks as voxel coordinates; layers in which it has no voxel are empty.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from overseg.kernels.transport import Float, Points, emd_points

Volume = npt.NDArray[np.integer]


def layer_points(box: Volume, label: int, corner: tuple[int, int] = (0, 0)) -> list[Points]:
    """Voxels of one label, layer by layer.

    Parameters
    ----------
    box : ndarray of integer, shape (z, y, x)
        Part of a label volume that holds the whole cell.
    label : int
        The cell.
    corner : tuple of int
        Position (y, x) of the box, added to the coordinates.

    Returns
    -------
    list of ndarray of int64, shape (n, 2)
        One array of (y, x) per layer of the box, in C order; empty where the label is absent.
    """
    z, y, x = np.nonzero(box == label)
    points = np.stack([y, x], axis=1).astype(np.int64) + np.asarray(corner, np.int64)
    return np.split(points, np.searchsorted(z, np.arange(1, box.shape[0])))


def centred(points_a: Points, points_b: Points) -> tuple[Points, Points]:
    """Two masks with their centroids laid on each other, to the nearest whole voxel.

    The shift is an integer, so that both stay sets of voxels; halves round towards zero, so that exchanging
    the masks mirrors the shift and changes no distance.

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Voxels (y, x); neither is empty.

    Returns
    -------
    points_a, points_b : ndarray of int64
        The first as given, the second shifted.
    """
    m, n = len(points_a), len(points_b)
    over = points_a.sum(axis=0) * n - points_b.sum(axis=0) * m  # m n times the wanted shift
    whole = (2 * np.abs(over) + m * n - 1) // (2 * m * n)
    return points_a, points_b + np.sign(over) * whole


def mask_distance(
    points_a: Points, points_b: Points, spacing: tuple[float, float] = (1.0, 1.0), centre: bool = False
) -> float:
    """Exact W1 between two masks, plain or with their centroids laid on each other.

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Voxels (y, x) in common coordinates.
    spacing : tuple of float
        Voxel size (y, x); ones for the published features, which are in pixels.
    centre : bool
        Compare shapes alone; see `centred`.

    Returns
    -------
    float
        In the unit of the voxel size; NaN where a mask is empty.
    """
    if not len(points_a) or not len(points_b):
        return float("nan")
    if centre:
        points_a, points_b = centred(points_a, points_b)
    return emd_points(points_a, points_b, spacing)


def cell_distances(
    layers: list[Points], lag: int = 1, spacing: tuple[float, float] = (1.0, 1.0), centre: bool = False
) -> Float:
    """Exact W1 between the masks of one cell that lie `lag` layers apart.

    Parameters
    ----------
    layers : list of ndarray of int64, shape (n, 2)
        The cell's masks in consecutive layers, as of `layer_points`.
    lag : int
        Layers from one mask to the next: 1 for the published features, gap + 1 where like is to be
        compared with like.
    spacing : tuple of float
        Voxel size (y, x).
    centre : bool
        Compare shapes alone; see `centred`.

    Returns
    -------
    ndarray of float64, shape (pairs,)
        One distance per pair of layers that both hold the cell, from the top; empty for a cell too short.
    """
    pairs = zip(layers, layers[lag:], strict=False)
    return np.array([mask_distance(p, q, spacing, centre) for p, q in pairs if len(p) and len(q)], float)


def gap_distance(
    box: Volume,
    a: int,
    b: int,
    z: int,
    gap: int,
    spacing: tuple[float, float] = (1.0, 1.0),
    centre: bool = False,
) -> float:
    """Exact W1 from the end face of `a` to the start face of `b`.

    Parameters
    ----------
    box : ndarray of integer, shape (z, y, x)
        Part of a label volume that holds both faces whole.
    a, b : int
        The labels; equal for a hole.
    z : int
        Layer of a's face in the box; b's face is ``z + gap + 1``.
    gap : int
        Layers between the faces.
    spacing : tuple of float
        Voxel size (y, x).
    centre : bool
        Compare shapes alone; see `centred`.

    Returns
    -------
    float
        In the unit of the voxel size; NaN where a face is empty.
    """
    face_a, face_b = np.argwhere(box[z] == a), np.argwhere(box[z + gap + 1] == b)
    return mask_distance(face_a.astype(np.int64), face_b.astype(np.int64), spacing, centre)
