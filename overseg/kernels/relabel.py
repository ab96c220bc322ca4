"""Merges and fills in a block of voxels: in place, in one pass that also notes what was there before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from overseg.kernels.tables import Int, Labels
from overseg.kernels.words import differing, lowest

Voxels = npt.NDArray[np.integer[Any]]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbouring labels land far apart
_EMPTY = np.uint64(0)  # no label is renamed from 0
_ONE = np.uint64(1)
_WORD = 64  # voxels that are compared at once
_PIECE = 1 << 14  # voxels between two looks at the room for notes


@dataclass(frozen=True)
class Names:
    """Which labels become which, as a hash table with open addressing.

    Attributes
    ----------
    old, new : ndarray of uint64, shape (2^k,)
        At least every second place is empty: `old` is 0 there.
    final : bool
        No label of `new` is itself renamed.
    """

    old: Labels
    new: Labels
    final: bool


@dataclass(frozen=True)
class Runs:
    """Runs of voxels, along a block's flat C order, that changed and had one value.

    Attributes
    ----------
    starts, lengths : ndarray of int64, shape (n,)
        In order; the runs are disjoint.
    values : ndarray, shape (n,)
        What was there before, in the block's dtype.
    """

    starts: Int
    lengths: Int
    values: Voxels


@dataclass(frozen=True)
class Stretches:
    """Half-open ranges of a block's flat C order: rising, disjoint and not empty.

    Attributes
    ----------
    starts, stops : ndarray of int64, shape (n,)
    """

    starts: Int
    stops: Int


def names(old: Labels, new: Labels) -> Names:
    """The hash table of a renaming.

    Parameters
    ----------
    old, new : ndarray of uint64, shape (n,)
        `old` without duplicates, above 0.
    """
    size = 1 << max(1, int(2 * len(old) - 1).bit_length()) if len(old) else 2
    places, given = np.zeros((2, size), np.uint64), np.asarray(new, np.uint64)
    _insert(*places, np.asarray(old, np.uint64), given)
    return Names(places[0], places[1], bool(_none_renamed(*places, given)))


def edit(
    flat: Voxels, table: Names, inside: Stretches, fills: Stretches, labels: Labels, row: int = 1
) -> Runs:
    """Rename labels and fill stretches, in place.

    Parameters
    ----------
    flat : ndarray of integers, shape (n,)
        No value below 0; changed in place.
    table : Names
        Every label fits the dtype of `flat`.
    inside : Stretches
        Where labels are renamed.
    fills : Stretches
        These voxels take a label whatever they were, inside or not.
    labels : ndarray of uint64, shape (fills,)
        One per stretch of `fills`.
    row : int
        Voxels of a row of the block: one voxel is often like that in the row before. No result depends on it.

    Returns
    -------
    Runs
        Enough to put everything back: see `put_back`.
    """
    bare, spans = flat.view(f"u{flat.itemsize}"), (inside.starts, inside.stops, fills.starts, fills.stops)
    starts, lengths, values = _edit(bare, table.old, table.new, *spans, labels, row, table.final)
    return Runs(starts, lengths, values.astype(bare.dtype).view(flat.dtype))


def put_back(flat: Voxels, runs: Runs) -> None:
    """Give the runs of a flat array their values, in place."""
    _put(flat, runs.starts, runs.lengths, runs.values)


@njit(cache=True, nogil=True)
def _insert(old, new, keys, values):  # type: ignore[no-untyped-def]
    """Fill an empty hash table."""
    last = np.uint64(len(old) - 1)
    for i in range(len(keys)):
        place = (keys[i] * _SPREAD >> np.uint64(32)) & last
        while old[place] != _EMPTY:
            place = (place + _ONE) & last
        old[place] = keys[i]
        new[place] = values[i]


@njit(cache=True, nogil=True)
def _renamed(old, new, label):  # type: ignore[no-untyped-def]
    """The label's new name, or itself."""
    last = np.uint64(len(old) - 1)
    place = (label * _SPREAD >> np.uint64(32)) & last
    while old[place] != _EMPTY:
        if old[place] == label:
            return new[place]
        place = (place + _ONE) & last
    return label


@njit(cache=True, nogil=True)
def _none_renamed(old, new, labels):  # type: ignore[no-untyped-def]
    """Whether none of some labels has another name."""
    for label in labels:  # noqa: SIM110 (numba has no `all` of a generator)
        if _renamed(old, new, label) != label:
            return False
    return True


@njit(cache=True, nogil=True)
def _edit(voxels, old, new, starts, stops, fill_starts, fill_stops, labels, row, final):  # type: ignore[no-untyped-def]
    """From fill to fill: what lies inside before the next one is renamed, then that one is set."""
    notes = np.empty((3, 2 * _PIECE), np.uint64)
    # How far before a voxel another one tells of it, if nothing gets a label that is itself renamed.
    back = -(-_WORD // row) * row if final and _none_renamed(old, new, labels) else 0
    n, at, here = 0, 0, 0
    for fill in range(len(labels) + 1):
        end = fill_starts[fill] if fill < len(labels) else len(voxels)
        while here < len(starts) and starts[here] < end:
            first, last = max(at, starts[here]), min(end, stops[here])
            for piece in range(first, last, _PIECE):
                notes = _with_room(notes, n)
                until = min(piece + _PIECE, last)
                n = _rename(voxels, piece, until, starts[here], back, old, new, notes, n)
            if stops[here] > end:
                break
            here += 1
        if fill < len(labels):
            at = fill_stops[fill]
            for piece in range(end, at, _PIECE):
                notes = _with_room(notes, n)
                n = _set(voxels, piece, min(piece + _PIECE, at), labels[fill], notes, n)
    return notes[0, :n].astype(np.int64), notes[1, :n].astype(np.int64), notes[2, :n].copy()


@njit(cache=True, nogil=True)
def _rename(voxels, start, stop, first, back, old, new, notes, n):  # type: ignore[no-untyped-def]
    """Rename within a stretch that began at `first`, a word at a time.

    A label is looked up where a run of it begins, unless it also lies `back` voxels before: there it was
    looked up, and as it is still there it is not renamed. Nothing is known so if `back` is 0.
    """
    for at in range(start, stop, _WORD):
        size = min(_WORD, stop - at)
        begins = differing(voxels, at, at - 1, size) if at else differing(voxels, 1, 0, size - 1) << _ONE
        if at == first or back == 0:
            begins |= _ONE
        asked = begins
        if back and at - back >= first:
            asked &= differing(voxels, at, at - back, size)
        while asked:
            k = lowest(asked)
            asked &= asked - _ONE
            label = np.uint64(voxels[at + k])
            name = _renamed(old, new, label)
            if name != label:
                # A run that goes on in the next word begins there anew: it differs from this one's new name.
                end = min(k + 1 + lowest(begins >> np.uint64(k) >> _ONE), size)
                n = _change(voxels, at + k, at + end, name, notes, n)
    return n


@njit(cache=True, nogil=True)
def _set(voxels, start, stop, name, notes, n):  # type: ignore[no-untyped-def]
    """Give a stretch one label."""
    begin = start
    for at in range(start + 1, stop + 1):
        if at == stop or voxels[at] != voxels[begin]:
            if voxels[begin] != name:
                n = _change(voxels, begin, at, name, notes, n)
            begin = at
    return n


@njit(cache=True, nogil=True)
def _change(voxels, start, stop, name, notes, n):  # type: ignore[no-untyped-def]
    """Note a run and give it its name; one that goes on from the last one is added to it."""
    begin, length, label = np.uint64(start), np.uint64(stop - start), np.uint64(voxels[start])
    if n and notes[0, n - 1] + notes[1, n - 1] == begin and notes[2, n - 1] == label:
        notes[1, n - 1] += length
    else:
        notes[0, n], notes[1, n], notes[2, n] = begin, length, label
        n += 1
    voxels[start:stop] = name
    return n


@njit(cache=True, nogil=True)
def _with_room(notes, n):  # type: ignore[no-untyped-def]
    """The notes with room for one run per voxel of a piece."""
    if n + _PIECE <= notes.shape[1]:
        return notes
    result = np.empty((3, 2 * notes.shape[1]), np.uint64)
    result[:, :n] = notes[:, :n]
    return result


@njit(cache=True, nogil=True)
def _put(flat, starts, lengths, values):  # type: ignore[no-untyped-def]
    for i in range(len(starts)):
        flat[starts[i] : starts[i] + lengths[i]] = values[i]
