"""Symmetric 3 x 3 matrices, in a fixed order of operations: no library decides the last bits."""

from __future__ import annotations

import math

import numba
import numpy as np

#: Sweeps of Jacobi's rotations; five reach the last bit of any 3 x 3 matrix.
_SWEEPS = 8


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def eigen(matrix, values, vectors):  # type: ignore[no-untyped-def]
    """Eigenvalues, from the smallest, and eigenvectors as columns, by Jacobi's rotations.

    Parameters
    ----------
    matrix : ndarray of float64, shape (3, 3)
        Symmetric; not changed.
    values : ndarray of float64, shape (3,)
        Written.
    vectors : ndarray of float64, shape (3, 3)
        Written; column k belongs to value k.
    """
    a = matrix.copy()
    vectors[:] = np.eye(3)
    for _ in range(_SWEEPS):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            if a[p, q] == 0.0:
                continue
            theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
            t = (1.0 if theta >= 0 else -1.0) / (abs(theta) + math.sqrt(theta * theta + 1.0))
            c = 1.0 / math.sqrt(t * t + 1.0)
            s = t * c
            for k in range(3):
                a[k, p], a[k, q] = c * a[k, p] - s * a[k, q], s * a[k, p] + c * a[k, q]
            for k in range(3):
                a[p, k], a[q, k] = c * a[p, k] - s * a[q, k], s * a[p, k] + c * a[q, k]
                vectors[k, p], vectors[k, q] = (
                    c * vectors[k, p] - s * vectors[k, q],
                    s * vectors[k, p] + c * vectors[k, q],
                )
    for k in range(3):
        values[k] = a[k, k]
    for i, j in ((0, 1), (1, 2), (0, 1)):
        if values[i] > values[j]:
            values[i], values[j] = values[j], values[i]
            for k in range(3):
                vectors[k, i], vectors[k, j] = vectors[k, j], vectors[k, i]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def determinant(m):  # type: ignore[no-untyped-def]
    """Determinant of a 3 x 3 matrix."""
    return (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def along(m, v):  # type: ignore[no-untyped-def]
    """v·M·v."""
    total = 0.0
    for i in range(3):
        for j in range(3):
            total += v[i] * m[i, j] * v[j]
    return total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def dot(u, v):  # type: ignore[no-untyped-def]
    """u·v of three numbers each."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]
