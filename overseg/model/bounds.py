"""What the tables alone say of earth mover's distances: bounds, for every distance of the second stage.

Between two masks M and N with centroids m, n, covariances S, T and `overlap` shared voxels

    |m - n|  <=  W1  <=  min((1 - overlap / max(|M|, |N|)) * diagonal of the common box,
                             sqrt(|m - n|² + tr S + tr T)).

The first is Jensen's inequality, the second keeps shared mass where it is, the third couples the masks
independently. Laying the centroids on each other moves a mask as a whole, by no more than it changes W1.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Candidates, LayerTable
from overseg.model.changes import shared_within, within
from overseg.model.features import FULL, MOMENTS, _outwards, _second_first
from overseg.model.intervals import Interval, change_between, wider

Float = npt.NDArray[np.float64]


def distance_bounds(
    candidates: Candidates, layers: LayerTable, voxel_size: tuple[float, float, float], reach: int
) -> Interval:
    """Bounds of the second stage's own features, without a look at a voxel.

    Parameters
    ----------
    candidates : Candidates
        n pairs of faces.
    layers : LayerTable
        The reconciled table, or the rows of the candidates' labels.
    voxel_size : tuple of float
        (z, y, x).
    reach : int
        Pairs of layers within a part that the second stage looks at.

    Returns
    -------
    Interval, shape (n, len(FULL) - len(MOMENTS))
        The features that exact distances would give lie between.
    """
    width = len(FULL) - len(MOMENTS)
    low, high = np.zeros((len(candidates), width)), np.zeros((len(candidates), width))
    if len(candidates):
        names = ("area", "sy", "sx", "syy", "sxx", "syx")
        moments = np.stack([getattr(layers, name) for name in names], axis=1).astype(np.int64)
        boxes = np.stack([layers.y0, layers.y1, layers.x0, layers.x1], axis=1).astype(np.int64)
        at_a, at_b = layers.index(candidates.a), layers.index(candidates.b)
        keys = np.stack([at_a, at_b, candidates.z, candidates.gap, candidates.overlap], axis=1)
        corner = np.stack([layers.corner_y, layers.corner_x], axis=1).astype(np.int64)
        back = np.ascontiguousarray(layers.back, np.int64)
        tables = layers.start.astype(np.int64), layers.z.astype(np.int64), moments, boxes, back, corner
        size = float(voxel_size[1]), float(voxel_size[2])
        _all_bounds(keys.astype(np.int64), *tables, *size, reach, low, high)
    return wider(low, high)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all_bounds(  # type: ignore[no-untyped-def]
    keys, start, z, moments, boxes, back, corner, size_y, size_x, reach, low, high
):
    for i in range(keys.shape[0]):
        a, b, face, gap, overlap = keys[i]
        one = _outwards(z, start[a], start[a + 1], face, -1)
        two = _outwards(z, start[b], start[b + 1], face + gap + 1, 1)
        if _second_first(a, b, one, two, moments):
            a, b, one, two = b, a, two, one
        area = moments[one[0], 0] + moments[two[0], 0]
        radius = math.sqrt(area * 0.5 * size_y * size_x / math.pi)
        through = np.empty((1, 2, 2))
        faces = np.array([[one[0], two[0]]])
        shift = corner[b] - corner[a]
        _of_pairs(
            faces, np.array([overlap]), moments, boxes, shift, size_y, size_x, radius, through
        )  # fmt: skip
        inside = []
        for part in (one, two):
            pairs = within(part, z, gap + 1)[:reach]
            found = np.empty((pairs.shape[0], 2, 2))
            shared = shared_within(pairs, z, back, gap + 1)
            _of_pairs(pairs, shared, moments, boxes, np.zeros(2, np.int64), size_y, size_x, radius, found)
            inside.append(found)
        width = low.shape[1] // 2
        for k in range(2):
            change_between(
                through[0, k, 0],
                through[0, k, 1],
                np.ascontiguousarray(inside[0][:, k, 0]),
                np.ascontiguousarray(inside[0][:, k, 1]),
                np.ascontiguousarray(inside[1][:, k, 0]),
                np.ascontiguousarray(inside[1][:, k, 1]),
                low[i, k * width : (k + 1) * width],
                high[i, k * width : (k + 1) * width],
            )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _of_pairs(pairs, shared, moments, boxes, shift, size_y, size_x, radius, out):  # type: ignore[no-untyped-def]
    """Bounds of both distances of each pair of rows over the radius, as (pair, plain or centred, end)."""
    for k in range(pairs.shape[0]):
        p, q = pairs[k]
        drift, spread = _drift_and_spread(moments[p], moments[q], shift, size_y, size_x)
        # The farthest two voxels of the common box.
        height = max(boxes[p, 1], boxes[q, 1]) - min(boxes[p, 0], boxes[q, 0]) - 1
        width = max(boxes[p, 3], boxes[q, 3]) - min(boxes[p, 2], boxes[q, 2]) - 1
        moved = 1.0 - shared[k] / max(moments[p, 0], moments[q, 0])
        most = min(moved * math.hypot(height * size_y, width * size_x), math.sqrt(drift * drift + spread))
        # Centred to whole voxels: half a voxel along each axis may remain.
        rest = 0.5 * math.hypot(size_y, size_x)
        out[k, 0, 0], out[k, 0, 1] = drift / radius, max(most, drift) / radius
        out[k, 1, 0] = 0.0
        out[k, 1, 1] = min(most + drift + rest, math.sqrt(rest * rest + spread)) / radius


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _drift_and_spread(one, two, shift, size_y, size_x):  # type: ignore[no-untyped-def]
    """Distance of the centroids, and the variances of both masks added up."""
    spread = 0.0
    for row in (one, two):
        n = row[0]
        my, mx = row[1] / n, row[2] / n
        spread += max(row[3] / n - my * my, 0.0) * size_y * size_y
        spread += max(row[4] / n - mx * mx, 0.0) * size_x * size_x
    dy = (two[1] / two[0] + shift[0] - one[1] / one[0]) * size_y
    dx = (two[2] / two[0] + shift[1] - one[2] / one[0]) * size_x
    return math.hypot(dy, dx), spread
