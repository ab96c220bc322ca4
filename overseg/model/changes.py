"""Four ways in which two masks of a stack differ, between layers that lie some lag apart."""

from __future__ import annotations

import math

import numba
import numpy as np

from overseg.kernels.transport import _drift_shape

#: The drift and shape terms of `kernels.transport.drift_shape` as lengths over the radius, 1 - IoU, and the
#: absolute log ratio of the areas.
CHANGES = ("drift", "shape", "loss", "growth")


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def within(part, z, lag):  # type: ignore[no-untyped-def]
    """Pairs of rows of a part that lie `lag` layers apart, the one nearer to the face first."""
    pairs = np.empty((part.size, 2), np.int64)
    n, j = 0, 0
    for i in range(part.size):
        while j < part.size and abs(z[part[j]] - z[part[i]]) < lag:
            j += 1
        if j < part.size and abs(z[part[j]] - z[part[i]]) == lag:
            pairs[n, 0], pairs[n, 1] = part[i], part[j]
            n += 1
    return pairs[:n]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def changes(pairs, shared, moments, shift, size_y, size_x, radius):  # type: ignore[no-untyped-def]
    """The four changes of each pair of rows, shape (4, n); `shared` voxels lie in both masks."""
    n = pairs.shape[0]
    columns = np.empty((14, n), np.int64)
    for k in range(n):
        for m in range(6):
            columns[m, k] = moments[pairs[k, 0], m]
            columns[6 + m, k] = moments[pairs[k, 1], m]
        columns[12, k], columns[13, k] = shift[0], shift[1]
    out = np.empty((4, n))
    _drift_shape(columns, size_y, size_x, out[:2])
    for k in range(n):
        one, two = columns[0, k], columns[6, k]
        out[0, k] = math.sqrt(out[0, k]) / radius
        out[1, k] = math.sqrt(max(out[1, k], 0.0)) / radius
        out[2, k] = 1.0 - shared[k] / (one + two - shared[k])
        out[3, k] = abs(math.log(one / two))
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def shared_within(pairs, z, back, lag):  # type: ignore[no-untyped-def]
    shared = np.empty(pairs.shape[0], np.int64)
    for k in range(pairs.shape[0]):
        later = pairs[k, 0] if z[pairs[k, 0]] > z[pairs[k, 1]] else pairs[k, 1]
        shared[k] = back[later, lag - 1]
    return shared
