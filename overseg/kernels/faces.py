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
    _codes(start, z, area, np.ascontiguousarray(back), ends, starts)
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
            ends[row] = _code(row, start[label + 1], 1, z, area, back)
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
        low, last = start[at[i]], start[at[i] + 1]
        high = last
        while low < high:
            middle = (low + high) // 2
            if z[middle] < layer[i]:
                low = middle + 1
            else:
                high = middle
        if low < last and z[low] == layer[i]:
            out[i] = low
