"""Rows of scan tables as one matrix, row by row: added up by key, and seen from each label's corner.

What comes from a scan is long stretches of rows that are in order already. Whole stretches are put in order
here, and only those of a label that several tasks saw are merged row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from overseg.kernels.tables import Bool, Int

#: How a column adds up.
KEY, SUM, LEAST, MOST = 0, 1, 2, 3

_SIGN = np.int64(-(2**63))

#: Places of the columns of a layer table's rows.
_Z, _AREA, _SY, _SX, _SYY, _SXX, _SYX, _Y0, _Y1, _X0, _X1 = range(1, 12)

#: Twice the covariance's numerator, area² · extent², must fit in int64.
_LARGEST = 2.0**62


class Corners(NamedTuple):
    """What is known of each label of a layer table.

    Attributes
    ----------
    start : ndarray of int64, shape (m + 1,)
        Rows of label i are ``start[i]:start[i + 1]``.
    boxes : ndarray of int64, shape (4, m)
        Half-open box: y0, y1, x0, x1, in absolute voxel coordinates.
    too_large : ndarray of bool, shape (m,)
        Moments about the corner do not fit.
    """

    start: Int
    boxes: Int
    too_large: Bool


def add_up(rows: Int, labels: int, how: Sequence[int]) -> Int:
    """Rows with equal keys added up, sorted by key.

    Parameters
    ----------
    rows : ndarray of int64, shape (n, columns), in C order
        The key's columns come first. Fast where most rows are above the row before; right in any order.
    labels : int
        So many of the first columns, at least one, are labels: bits of uint64.
    how : sequence of int
        ``KEY``, ``SUM`` (modulo 2^64), ``LEAST`` or ``MOST`` for each column.

    Returns
    -------
    ndarray of int64, shape (m, columns)
        One row per key. The same array where nothing was to be done.
    """
    ways = np.array(how, np.int64)
    flips = np.where(np.arange(len(ways)) < labels, _SIGN, 0)[ways == KEY]
    first = np.append(_stretches(rows, flips), len(rows))
    names = rows[first[:-1], 0].view(np.uint64)
    if (names[1:] > names[:-1]).all():
        return rows
    order = np.argsort(names, kind="stable")
    out = np.empty_like(rows)
    size = _add_up(rows, first[order], first[order + 1], flips, ways, out)
    return out[:size]


def about_corners(rows: Int) -> Corners:
    """Move the moments of a layer table, in place, to the corner of each label's box.

    Sums about the volume's origin are known modulo 2^64; shifting the origin is exact in that ring, and about
    the corner of the label's box the true values are small enough to be read off.

    Parameters
    ----------
    rows : ndarray of int64, shape (n, columns)
        Columns as in `overseg.kernels.reduce.layer_columns`; one per key, sorted by (label, z). Changed.

    Returns
    -------
    Corners
    """
    start = _starts(rows)
    boxes = np.empty((4, len(start) - 1), np.int64)
    too_large = np.empty(len(start) - 1, np.bool_)
    _about_corners(rows, start, boxes, too_large)
    return Corners(start, boxes, too_large)


def largest_rows(start: Int, area: Int) -> Int:
    """The first of each label's largest rows.

    Parameters
    ----------
    start : ndarray of int64, shape (m + 1,)
        Rows of label i are ``start[i]:start[i + 1]``, at least one.
    area : ndarray of int64, shape (n,)

    Returns
    -------
    ndarray of int64, shape (m,)
    """
    out = start[:-1].copy()
    _largest_rows(start, area, out)
    return out


def in_32_bits(rows: Int) -> npt.NDArray[np.int32] | Int:
    """The same numbers in half the room, where all of them fit; else as they are.

    Parameters
    ----------
    rows : ndarray of int64, shape (n, columns)

    Returns
    -------
    ndarray of int32 or int64, shape (n, columns)
    """
    out = np.empty(rows.shape, np.int32)
    return out if _in_32_bits(rows, out) else np.ascontiguousarray(rows)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _compared(rows, i, j, flips):  # type: ignore[no-untyped-def]
    """-1, 0 or 1: how row i's key stands to row j's. Labels are compared without a sign."""
    for column in range(len(flips)):
        one, other = rows[i, column], rows[j, column]
        if one != other:
            return -1 if one ^ flips[column] < other ^ flips[column] else 1
    return 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _stretches(rows, flips):  # type: ignore[no-untyped-def]
    """Where stretches of rows of one label, each above the one before, begin."""
    found = np.empty(len(rows), np.int64)
    size = 0
    for row in range(len(rows)):
        if row == 0 or rows[row, 0] != rows[row - 1, 0] or _compared(rows, row - 1, row, flips) >= 0:
            found[size] = row
            size += 1
    return found[:size].copy()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_up(rows, first, after, flips, how, out):  # type: ignore[no-untyped-def]
    """Stretches in the order of their labels; those of one label merged. The number of rows put out."""
    at, begin = 0, 0
    while begin < len(first):
        end = begin + 1
        while end < len(first) and rows[first[end], 0] == rows[first[begin], 0]:
            end += 1
        if end == begin + 1:
            size = after[begin] - first[begin]
            out[at : at + size] = rows[first[begin] : after[begin]]
            at += size
        else:
            order = _merged(rows, first[begin:end], after[begin:end], flips)
            at = _put(rows, order, flips, how, out, at)
        begin = end
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _merged(rows, first, after, flips):  # type: ignore[no-untyped-def]
    """Numbers of the rows of several stretches in the order of their keys, by merging two at a time."""
    count = len(first)
    bounds = np.zeros(count + 1, np.int64)
    for i in range(count):
        bounds[i + 1] = bounds[i] + after[i] - first[i]
    order, other = np.empty(bounds[count], np.int64), np.empty(bounds[count], np.int64)
    for i in range(count):
        order[bounds[i] : bounds[i + 1]] = np.arange(first[i], after[i])
    while count > 1:
        for i in range(0, count, 2):
            left, middle, right = bounds[i], bounds[i + 1], bounds[min(i + 2, count)]
            one, two = left, middle
            for at in range(left, right):
                if two == right or (one < middle and _compared(rows, order[one], order[two], flips) <= 0):
                    other[at] = order[one]
                    one += 1
                else:
                    other[at] = order[two]
                    two += 1
            bounds[i // 2] = left
        bounds[(count + 1) // 2] = bounds[count]
        count = (count + 1) // 2
        order, other = other, order
    return order


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put(rows, order, flips, how, out, at):  # type: ignore[no-untyped-def]
    """Rows in order, equal keys added up; the number of rows put out so far."""
    for i in range(len(order)):
        row = order[i]
        if i == 0 or _compared(rows, order[i - 1], row, flips) != 0:
            out[at] = rows[row]
            at += 1
            continue
        for column in range(len(flips), len(how)):
            value = rows[row, column]
            if how[column] == SUM:
                out[at - 1, column] += value
            elif how[column] == LEAST:
                out[at - 1, column] = min(out[at - 1, column], value)
            else:
                out[at - 1, column] = max(out[at - 1, column], value)
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _starts(rows):  # type: ignore[no-untyped-def]
    found = np.empty(len(rows) + 1, np.int64)
    size = 0
    for row in range(len(rows)):
        if row == 0 or rows[row, 0] != rows[row - 1, 0]:
            found[size] = row
            size += 1
    found[size] = len(rows)
    return found[: size + 1].copy()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _about_corners(rows, start, boxes, too_large):  # type: ignore[no-untyped-def]
    for label in range(len(start) - 1):
        first = rows[start[label]]
        y0, y1, x0, x1, area = first[_Y0], first[_Y1], first[_X0], first[_X1], first[_AREA]
        for i in range(start[label] + 1, start[label + 1]):
            row = rows[i]
            y0, x0 = min(y0, row[_Y0]), min(x0, row[_X0])
            y1, x1 = max(y1, row[_Y1]), max(x1, row[_X1])
            area = max(area, row[_AREA])
        boxes[0, label], boxes[1, label], boxes[2, label], boxes[3, label] = y0, y1, x0, x1
        most = float(area) * float(max(y1 - y0, x1 - x0))
        too_large[label] = most * most >= _LARGEST
        for i in range(start[label], start[label + 1]):
            row = rows[i]
            n, sy, sx = row[_AREA], row[_SY], row[_SX]
            row[_SY] = sy - y0 * n
            row[_SX] = sx - x0 * n
            row[_SYY] += y0 * y0 * n - 2 * y0 * sy
            row[_SXX] += x0 * x0 * n - 2 * x0 * sx
            row[_SYX] += y0 * x0 * n - y0 * sx - x0 * sy


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _largest_rows(start, area, out):  # type: ignore[no-untyped-def]
    for label in range(len(out)):
        for row in range(start[label] + 1, start[label + 1]):
            if area[row] > area[out[label]]:
                out[label] = row


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _in_32_bits(rows, out):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        lost = np.int64(0)
        for j in range(rows.shape[1]):
            value = rows[i, j]
            out[i, j] = value
            lost |= value ^ np.int64(np.int32(value))
        if lost != 0:
            return False
    return True
