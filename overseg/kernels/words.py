"""Sixty-four voxels at a time: where neighbours differ, as the bits of a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_ONE = np.uint64(1)


@intrinsic  # type: ignore[untyped-decorator]
def _differ64(_typing: Any, array: Any, i: Any, j: Any) -> Any:
    """Word whose bit k says whether voxels i + k and j + k of a C-contiguous array differ.

    numba's own vectoriser finds no such reduction; this is one compare per vector register on any machine.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector = ir.VectorType(context.get_data_type(array.dtype), 64)
        one, other = (
            builder.load(
                builder.bitcast(builder.gep(data, [at]), vector.as_pointer()), align=array.dtype.bitwidth // 8
            )
            for at in args[1:]
        )
        return builder.bitcast(builder.icmp_unsigned("!=", one, other), ir.IntType(64))

    return types.uint64(array, types.int64, types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def lowest(_typing: Any, word: Any) -> Any:
    """Number of the lowest bit that is set; 64 where none is."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@intrinsic  # type: ignore[untyped-decorator]
def ones(_typing: Any, word: Any) -> Any:
    """How many bits are set."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), build


@njit(cache=True, nogil=True, _nrt=False)
def differing(voxels, i, j, n):  # type: ignore[no-untyped-def]
    """Where the `n` <= 64 voxels from `i` differ from those from `j`, as bits; nothing beyond is touched.

    Parameters
    ----------
    voxels : ndarray of an unsigned integer, shape (any,), C-contiguous
    i, j : int64
        Places in the array, `j` <= `i`.
    n : int64

    Returns
    -------
    uint64
    """
    if n == 64:
        return _differ64(voxels, i, j)
    if n > 0 and j >= 64 - n:
        # The same voxels at the upper end of the word, and others, which fall out, before them.
        return _differ64(voxels, i + n - 64, j + n - 64) >> np.uint64(64 - n)
    word = np.uint64(0)
    for k in range(n):
        if voxels[i + k] != voxels[j + k]:
            word |= _ONE << np.uint64(k)
    return word


@njit(cache=True, nogil=True, _nrt=False)
def edges_of(voxels, at, nx, edges):  # type: ignore[no-untyped-def]
    """Bits that say where a voxel differs from the one before it in its row; the first one always does.

    Parameters
    ----------
    voxels : ndarray of an unsigned integer, shape (any,), C-contiguous
    at : int64
        Place of the first row.
    nx : int64
        Voxels of a row.
    edges : ndarray of uint64, shape (rows, words)
        Written.
    """
    ny, words = edges.shape
    for y in range(ny):
        edges[y, 0] = (differing(voxels, at + 1, at, min(64, nx) - 1) << _ONE) | _ONE
        for word in range(1, words):
            x = at + 64 * word
            edges[y, word] = differing(voxels, x, x - 1, min(64, nx - 64 * word))
        at += nx


@njit(cache=True, nogil=True, _nrt=False)
def listed(word, offset, places, n):  # type: ignore[no-untyped-def]
    """Write the places of the bits that are set after the first `n` places; how many there are now.

    Four at a time, needed or not: a loop that ends after a bit or two would be mispredicted each time.

    Parameters
    ----------
    word : uint64
    offset : int64
        Place of bit 0.
    places : ndarray of int64
        With room for four more than are needed.
    n : int64
    """
    end = n + ones(word)
    while n < end:
        for _ in range(4):
            places[n] = offset + lowest(word)
            word &= word - _ONE
            n += 1
    return end
