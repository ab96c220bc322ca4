"""Hashes of table rows that add up in any order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True)
def _mix_into(mixed, values):  # type: ignore[no-untyped-def]
    """One step of splitmix64 (Steele, Lea and Flood 2014) over each row's hash and the next column."""
    for i in range(len(mixed)):
        value = (mixed[i] ^ values[i]) + _STEP
        value = (value ^ (value >> np.uint64(30))) * _FIRST
        value = (value ^ (value >> np.uint64(27))) * _SECOND
        mixed[i] = value ^ (value >> np.uint64(31))


def sum_of_hashes(columns: Iterable[npt.NDArray[Any]], seed: int) -> int:
    """Sum modulo 2^128 of a 128-bit hash of every row.

    Parameters
    ----------
    columns : iterable of ndarray of int64 or uint64, shape (n,)
        At least one column. Their order counts, that of the rows does not.
    seed : int
        0 .. 2^63 - 1. Tables with different seeds have different hashes.

    Returns
    -------
    int
        0 .. 2^128 - 1.
    """
    table = [np.ascontiguousarray(values).view(np.uint64) for values in columns]
    total = 0
    for half in range(2):
        mixed = np.full(len(table[0]), 2 * seed + half, np.uint64)
        for values in table:
            _mix_into(mixed, values)
        # Sums of 32-bit halves cannot overflow for fewer than 2^32 rows.
        low, high = mixed & np.uint64(2**32 - 1), mixed >> np.uint64(32)
        total += (int(low.sum()) + (int(high.sum()) << 32)) << (64 * half)
    return total % 2**128
