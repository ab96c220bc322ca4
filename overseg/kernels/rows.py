"""Growing tables of the scan, each with a hash table over the rows of the present step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

#: Columns of the sums of one label in one layer; voxels with another label 1, 2, .. layers earlier follow.
SUMS = ("area", "sy", "sx", "syy", "sxx", "syx", "y0", "y1", "x0", "x1")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_STIR = np.uint64(0xBF58476D1CE4E5B9)
_TOP = np.uint64(32)
_RECENT = np.uint64(54)
RECENT = 1 << 10
"""Places of `recent` in `row_of`: many more than a layer of a block has labels."""
_FAR = 2**62
_LEAST = 512


class LayerRows(NamedTuple):
    """Rows of one label in one layer, with a hash table over those of the present step.

    Attributes
    ----------
    label : ndarray of uint64, shape (room,)
    z : ndarray of int64, shape (room,)
    sums : ndarray of int64, shape (room, 10 + lags)
        The columns `SUMS`, then how many voxels have another label 1, 2, .. layers earlier.
    slots : ndarray of int64, shape (a power of two,)
        Number of a row; one below the first row of the step is none.
    """

    label: npt.NDArray[np.uint64]
    z: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]


class PairRows(NamedTuple):
    """Rows of two labels that face each other or touch, with a hash table over the last of them.

    Those that face each other are found again within their layer, those that touch within the step.

    Attributes
    ----------
    labels : ndarray of uint64, shape (room, 2)
        Upper and lower label.
    counts : ndarray of int64, shape (room, 5)
        Layer of the upper one (0 where they touch), layers between them, facing columns; of two that touch
        also the first and the last layer of the upper one where they do.
    slots : ndarray of int64, shape (a power of two,)
    """

    labels: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]


class Columns(NamedTuple):
    """Columns of labels through the window, and in how many places of a layer each is.

    Attributes
    ----------
    multipliers : ndarray of uint64, shape (1 + lags,)
        One odd number for each layer of the window.
    labels : ndarray of uint64, shape (room, 1 + lags)
        From the lowest layer upwards.
    voxels : ndarray of int64, shape (room,)
    where : ndarray of int64, shape (room,)
        Where each is found in `slots`.
    slots : ndarray of int64, shape (a power of two,)
        Number of a column; -1 is none.
    """

    multipliers: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.uint64]
    voxels: npt.NDArray[np.int64]
    where: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]


class TouchRows(NamedTuple):
    """Rows of two labels that touch along any axis, with a hash table over all of them.

    Attributes
    ----------
    labels : ndarray of uint64, shape (room, 2)
        The smaller one first.
    sums : ndarray of int64, shape (room, any)
    slots : ndarray of int64, shape (a power of two,)
        Number of a row; -1 is none.
    recent : ndarray of int64, shape (RECENT,)
        Rows that were asked for, by a short hash: most calls end there.
    """

    labels: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    recent: npt.NDArray[np.int64]


def empty_rows(lags: int) -> tuple[LayerRows, PairRows, PairRows]:
    """Tables with little room and nothing in them: of layers, and of labels that face each other or touch."""
    slots = np.full(2 * _LEAST, -1, np.int64)
    sums = np.empty((_LEAST, len(SUMS) + lags), np.int64)
    layers = LayerRows(np.empty(_LEAST, np.uint64), np.empty(_LEAST, np.int64), sums, slots)
    facing, touching = (
        PairRows(np.empty((_LEAST, 2), np.uint64), np.empty((_LEAST, 5), np.int64), slots.copy())
        for _ in range(2)
    )
    return layers, facing, touching


def empty_touches(sums: int) -> TouchRows:
    """A table of labels that touch, of so many sums, with little room and nothing in it."""
    labels, room = np.empty((_LEAST, 2), np.uint64), np.empty((_LEAST, sums), np.int64)
    return TouchRows(labels, room, np.full(2 * _LEAST, -1, np.int64), np.full(RECENT, -1, np.int64))


@njit(cache=True, nogil=True, _nrt=False)
def among(labels, label):  # type: ignore[no-untyped-def]
    """Whether a label is one of a few."""
    # An iterator over the array would be counted in and out, which takes longer than the loop.
    found = False
    for i in range(len(labels)):
        found |= labels[i] == label
    return found


@njit(cache=True, nogil=True, _nrt=False)
def row_of(label, zs, sums, slots, ends, recent, name, z):  # type: ignore[no-untyped-def]
    """The row of a label in a layer, a new one if need be; there is room for it.

    `recent` holds rows that were asked for in this layer, by a short hash: most calls end there.
    """
    short = np.int64((name * _MIX) >> _RECENT)
    row = recent[short]
    if row < 0 or label[row] != name:
        row = _old_or_new_row(label, zs, sums, slots, ends, name, z)
        recent[short] = row
    return row


@njit(cache=True, nogil=True, _nrt=False)
def _old_or_new_row(label, zs, sums, slots, ends, name, z):  # type: ignore[no-untyped-def]
    slot = _row_slot(label, zs, slots, ends[0], name, z)
    row = slots[slot]
    if row < ends[0]:
        row = ends[1]
        ends[1] += 1
        slots[slot], label[row], zs[row] = row, name, z
        for i in range(sums.shape[1]):
            sums[row, i] = 0
        sums[row, 6] = sums[row, 8] = _FAR
    return row


@njit(cache=True, nogil=True, _nrt=False)
def _row_slot(label, zs, slots, floor, name, z):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    slot = np.int64((((name * _MIX) ^ np.uint64(z)) * _STIR) >> _TOP) & mask
    while slots[slot] >= floor and (label[slots[slot]] != name or zs[slots[slot]] != z):
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True, _nrt=False)
def touching_of(touching, ends, recent, above, below):  # type: ignore[no-untyped-def]
    """The row of two labels that touch; `recent` is as in `row_of`, and outlives a layer."""
    short = np.int64((((above * _MIX) ^ below) * _STIR) >> _RECENT)
    row = recent[short]
    if row < ends[0] or touching.labels[row, 0] != above or touching.labels[row, 1] != below:
        row = pair_of(touching, ends, above, below, 0, 0)
        recent[short] = row
    return row


@njit(cache=True, nogil=True, _nrt=False)
def pair_of(pairs, ends, above, below, z, gap):  # type: ignore[no-untyped-def]
    """The row of two labels, a new one if need be; there is room for it. `ends`: first row, and how many."""
    labels, counts, slots = pairs
    slot = _pair_slot(labels, counts, slots, ends[0], above, below, z, gap)
    row = slots[slot]
    if row < ends[0]:
        row = ends[1]
        ends[1] += 1
        slots[slot] = row
        labels[row, 0], labels[row, 1] = above, below
        counts[row, 0], counts[row, 1], counts[row, 2] = z, gap, 0
        counts[row, 3], counts[row, 4] = _FAR, -_FAR
    return row


@njit(cache=True, nogil=True, _nrt=False)
def _pair_slot(labels, counts, slots, floor, above, below, z, gap):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    mixed = ((above * _MIX) ^ below) * _STIR
    slot = np.int64(((mixed ^ np.uint64(64 * z + gap)) * _MIX) >> _TOP) & mask
    while slots[slot] >= floor:
        row = slots[slot]
        same = labels[row, 0] == above and labels[row, 1] == below
        if same and counts[row, 0] == z and counts[row, 1] == gap:
            break
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True, _nrt=False)
def touch_of(touches, end, a, b):  # type: ignore[no-untyped-def]
    """The row of labels a < b, a new one if need be; there is room for it. `end`: how many there are."""
    short = np.int64((((a * _MIX) ^ b) * _STIR) >> _RECENT)
    row = touches.recent[short]
    if row < 0 or touches.labels[row, 0] != a or touches.labels[row, 1] != b:
        row = _old_or_new_touch(touches, end, a, b)
        touches.recent[short] = row
    return row


@njit(cache=True, nogil=True, _nrt=False)
def _old_or_new_touch(touches, end, a, b):  # type: ignore[no-untyped-def]
    labels, sums, slots, _ = touches
    slot = _touch_slot(labels, slots, a, b)
    row = slots[slot]
    if row < 0:
        row = end[0]
        end[0] += 1
        slots[slot] = row
        labels[row, 0], labels[row, 1] = a, b
        for i in range(sums.shape[1]):
            sums[row, i] = 0
    return row


@njit(cache=True, nogil=True, _nrt=False)
def _touch_slot(labels, slots, a, b):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    slot = np.int64((((((a * _MIX) ^ b) * _STIR) ^ a) * _MIX) >> _TOP) & mask
    while slots[slot] >= 0 and (labels[slots[slot], 0] != a or labels[slots[slot], 1] != b):
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True, _nrt=False, inline="always")
def column_slot(labels, slots, multipliers, new, lanes):  # type: ignore[no-untyped-def]
    """Number and slot of the column of labels in row `new`; `new` itself if there was none like it."""
    # Unlike a chain of products, these are made side by side.
    mixed = np.uint64(0)
    for lane in range(lanes):
        mixed += labels[new, lane] * multipliers[lane]
    mask = len(slots) - 1
    slot = np.int64(((mixed ^ (mixed >> _TOP)) * _STIR) >> _TOP) & mask
    while slots[slot] >= 0:
        column = slots[slot]
        same = True
        for lane in range(lanes):
            same &= labels[column, lane] == labels[new, lane]
        if same:
            return column, slot
        slot = (slot + 1) & mask
    return new, slot


@njit(cache=True, nogil=True)
def empty_columns(window):  # type: ignore[no-untyped-def]
    """A table of columns with little room."""
    multipliers = np.empty(window, np.uint64)
    for lane in range(window):
        multipliers[lane] = (_MIX * np.uint64(2 * lane + 1)) ^ (_STIR << np.uint64(lane + 1))
    room = np.empty(_LEAST, np.int64)
    return Columns(multipliers, np.empty((_LEAST, window), np.uint64), room, room.copy(), _slots(_LEAST))


@njit(cache=True, nogil=True)
def more_rows(layers, ends, n):  # type: ignore[no-untyped-def]
    """Room for `n` more rows, and for as many again as there are."""
    n += ends[1]
    label, zs, sums = _longer(layers.label, n), _longer(layers.z, n), _longer(layers.sums, n)
    slots = _slots(len(label) - ends[0])
    for row in range(ends[0], ends[1]):
        slots[_row_slot(label, zs, slots, ends[0], label[row], zs[row])] = row
    return LayerRows(label, zs, sums, slots)


@njit(cache=True, nogil=True, _nrt=False)
def is_full(pairs, ends, n):  # type: ignore[no-untyped-def]
    """Whether there is no room for `n` more pairs, or too little to find them fast."""
    return ends[1] + n > len(pairs.labels) or 2 * (ends[1] + n - ends[0]) > len(pairs.slots)


@njit(cache=True, nogil=True)
def more_pairs(pairs, ends, n):  # type: ignore[no-untyped-def]
    """Room for `n` more pairs, and for as many again as there are since the first that counts."""
    labels, counts = pairs.labels, pairs.counts
    if ends[1] + n > len(labels):
        labels, counts = _longer(labels, ends[1] + n), _longer(counts, ends[1] + n)
    slots = _slots(2 * (ends[1] + n - ends[0]))
    for row in range(ends[0], ends[1]):
        slot = _pair_slot(
            labels, counts, slots, ends[0], labels[row, 0], labels[row, 1], counts[row, 0], counts[row, 1]
        )
        slots[slot] = row
    return PairRows(labels, counts, slots)


@njit(cache=True, nogil=True)
def more_touches(touches, end, n):  # type: ignore[no-untyped-def]
    """Room for `n` more rows, and for as many again as there are."""
    n += end[0]
    labels, sums = _longer(touches.labels, n), _longer(touches.sums, n)
    slots = _slots(len(labels))
    for row in range(end[0]):
        slots[_touch_slot(labels, slots, labels[row, 0], labels[row, 1])] = row
    return TouchRows(labels, sums, slots, touches.recent)


@njit(cache=True, nogil=True)
def more_columns(columns, found, n):  # type: ignore[no-untyped-def]
    """Room for `n` more columns, and for as many again as there are."""
    n += found
    labels, where = _longer(columns.labels, n), _longer(columns.where, n)
    slots = _slots(len(labels))
    for i in range(found):
        _, where[i] = column_slot(labels, slots, columns.multipliers, i, labels.shape[1])
        slots[where[i]] = i
    return Columns(columns.multipliers, labels, _longer(columns.voxels, n), where, slots)


@njit(cache=True, nogil=True)
def _longer(table, n):  # type: ignore[no-untyped-def]
    """A table with room for `n` rows more."""
    larger = np.empty((len(table) + n, *table.shape[1:]), table.dtype)
    larger[: len(table)] = table
    return larger


@njit(cache=True, nogil=True)
def _slots(n):  # type: ignore[no-untyped-def]
    """A hash table for `n` rows that stays half empty."""
    size = 2
    while size < 2 * n:
        size *= 2
    return np.full(size, -1, np.int64)
