"""Compiled parts of the scan: what each label has in a layer, and what lies above it there.

A word holds where 64 voxels differ from their neighbours in x, others where they differ from those one, two,
or more layers above. Runs of one label end where the first has a bit, and how many of a run's voxels have
another label so many layers earlier is a count of the bits of the others: most of a volume is seen by words
alone.

What is left is where a label begins below another one. Mostly that one fills the layers above: then the two
touch, and that is all. Else there are stretches of a few voxels with one label in each layer of the window.
They are counted by that column of labels first, and only then taken apart, once for every column there is.

The loops get plain arrays and never let them grow: they stop where a table is full, and are called again.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from overseg.kernels.rows import (
    RECENT,
    among,
    column_slot,
    empty_columns,
    is_full,
    more_columns,
    more_pairs,
    more_rows,
    pair_of,
    row_of,
    touching_of,
)
from overseg.kernels.words import differing, edges_of, listed, lowest, ones

_ONE = np.uint64(1)
_NO_ROW = np.uint64(2**63)


@njit(cache=True, nogil=True)
def tally(  # type: ignore[no-untyped-def]
    block, first, split, place, lanes, background, highest, layers, facing, touching, ends
):
    """Add the layers from `first` on to the rows; earlier layers are what lies above them.

    Parameters
    ----------
    block : ndarray of an unsigned integer, shape (n, y, x), C-contiguous
    first : int
    split : int
        What lies above a layer counts only if it is before this one.
    place : tuple of int
        (z, y, x) of the block's first voxel, small enough for moments about (0, 0) to fit int64.
    lanes : tuple of int
        0, 1, .. up to the layers that are looked at above each. Its length is compiled in, so that the loops
        over it are none.
    background : ndarray of uint64
        Labels that are no cells.
    highest : uint64
        The largest that is a label.
    layers, facing, touching : LayerRows, PairRows, PairRows
        Changed in place, and given back, as they may have to grow.
    ends : ndarray of int64, shape (3, 2)
        Changed in place: first row that is looked for and number of rows, of each table.

    Returns
    -------
    LayerRows
    PairRows
    PairRows
    bool
        Whether all are labels. If not, the rows are worth nothing.
    """
    nz, ny, nx = block.shape
    flat = block.reshape(-1)
    window = len(lanes)
    edges = np.empty((window, ny, (nx + 63) // 64), np.uint64)
    steps = np.zeros((2, window - 1, ny, edges.shape[2] + 1), np.uint64)
    places, rows = np.empty(nx + 4, np.int64), np.empty(nx, np.uint64)
    spans = np.empty(edges.shape[2], np.uint64)
    recent, pairs = np.empty(RECENT, np.int64), np.full(RECENT, -1, np.int64)
    columns = empty_columns(window)
    sums_of = _sums_up_to(place[2] + nx)
    for z in range(nz):
        at, here = z * ny * nx, z % window
        edges_of(flat, at, nx, edges[here])
        _steps(flat, z, nx, lanes, steps[1 - z % 2], steps[z % 2])
        if z < first:
            continue
        nearest = max(1, z - split + 1)
        recent[:] = -1
        y = 0
        while y < ny:
            if ends[0, 1] + nx > len(layers.label):
                layers = more_rows(layers, ends[0], nx)
            y = _own(
                flat, at, y, nx, lanes, nearest, (place[0] + z, place[1], place[2]), background, highest,
                edges[here], steps[z % 2], sums_of, places, rows, layers, ends[0], recent,
            )  # fmt: skip
            if y < 0:
                return layers, facing, touching, False
        y = 0
        while y < ny and nearest == 1:
            if is_full(touching, ends[2], nx):
                touching = more_pairs(touching, ends[2], nx)
            y = _touching(
                flat,
                z,
                y,
                nx,
                lanes,
                edges,
                steps,
                spans,
                places,
                place[0],
                background,
                touching,
                ends[2],
                pairs,
            )
        y = found = 0
        while y < ny:
            if found + nx > len(columns.voxels):
                columns = more_columns(columns, found, nx)
            y, found = _columns(
                flat, z, y, nx, lanes, edges, steps, spans, places, background, columns, found
            )
        ends[1, 0] = ends[1, 1]
        i = 0
        while i < found:
            if is_full(facing, ends[1], window):
                facing = more_pairs(facing, ends[1], window)
            if is_full(touching, ends[2], window):
                touching = more_pairs(touching, ends[2], window)
            i = _apart(i, found, lanes, nearest, place[0] + z, background, columns, facing, touching, ends)
    return layers, facing, touching, True


@njit(cache=True, nogil=True, _nrt=False)
def _steps(flat, z, nx, lanes, old, new):  # type: ignore[no-untyped-def]
    """Bits that say where a voxel differs from that 1, 2, .. layers above, from those of the layer before.

    One word more has all bits of its row. Where layers are too few nothing is written, nor was before.
    """
    _, ny, words = new.shape
    words -= 1
    plane = ny * nx
    for lag in range(1, len(lanes)):
        if lag > z:
            return
        at = z * plane
        for y in range(ny):
            some = np.uint64(0)
            for word in range(words):
                found = np.uint64(0)
                # Two that are equal to what lies between them are equal.
                if lag == 1 or new[0, y, word] | old[lag - 2, y, word]:
                    x = at + 64 * word
                    found = differing(flat, x, x - lag * plane, min(64, nx - 64 * word))
                new[lag - 1, y, word] = found
                some |= found
            new[lag - 1, y, words] = some
            at += nx


@njit(cache=True, nogil=True)
def _sums_up_to(n):  # type: ignore[no-untyped-def]
    """Sums of 0 .. x - 1 and of their squares, so that those over a run are differences."""
    table = np.zeros((n + 1, 2), np.int64)
    for x in range(n):
        table[x + 1, 0] = table[x, 0] + x
        table[x + 1, 1] = table[x, 1] + x * x
    return table


@njit(cache=True, nogil=True, _nrt=False)
def _own(  # type: ignore[no-untyped-def]
    flat, at, y, nx, lanes, nearest, corner, background, highest, edges, steps, sums_of, places, rows,
    layers, ends, recent,
):  # fmt: skip
    """Area, moments and box of every label of a layer, and what differs above, run by run, from row `y` on.

    Returns the row where the table is full, the number of rows when done, and -1 where a voxel is no label.
    """
    sums = layers[2]
    ny, words = edges.shape
    z, y0, x0 = corner
    while y < ny and ends[1] + nx <= len(layers[0]):
        # The first edge opens the row, and its end closes it.
        n = listed(edges[y, 0] & ~_ONE, 0, places, 0)
        for word in range(1, words):
            n = listed(edges[y, word], 64 * word, places, n)
        places[n] = nx
        n += 1
        if not _name(flat, at + y * nx, n, places, background, highest, layers, ends, recent, z, rows):
            return -1
        _add_runs(sums, n, places, rows, y0 + y, x0, sums_of)
        _add_differing(sums, n, places, rows, nearest, lanes, steps[:, y])
        y += 1
    return y


@njit(cache=True, nogil=True, _nrt=False)
def _name(flat, base, n, places, background, highest, layers, ends, recent, z, rows):  # type: ignore[no-untyped-def]
    """The row of each run's label, one that is none for background. Returns whether all are labels."""
    label, zs, sums, slots = layers
    at = np.uint64(base)
    some = len(background) > 0
    nothing = background[0] if some else np.uint64(0)
    for i in range(np.uint64(n)):
        name = np.uint64(flat[at])
        if name > highest:
            return False
        if (some and name == nothing) or (len(background) > 1 and among(background, name)):
            rows[i] = _NO_ROW
        else:
            rows[i] = row_of(label, zs, sums, slots, ends, recent, name, z)
        at = np.uint64(base) + np.uint64(places[i])
    return True


@njit(cache=True, nogil=True, _nrt=False)
def _add_runs(sums, n, places, rows, y, x0, sums_of):  # type: ignore[no-untyped-def]
    """Add the runs of a row, that begin where the one before ends, to their labels' rows."""
    x = np.uint64(x0)
    for i in range(np.uint64(n)):
        stop = np.uint64(x0) + np.uint64(places[i])
        row = rows[i]
        if row != _NO_ROW:
            width = np.int64(stop - x)
            sx = sums_of[stop, 0] - sums_of[x, 0]
            sums[row, 0] += width
            sums[row, 1] += y * width
            sums[row, 2] += sx
            sums[row, 3] += y * y * width
            sums[row, 4] += sums_of[stop, 1] - sums_of[x, 1]
            sums[row, 5] += y * sx
            sums[row, 6] = min(sums[row, 6], y)
            sums[row, 7] = max(sums[row, 7], y + 1)
            sums[row, 8] = min(sums[row, 8], np.int64(x))
            sums[row, 9] = max(sums[row, 9], np.int64(stop))
        x = stop


@njit(cache=True, nogil=True, _nrt=False)
def _add_differing(sums, n, places, rows, nearest, lanes, steps):  # type: ignore[no-untyped-def]
    """Add to the runs' labels how many voxels have another label so many layers above."""
    last = steps.shape[1] - 1
    some = np.uint64(0)
    for lag in range(nearest, len(lanes)):
        some |= steps[lag - 1, last]
    start = 0
    for i in range(n if some else 0):
        stop, row = places[i], rows[i]
        if row != _NO_ROW:
            for word in range(start >> 6, ((stop - 1) >> 6) + 1):
                inside = ~np.uint64(0) << np.uint64(max(start - 64 * word, 0))
                inside &= ~np.uint64(0) >> np.uint64(max(64 * (word + 1) - stop, 0))
                for lag in range(1, len(lanes)):
                    if lag >= nearest:
                        sums[row, 9 + lag] += ones(steps[lag - 1, word] & inside)
        start = stop


@njit(cache=True, nogil=True, _nrt=False)
def _touching(  # type: ignore[no-untyped-def]
    flat, z, y, nx, lanes, edges, steps, spans, places, top, background, touching, ends, recent
):
    """Count where a label begins below one that fills the layers above it, from row `y` on.

    Returns the row where the table is full, or the number of rows.
    """
    counts = touching.counts
    _, ny, words = edges.shape
    plane = ny * nx
    here, before = edges[z % len(lanes)], edges[(z - 1) % len(lanes)]
    while y < ny and not is_full(touching, ends, nx):
        n = 0
        for word in range(words if steps[z % 2, 0, y, words] else 0):
            bits = steps[z % 2, 0, y, word] & ~_mixed(steps[1 - z % 2], len(lanes), y, word)
            if bits:
                spans[word] = here[y, word] | before[y, word] | ~bits
                n = listed(bits & (spans[word] | ~(bits << _ONE)), 64 * word, places, n)
        base = z * plane + y * nx
        for i in range(n):
            x = places[i]
            below, above = np.uint64(flat[base + x]), np.uint64(flat[base + x - plane])
            if not (among(background, below) or among(background, above)):
                row = touching_of(touching, ends, recent, above, below)
                end = lowest((spans[x >> 6] >> np.uint64(x & 63)) >> _ONE) + 1
                counts[row, 2] += min(end, 64 - (x & 63), nx - x)
                counts[row, 3] = min(counts[row, 3], top + z - 1)
                counts[row, 4] = max(counts[row, 4], top + z - 1)
        y += 1
    return y


@njit(cache=True, nogil=True, _nrt=False)
def _mixed(above, lanes, y, word):  # type: ignore[no-untyped-def]
    """Where the layers above a layer have more than one label; `above`: steps of the one right above."""
    bits = np.uint64(0)
    for lag in range(lanes - 2):
        bits |= above[lag, y, word]
    return bits


@njit(cache=True, nogil=True, _nrt=False)
def _columns(  # type: ignore[no-untyped-def]
    flat, z, y, nx, lanes, edges, steps, spans, places, background, columns, found
):
    """Count the columns of labels that begin below several ones, and that are not background below.

    A layer above the first one is taken for a copy of the lowest: such a column says nothing of it.
    From row `y` on; returns the row where the table is full, or the number of rows, and the columns so far.
    """
    multipliers, labels, voxels, where, slots = columns
    _, ny, words = edges.shape
    plane = ny * nx
    some = len(background) > 0
    nothing = background[0] if some else np.uint64(0)
    while y < ny and found + nx <= len(voxels):
        n = 0
        for word in range(words if steps[z % 2, 0, y, words] else 0):
            bits = steps[z % 2, 0, y, word] & _mixed(steps[1 - z % 2], len(lanes), y, word)
            if bits:
                span = _ONE
                for lane in range(len(lanes)):
                    span |= edges[(z - (lane if lane <= z else 0)) % len(lanes), y, word]
                spans[word] = span
                n = listed(bits & span, 64 * word, places, n)
        base = z * plane + y * nx
        for i in range(n):
            x = places[i]
            for lane in range(len(lanes)):
                labels[found, lane] = flat[base + x - (lane if lane <= z else 0) * plane]
            if some and labels[found, 0] == nothing:
                continue
            column, slot = column_slot(labels, slots, multipliers, found, len(lanes))
            if column == found:
                slots[slot], where[found], voxels[found] = found, slot, 0
                found += 1
            end = lowest((spans[x >> 6] >> np.uint64(x & 63)) >> _ONE) + 1
            voxels[column] += min(end, 64 - (x & 63), nx - x)
        y += 1
    return y, found


@njit(cache=True, nogil=True, _nrt=False)
def _apart(  # type: ignore[no-untyped-def]
    i, found, lanes, nearest, z, background, columns, facing, touching, ends
):
    """Who faces or touches the lowest label in each column, from the `i`-th on; the column leaves the table.

    Returns the column where a table of pairs is full, or the number of columns.
    """
    _, labels, voxels, where, slots = columns
    while i < found and not (is_full(facing, ends[1], len(lanes)) or is_full(touching, ends[2], len(lanes))):
        slots[where[i]] = -1
        label = labels[i, 0]
        free = not among(background, label)
        for lag in range(1, len(lanes)):
            above = labels[i, lag]
            free &= above != label
            if free and lag >= nearest and not among(background, above) and _first(labels, i, lag):
                if lag > 1:
                    pair = pair_of(facing, ends[1], above, label, z - lag, lag - 1)
                    facing.counts[pair, 2] += voxels[i]
                else:
                    pair = pair_of(touching, ends[2], above, label, 0, 0)
                    counts = touching.counts
                    counts[pair, 2] += voxels[i]
                    counts[pair, 3] = min(counts[pair, 3], z - lag)
                    counts[pair, 4] = max(counts[pair, 4], z - lag)
        i += 1
    return i


@njit(cache=True, nogil=True, _nrt=False)
def _first(labels, i, lag):  # type: ignore[no-untyped-def]
    """Whether a label of the layer `lag` earlier comes not again in the layers between."""
    first = True
    for between in range(1, lag):
        first &= labels[i, between] != labels[i, lag]
    return first
