"""Small images of one layer, voxel by voxel: outlines, windings, pieces, depths. All of it is exact."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]

FINE = 256
"""Positions on displaced outlines are multiples of 1 / FINE of a voxel."""


def fill_holes(mask: Mask) -> Mask:
    """A mask without its holes: background that an outline of (diagonally) touching voxels encloses.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)

    Returns
    -------
    ndarray of bool, shape (y, x)
    """
    filled: Mask = solid(np.ascontiguousarray(mask, bool))
    return filled


def outline(mask: Mask) -> tuple[Int, Int]:
    """Outer outlines of a mask along the edges of its voxels, without those of holes.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)
        Diagonal neighbours belong together.

    Returns
    -------
    corners : ndarray of int64, shape (n, 2)
        Corners (y, x) of voxels, one step of length 1 after the other; voxel (i, j) has the corners (i, j) to
        (i + 1, j + 1).
    start : ndarray of int64, shape (loops + 1,)
        Loop i is ``corners[start[i]:start[i + 1]]``, closed; in C order of the first corners.
    """
    corners, start = trace(np.ascontiguousarray(mask, bool))
    return corners, start


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def solid(image: Mask) -> Mask:
    """`fill_holes` for compiled callers."""
    corners, start = trace(image)
    return wind(corners * FINE, start, image.shape[0], image.shape[1])  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def trace(image: Mask) -> tuple[Int, Int]:
    """`outline` for compiled callers."""
    height, width = image.shape[0] + 2, image.shape[1] + 2
    mask = np.zeros((height, width), np.bool_)
    mask[1:-1, 1:-1] = image
    seen = np.zeros((height, width), np.bool_)  # voxels whose upper edge is on a traced loop
    corners = np.empty((_edges(mask), 2), np.int64)
    starts = [0]
    n = 0
    for y0 in range(1, height - 1):
        for x0 in range(1, width - 1):
            if not mask[y0, x0] or mask[y0 - 1, x0] or seen[y0, x0]:
                continue
            first, doubled_area = n, 0
            y, x, dy, dx = y0, x0, 0, 1  # along the upper edge, mask to the right
            while True:
                if dx == 1:
                    if seen[y, x]:
                        break
                    seen[y, x] = True
                corners[n, 0], corners[n, 1] = y - 1, x - 1
                n += 1
                doubled_area += x * dy - y * dx
                y, x = y + dy, x + dx
                # The voxels ahead, to the left and to the right of the way.
                left = mask[y + (dy - dx - 1) // 2, x + (dx + dy - 1) // 2]
                right = mask[y + (dy + dx - 1) // 2, x + (dx - dy - 1) // 2]
                if left:
                    dy, dx = -dx, dy
                elif not right:
                    dy, dx = dx, -dy
            if doubled_area > 0:
                starts.append(n)
            else:
                n = first  # the rim of a hole
    return corners[:n].copy(), np.array(starts)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def perimeter(image: Mask) -> int:
    """Edges between voxels of a mask (y, x) and others, those of the image's border and of holes included."""
    mask = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.bool_)
    mask[1:-1, 1:-1] = image
    return _edges(mask)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _edges(mask: Mask) -> int:
    # Edges between mask and background; the mask does not touch the image's border.
    n = 0
    for y in range(1, mask.shape[0]):
        for x in range(1, mask.shape[1]):
            n += (mask[y, x] != mask[y - 1, x]) + (mask[y, x] != mask[y, x - 1])
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def wind(points: Int, start: Int, height: int, width: int) -> Mask:
    """Voxels round whose centres closed lines wind.

    Parameters
    ----------
    points : ndarray of int64, shape (n, 2)
        Corners (y, x) of the lines in units of 1 / FINE of a voxel.
    start : ndarray of int64, shape (loops + 1,)
        As of `outline`.
    height, width : int
        Of the image.

    Returns
    -------
    ndarray of bool, shape (height, width)
        Where the winding number is not 0.
    """
    turns = np.zeros((height, width + 1), np.int64)
    half = FINE // 2
    for k in range(start.size - 1):
        for i in range(start[k], start[k + 1]):
            j = i + 1 if i + 1 < start[k + 1] else start[k]
            y0, x0, y1, x1, sign = points[i, 0], points[i, 1], points[j, 0], points[j, 1], 1
            if y0 > y1:
                y0, x0, y1, x1, sign = y1, x1, y0, x0, -1
            for row in range(max(-((half - y0) // FINE), 0), min(-((half - y1) // FINE), height)):
                # First centre at or after the crossing of this row.
                over = (x0 - half) * (y1 - y0) + (x1 - x0) * (row * FINE + half - y0)
                column = -(-over // (FINE * (y1 - y0)))
                turns[row, min(max(column, 0), width)] += sign
    out = np.zeros((height, width), np.bool_)
    for row in range(height):
        depth = 0
        for column in range(width):
            depth += turns[row, column]
            out[row, column] = depth != 0
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def draw(points: Int, start: Int, out: Mask) -> None:
    """Set every voxel that closed lines pass (as of `wind`), so that each line is connected."""
    for k in range(start.size - 1):
        for i in range(start[k], start[k + 1]):
            j = i + 1 if i + 1 < start[k + 1] else start[k]
            dy, dx = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1]
            steps = max(abs(dy), abs(dx)) // FINE + 1
            for s in range(steps):
                y, x = (points[i, 0] + dy * s // steps) // FINE, (points[i, 1] + dx * s // steps) // FINE
                out[min(max(y, 0), out.shape[0] - 1), min(max(x, 0), out.shape[1] - 1)] = True


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def pieces(mask: Mask, diagonal: bool) -> tuple[Int, int]:
    """Number the connected pieces of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)
    diagonal : bool
        Whether voxels that share a corner only are connected.

    Returns
    -------
    number : ndarray of int64, shape (y, x)
        1 .. n in C order of the pieces' first voxels; 0 outside.
    n : int
    """
    height, width = mask.shape
    there = np.zeros((height + 2, width + 2), np.bool_)
    there[1:-1, 1:-1] = mask
    row, inside = width + 2, there.ravel()
    near = np.array([-1, 1, -row, row, -row - 1, -row + 1, row - 1, row + 1])[: 8 if diagonal else 4]
    number, stack = np.zeros(inside.size, np.int64), np.empty(inside.size, np.int64)
    n = 0
    for first in range(row, inside.size - row):
        if not inside[first] or number[first] != 0:
            continue
        n += 1
        number[first], stack[0], size = n, first, 1
        while size > 0:
            size -= 1
            at = stack[size]
            for step in near:
                if inside[at + step] and number[at + step] == 0:
                    number[at + step], stack[size] = n, at + step
                    size += 1
    return number.reshape(there.shape)[1:-1, 1:-1].copy(), n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def squared_depth(mask: Mask) -> Int:
    """Squared distance of every voxel to the nearest one outside the mask; beyond the image all is outside.

    Column by column, then along the rows the lower envelope of parabolas, in integers (Meijster et al.,
    Mathematical Morphology and its Applications to Image and Signal Processing, 2000).

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)

    Returns
    -------
    ndarray of int64, shape (y, x)
    """
    height, width = mask.shape
    out = np.zeros((height, width), np.int64)
    for x in range(width):
        way = 0
        for y in range(height):
            way = way + 1 if mask[y, x] else 0
            out[y, x] = way
        way = 0
        for y in range(height - 1, -1, -1):
            way = way + 1 if mask[y, x] else 0
            out[y, x] = min(out[y, x], way)
    line = np.zeros(width + 2, np.int64)  # squared, with the outside at both ends
    apex, begin = np.zeros(width + 2, np.int64), np.zeros(width + 2, np.int64)
    for y in range(height):
        low, high = width, -1  # the row's part of the mask; the outside on either side of it is near enough
        for x in range(width):
            line[x + 1] = out[y, x] * out[y, x]
            if mask[y, x]:
                low, high = min(low, x), x
        last = _envelope(line, low, high + 3, apex, begin)
        for x in range(high + 2, low, -1):
            if x <= high + 1:
                out[y, x - 1] = _parabola(line, apex[last], x)
            if x == begin[last]:
                last -= 1
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _envelope(line: Int, first: int, after: int, apex: Int, begin: Int) -> int:
    # Lower envelope of a line's parabolas from `first` up to before `after`: the apex and the beginning of
    # each that is part of it, from left to right. Gives the place of the last one.
    last = 0
    apex[0] = begin[0] = first
    for u in range(first + 1, after):
        while last >= 0 and _parabola(line, apex[last], begin[last]) > _parabola(line, u, begin[last]):
            last -= 1
        if last < 0:
            last = 0
            apex[0], begin[0] = u, first
            continue
        v = apex[last]
        meet = 1 + (u * u - v * v + line[u] - line[v]) // (2 * (u - v))
        if meet < after:
            last += 1
            apex[last], begin[last] = u, meet
    return last


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _parabola(line: Int, apex: int, x: int) -> int:
    return (x - apex) * (x - apex) + line[apex]  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def squared_distance(mask: Mask) -> Int:
    """Squared distance of every voxel to the nearest one of the mask; beyond the image there is none.

    As `squared_depth`; without a mask at least the square of the image's height and width together.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)

    Returns
    -------
    ndarray of int64, shape (y, x)
    """
    height, width = mask.shape
    far = height + width
    out = np.empty((height, width), np.int64)
    for x in range(width):
        way = far
        for y in range(height):
            way = 0 if mask[y, x] else min(way + 1, far)
            out[y, x] = way
        way = far
        for y in range(height - 1, -1, -1):
            way = 0 if mask[y, x] else min(way + 1, far)
            out[y, x] = min(out[y, x], way)
    line, apex, begin = np.zeros(width, np.int64), np.zeros(width, np.int64), np.zeros(width, np.int64)
    for y in range(height):
        for x in range(width):
            line[x] = out[y, x] * out[y, x]
        last = _envelope(line, 0, width, apex, begin)
        for x in range(width - 1, -1, -1):
            out[y, x] = _parabola(line, apex[last], x)
            if x == begin[last]:
                last -= 1
    return out
