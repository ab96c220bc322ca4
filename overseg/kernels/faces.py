"""Where labels end: the face rule of docs/architecture.md, section 4, on the rows of a layer table.

A row's *code* says at which lags it is a face. Bit ``lag`` is set where it is one when so many layers beyond
it are looked at; bit ``lag + SLIVERS`` where slivers were passed over for that.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from overseg.kernels.tables import Bool, Int, Labels

SLIVERS = 32

#: A face ends a label when less than 1/20 of it goes on, and what remains is below 1/4 of it.
_GOES_ON = 20
REMAINS = 4


def face_codes(start: Int, z: Int, area: Int, back: Int) -> tuple[Int, Int]:
    """Codes of every row as an end face (looking to larger z) and as a start face.

    Nowhere may more than a sliver remain. Without slivers nothing goes on at any lag; with them, nothing goes
    on beyond the last one, and at least one layer lies there.

    Parameters
    ----------
    start : ndarray of int64, shape (m + 1,)
        Rows of label i are ``start[i]:start[i + 1]``, in order of z.
    z, area : ndarray of int64, shape (n,)
        Layer and voxels.
    back : ndarray of int64, shape (n, lags)
        Column d - 1: voxels where the same label is also in layer z - d.

    Returns
    -------
    tuple of ndarray of int64, shape (n,)
    """
    ends, starts = np.zeros(len(z), np.int64), np.zeros(len(z), np.int64)
    _codes(start, z, area, back, ends, starts)
    return ends, starts


def rows_at(labels: Labels, start: Int, z: Int, who: Labels, layer: Int) -> Int:
    """Rows of labels in layers; -1 where the label is not there.

    Parameters
    ----------
    labels : ndarray of uint64, shape (m,)
        Sorted.
    start, z : ndarray of int64
        As in `face_codes`.
    who : ndarray of uint64, shape (k,)
    layer : ndarray of int64, shape (k,)

    Returns
    -------
    ndarray of int64, shape (k,)
    """
    out = np.full(len(who), -1, np.int64)
    if len(labels):
        at = np.minimum(np.searchsorted(labels, who), len(labels) - 1)
        _rows(start, z, at, np.asarray(labels[at] == who), np.asarray(layer, np.int64), out)
    return out


def rows_of_ends(labels: Labels, start: Int, z: Int, ends: Int, who: Labels, layer: Int) -> tuple[Int, Int]:
    """Of labels in layers, those that are end faces at some lag; fast where `who` is sorted.

    Parameters
    ----------
    labels : ndarray of uint64, shape (m,)
        Sorted.
    start, z : ndarray of int64
        As in `face_codes`.
    ends : ndarray of int64, shape (n,)
        Code of every row.
    who : ndarray of uint64, shape (k,)
    layer : ndarray of int64, shape (k,)

    Returns
    -------
    tuple of ndarray of int64, shape (e,)
        Which of the k they are, and their rows.
    """
    return _end_rows(labels, start, z, ends, who, layer)  # type: ignore[no-any-return]


def is_face(code: Int, lag: int | Int) -> Bool:
    """Whether rows are faces at a lag."""
    return np.asarray(code >> lag & 1, bool)


def passes_slivers(code: Int, lag: int | Int) -> Bool:
    """Whether rows are faces at a lag by passing over slivers."""
    return is_face(code, lag + SLIVERS)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _codes(start, z, area, back, ends, starts):  # type: ignore[no-untyped-def]
    for label in range(len(start) - 1):
        for row in range(start[label], start[label + 1]):
            # Nearly all rows have neighbours that are large enough to be no face at any lag.
            after, before = row + 1, row - 1
            if after == start[label + 1] or z[after] != z[row] + 1 or REMAINS * area[after] < area[row]:
                ends[row] = _code(row, start[label + 1], 1, z, area, back)
            if before < start[label] or z[before] != z[row] - 1 or REMAINS * area[before] < area[row]:
                starts[row] = _code(row, start[label] - 1, -1, z, area, back)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _code(row, limit, step, z, area, back):  # type: ignore[no-untyped-def]
    lags = back.shape[1]
    code, slivers, other = 0, 0, row + step
    for lag in range(1, lags + 1):
        remains, goes_on = 0, 0
        if other != limit and (z[other] - z[row]) * step == lag:
            remains, goes_on = area[other], back[max(row, other), lag - 1]
            other += step
        if REMAINS * remains >= area[row]:
            break
        if _GOES_ON * goes_on >= area[row]:
            slivers = lag
        if slivers < lag:
            code |= 1 << lag
            if slivers > 0:
                code |= 1 << (lag + SLIVERS)
    return code


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rows(start, z, at, known, layer, out):  # type: ignore[no-untyped-def]
    for i in range(len(at)):
        if not known[i]:
            continue
        out[i] = _row(start[at[i]], start[at[i] + 1], z, layer[i])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _row(first, after, z, layer):  # type: ignore[no-untyped-def]
    """The row of a layer among those of one label; -1 where there is none."""
    low, high = first, after
    # Where no layer is missing, this is the one.
    guess = first + layer - z[first]
    if first <= guess < after and z[guess] == layer:
        return guess
    while low < high:
        middle = (low + high) // 2
        if z[middle] < layer:
            low = middle + 1
        else:
            high = middle
    return low if low < after and z[low] == layer else -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _end_rows(labels, start, z, ends, who, layer):  # type: ignore[no-untyped-def]
    which, rows = np.empty(len(who), np.int64), np.empty(len(who), np.int64)
    found, at = 0, 0
    for i in range(len(who)):
        if at == len(labels) or labels[at] != who[i]:
            at = np.searchsorted(labels, who[i])
            if at == len(labels) or labels[at] != who[i]:
                continue
        row = _row(start[at], start[at + 1], z, layer[i])
        if row >= 0 and ends[row] != 0:
            which[found], rows[found] = i, row
            found += 1
    return which[:found].copy(), rows[:found].copy()
