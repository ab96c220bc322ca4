"""Compiled parts of the scan: run-lengths of a layer, and what a layer shares with those above it."""

from __future__ import annotations

import numpy as np
from numba import njit

#: Columns of the sums of one label in one layer; overlaps with 1, 2, .. layers earlier follow.
SUMS = ("area", "sy", "sx", "syy", "sxx", "syx", "y0", "y1", "x0", "x1")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(32)


@njit(cache=True, nogil=True)
def encode(layer, background, labels, ends, rows):  # type: ignore[no-untyped-def]
    """Run-lengths of a layer, row by row.

    Parameters
    ----------
    layer : ndarray of an unsigned integer, shape (y, x)
    background : ndarray of uint64
        Labels that are no cells; all of them are written as the first one.
    labels : ndarray of uint64, shape (y * x,)
        Out: the label of each run.
    ends : ndarray of int32, shape (y * x,)
        Out: x behind the last voxel of each run.
    rows : ndarray of int64, shape (y + 1,)
        Out: runs of row y are ``rows[y]:rows[y + 1]``.
    """
    ny, nx = layer.shape
    n = 0
    for y in range(ny):
        rows[y] = n
        if nx == 0:
            continue
        row = layer[y]
        value = row[0]
        for x in range(1, nx):
            if row[x] != value:
                labels[n] = _plain(np.uint64(value), background)
                ends[n] = x
                n += 1
                value = row[x]
        labels[n] = _plain(np.uint64(value), background)
        ends[n] = nx
        n += 1
    rows[ny] = n


@njit(cache=True, nogil=True)
def _plain(label, background):  # type: ignore[no-untyped-def]
    for other in background:
        if label == other:
            return background[0]
    return label


@njit(cache=True, nogil=True)
def compare(labels, ends, rows, lanes, from_lag, background):  # type: ignore[no-untyped-def]
    """Sums of every label in one layer, and its overlaps with the layers above.

    The runs of all layers of the window are walked together, from border to border; stretches of one label
    through the whole window, which is most of them, touch no hash table.

    Parameters
    ----------
    labels, ends, rows : ndarray, shapes (window, y * x), (window, y * x), (window, y + 1)
        Run-lengths of the layers, as `encode` writes them.
    lanes : ndarray of int64, shape (1 + lags,)
        Where the layer itself, the one above it, and so on are found in these.
    from_lag : int
        Overlaps with closer layers than this are not counted.
    background : ndarray of uint64
        Labels that are no cells.

    Returns
    -------
    names : ndarray of uint64, shape (n,)
    sums : ndarray of int64, shape (n, 10 + lags)
        The columns `SUMS` about the block's corner, then the overlaps with the same label.
    pairs : ndarray of uint64, shape (m, 2)
        Upper and lower label.
    counts : ndarray of int64, shape (m, 2)
        Layers between them, and facing columns.
    """
    lags = len(lanes) - 1
    here = lanes[0]
    has_background = len(background) > 0
    nothing = background[0] if has_background else np.uint64(0)

    names = np.empty(64, np.uint64)
    sums = np.empty((64, 10 + lags), np.int64)
    n = 0
    name_slots = np.full(256, -1, np.int64)
    pairs = np.empty((64, 2), np.uint64)
    counts = np.empty((64, 2), np.int64)
    m = 0
    pair_slots = np.full(256, -1, np.int64)

    at = np.empty(lags + 1, np.int64)
    seen = np.empty(lags + 1, np.uint64)
    for y in range(rows.shape[1] - 1):
        for lag in range(1, lags + 1):
            at[lag] = rows[lanes[lag], y]
        stop = np.int64(0)
        for run in range(rows[here, y], rows[here, y + 1]):
            x = stop
            stop = np.int64(ends[here, run])
            label = labels[here, run]
            if has_background and label == nothing:
                continue
            if 2 * n >= len(name_slots):
                name_slots = _grown_names(names, n, name_slots)
            slot = _find_name(names, name_slots, label)
            row = name_slots[slot]
            if row < 0:
                if n == len(names):
                    names, sums = _longer(names), _longer(sums)
                row = n
                name_slots[slot] = n
                names[n] = label
                _start(sums[n], y, x)
                n += 1
            own = sums[row]
            _add_run(own, y, x, stop)

            while lags > 0 and x < stop:
                border = stop
                for lag in range(1, lags + 1):
                    lane = lanes[lag]
                    i = at[lag]
                    while ends[lane, i] <= x:
                        i += 1
                    at[lag] = i
                    seen[lag] = labels[lane, i]
                    if ends[lane, i] < border:
                        border = np.int64(ends[lane, i])
                width = border - x
                x = border
                free = True
                for lag in range(1, lags + 1):
                    above = seen[lag]
                    if above == label:
                        free = False
                        if lag >= from_lag:
                            own[9 + lag] += width
                    elif free and lag >= from_lag and not (has_background and above == nothing):
                        if _among(seen, lag, above):
                            continue
                        if 2 * m >= len(pair_slots):
                            pair_slots = _grown_pairs(pairs, counts, m, pair_slots)
                        slot = _find_pair(pairs, counts, pair_slots, above, label, lag - 1)
                        if pair_slots[slot] < 0:
                            if m == len(pairs):
                                pairs, counts = _longer(pairs), _longer(counts)
                            pair_slots[slot] = m
                            pairs[m, 0], pairs[m, 1] = above, label
                            counts[m, 0], counts[m, 1] = lag - 1, 0
                            m += 1
                        counts[pair_slots[slot], 1] += width
    return names[:n], sums[:n], pairs[:m], counts[:m]


@njit(cache=True, nogil=True)
def _among(seen, lag, label):  # type: ignore[no-untyped-def]
    """Whether a label of the layer `lag` earlier comes again in the layers between."""
    for between in range(1, lag):  # noqa: SIM110
        if seen[between] == label:
            return True
    return False


@njit(cache=True, nogil=True)
def _start(own, y, x):  # type: ignore[no-untyped-def]
    own[:] = 0
    own[6], own[7], own[8], own[9] = y, y + 1, x, x + 1


@njit(cache=True, nogil=True)
def _add_run(own, y, x, stop):  # type: ignore[no-untyped-def]
    """One run of voxels, in closed form; about the block's corner, so that nothing overflows on the way."""
    width = stop - x
    sx = width * (x + stop - 1) // 2
    own[0] += width
    own[1] += y * width
    own[2] += sx
    own[3] += y * y * width
    own[4] += (stop - 1) * stop * (2 * stop - 1) // 6 - (x - 1) * x * (2 * x - 1) // 6
    own[5] += y * sx
    own[7] = y + 1
    own[8] = min(own[8], x)
    own[9] = max(own[9], stop)


@njit(cache=True, nogil=True)
def _find_name(names, slots, label):  # type: ignore[no-untyped-def]
    """The slot of a label, or the empty one where it belongs."""
    mask = np.int64(len(slots) - 1)
    slot = np.int64((label * _MIX) >> _FOLD) & mask
    while slots[slot] >= 0 and names[slots[slot]] != label:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _find_pair(pairs, counts, slots, above, below, gap):  # type: ignore[no-untyped-def]
    mask = np.int64(len(slots) - 1)
    mixed = ((above * _MIX) ^ (below + np.uint64(gap))) * _MIX
    slot = np.int64(mixed >> _FOLD) & mask
    while slots[slot] >= 0:
        i = slots[slot]
        if pairs[i, 0] == above and pairs[i, 1] == below and counts[i, 0] == gap:
            break
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _grown_names(names, n, slots):  # type: ignore[no-untyped-def]
    larger = np.full(4 * len(slots), -1, np.int64)
    for i in range(n):
        larger[_find_name(names, larger, names[i])] = i
    return larger


@njit(cache=True, nogil=True)
def _grown_pairs(pairs, counts, m, slots):  # type: ignore[no-untyped-def]
    larger = np.full(4 * len(slots), -1, np.int64)
    for i in range(m):
        larger[_find_pair(pairs, counts, larger, pairs[i, 0], pairs[i, 1], counts[i, 0])] = i
    return larger


@njit(cache=True, nogil=True)
def _longer(table):  # type: ignore[no-untyped-def]
    return np.concatenate((table, np.empty_like(table)))
