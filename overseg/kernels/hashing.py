"""Hashes of table rows that add up in any order, and draws by such hashes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

#: Rows whose hashes are worked out together: so few that they stay in the processor's first cache.
_TOGETHER = 256


def sum_of_hashes(rows: Int, seed: int) -> int:
    """Sum modulo 2^128 of a 128-bit hash of every row.

    Parameters
    ----------
    rows : ndarray of int64, shape (n, columns)
        At least one column. Their order counts, that of the rows does not.
    seed : int
        0 .. 2^63 - 1. Tables with different seeds have different hashes.

    Returns
    -------
    int
        0 .. 2^128 - 1.
    """
    # Sums of 32-bit halves cannot overflow for fewer than 2^32 rows.
    sums = np.zeros((2, 2), np.uint64)
    _add_hashes(rows.view(np.uint64), np.array([2 * seed, 2 * seed + 1], np.uint64), sums)
    first, second = (int(low) + (int(high) << 32) for low, high in sums)
    return (first + (second << 64)) % 2**128


def drawn(voxels: Int, largest: Int, rows: Int, total: int, wanted: int) -> Bool:
    """Which labels of a volume stand for all: about `wanted` of `total`, all where there are no more.

    Drawn by a hash of what a label measures, so that neither names, layout nor a flip change which.

    Parameters
    ----------
    voxels, largest, rows : ndarray of int64, shape (n,)
        Of each label, of its largest layer, and its layers.
    total, wanted : int

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    if total <= wanted:
        return np.ones(len(voxels), bool)
    mixed = np.zeros(len(voxels), np.uint64)
    for values in (voxels, largest, rows):
        _mix_into(mixed, np.ascontiguousarray(values, np.int64).view(np.uint64))
    return mixed < np.uint64((wanted << 64) // total)


@njit(cache=True, nogil=True)
def _add_hashes(rows, seeds, sums):  # type: ignore[no-untyped-def]
    """Low and high halves of both 64-bit hashes of each row, added up."""
    mixed, values = np.empty((2, _TOGETHER), np.uint64), np.empty(_TOGETHER, np.uint64)
    for begin in range(0, len(rows), _TOGETHER):
        size = min(_TOGETHER, len(rows) - begin)
        mixed[0], mixed[1] = seeds[0], seeds[1]
        for column in range(rows.shape[1]):
            for i in range(size):
                values[i] = rows[begin + i, column]
            _mix_into(mixed[0, :size], values)
            _mix_into(mixed[1, :size], values)
        for half in range(2):
            for i in range(size):
                sums[half, 0] += mixed[half, i] & np.uint64(2**32 - 1)
                sums[half, 1] += mixed[half, i] >> np.uint64(32)


@njit(cache=True, nogil=True)
def _mix_into(mixed, values):  # type: ignore[no-untyped-def]
    """One step of splitmix64 (Steele, Lea and Flood 2014) over each row's hash and the next column."""
    for i in range(len(mixed)):
        value = (mixed[i] ^ values[i]) + _STEP
        value = (value ^ (value >> np.uint64(30))) * _FIRST
        value = (value ^ (value >> np.uint64(27))) * _SECOND
        mixed[i] = value ^ (value >> np.uint64(31))
