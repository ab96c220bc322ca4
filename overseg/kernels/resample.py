"""Two touching labels, sliced anew parallel to the plane between them.

A tilted or rugged cut cannot be judged in the volume's own layers. Here the box around the pair is looked at
in layers parallel to the contact's plane, one finest voxel spacing apart. What is interpolated is not labels
but distances to their borders (Raya & Udupa, IEEE Trans. Med. Imaging 9:32, 1990), so that coarse layers
leave no strips and borders lie between voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import InputError

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer]
Field = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
Size = tuple[float, float, float]
Faces = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]

CLOSED: Faces = ((False, False),) * 3
"""No face of the box behind which the mask goes on."""


@dataclass(frozen=True)
class Sections:
    """Cross-sections of a pair of labels, parallel to the plane between them.

    Parameters
    ----------
    inside : ndarray of float32, shape (layers, rows, columns)
        Signed distance to the border of A and B together, positive inside, in physical units.
    side : ndarray of float32, shape (layers, rows, columns)
        Distance to B minus distance to A, in physical units; positive on A's side. A is where both `inside`
        and `side` are positive.
    spacing : float
        Between layers, rows and columns alike, in physical units.
    zero : float
        Where the contact is among the layers: layer i lies (i - zero) * spacing beyond it, towards B.
    """

    inside: Field
    side: Field
    spacing: float
    zero: float


# ------------------------------------------------------------------ distances


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _along_rows(mask: Mask, size: float, far: float, out: Field) -> None:
    """Squared distance to the mask within each row."""
    n = mask.shape[2]
    for z in range(mask.shape[0]):
        for y in range(mask.shape[1]):
            last = -1
            for x in range(n):
                last = x if mask[z, y, x] else last
                out[z, y, x] = far if last < 0 else (size * (x - last)) ** 2
            last = -1
            for x in range(n - 1, -1, -1):
                last = x if mask[z, y, x] else last
                if last >= 0:
                    out[z, y, x] = min(out[z, y, x], np.float32((size * (last - x)) ** 2))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _across(slab: Field, size: float) -> None:
    """Lower envelope, along the first axis, of the parabolas that stand on a slab's values; in place."""
    n, square = slab.shape[0], size * size
    given, first, apex = np.empty(n), np.empty(n + 1), np.empty(n, np.int64)
    for x in range(slab.shape[1]):
        given[:] = slab[:, x]
        top, apex[0], first[0] = 0, 0, -np.inf
        for q in range(1, n):
            # Parabola q is the lowest from where it meets the one before; one that is then never lowest goes.
            while True:
                p = apex[top]
                start = (given[q] - given[p] + square * (q * q - p * p)) / (2 * square * (q - p))
                if start > first[top]:
                    break
                top -= 1
            top += 1
            apex[top], first[top] = q, start
        first[top + 1] = np.inf
        top = 0
        for q in range(n):
            while first[top + 1] < q:
                top += 1
            slab[q, x] = given[apex[top]] + square * (q - apex[top]) ** 2


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _squares(mask: Mask, size: Float, far: float, out: Field) -> None:
    """Squared distance from each centre to the nearest centre in the mask; `far` if there is none."""
    _along_rows(mask, size[2], far, out)
    for z in range(mask.shape[0]):
        _across(out[z], size[1])
    for y in range(mask.shape[1]):
        _across(out[:, y], size[0])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _to_border(square: float, half: float) -> float:
    distance: float = max(math.sqrt(square) - half, 0.0)
    return distance


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _wall(z: float, y: float, x: float, shape: tuple[int, int, int], size: Float, goes_on: Mask) -> float:
    """Signed distance of a place, in voxels, to the box's faces; inside, to those with nothing behind."""
    near, beyond = np.inf, 0.0
    for axis, place in enumerate((z, y, x)):
        for end in range(2):
            depth = (place + 0.5 if end == 0 else shape[axis] - 0.5 - place) * size[axis]
            if depth < 0:
                beyond += depth * depth
            elif not goes_on[axis, end]:
                near = min(near, depth)
    return -math.sqrt(beyond) if beyond > 0 else near


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _signed(inner: Field, outer: Field, size: Float, goes_on: Mask) -> None:
    """From squared distances to what is outside (`inner`) and to the mask (`outer`); into `inner`."""
    half = size.min() / 2
    for z in range(inner.shape[0]):
        for y in range(inner.shape[1]):
            for x in range(inner.shape[2]):
                value = _to_border(inner[z, y, x], half) - _to_border(outer[z, y, x], half)
                inner[z, y, x] = min(value, _wall(z, y, x, inner.shape, size, goes_on))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sided(to_a: Field, to_b: Field, half: float) -> None:
    """From squared distances to A and to B: the lesser of them into `to_b`, their difference into `to_a`."""
    a, b = to_a.ravel(), to_b.ravel()
    for i in range(a.size):
        side = _to_border(b[i], half) - _to_border(a[i], half)
        b[i] = min(a[i], b[i])
        a[i] = side


def _squared_distance(mask: Mask, size: Float) -> Field:
    out = np.empty(mask.shape, np.float32)
    extent = np.array(mask.shape) * size
    _squares(np.ascontiguousarray(mask), size, float(extent[0] ** 2 + extent[1] ** 2 + extent[2] ** 2), out)
    return out


def signed_distance(mask: Mask, voxel_size: Size, goes_on: Faces = CLOSED) -> Field:
    """Distance of each voxel's centre to the border of a mask, positive inside.

    Parameters
    ----------
    mask : ndarray of bool, shape (z, y, x)
    voxel_size : tuple of float
        (z, y, x), in physical units.
    goes_on : tuple of pairs of bool
        For each axis, whether the mask goes on behind the first and behind the last layer. Elsewhere the box
        ends the mask.

    Returns
    -------
    ndarray of float32, shape (z, y, x)
        In physical units. At most the box's diagonal, so finite for a mask that is empty or fills the box.

    Notes
    -----
    Exact Euclidean distances between centres (separable, by Felzenszwalb & Huttenlocher, Theory of Computing
    8:415, 2012), less half the finest spacing: the border is midway between a voxel inside and one outside.
    That half is the same in all directions. Half the spacing along the way would make borders that run at an
    angle to coarse layers follow the steps of the voxels; so does a distance to the voxels' faces.
    """
    size, walls = np.array(voxel_size, np.float64), np.array(goes_on, bool)
    inner, outer = _squared_distance(~mask, size), _squared_distance(mask, size)
    _signed(inner, outer, size, walls)
    return inner


# ------------------------------------------------------------------ sampling


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _cell(place: float, n: int) -> tuple[int, int, float]:
    """Voxels on both sides of a place, and its share of the second; outside, the last voxel."""
    place = min(max(place, 0.0), n - 1.0)
    low = int(place)
    return low, min(low + 1, n - 1), place - low


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _between(field: Field, z: float, y: float, x: float) -> float:
    z0, z1, fz = _cell(z, field.shape[0])
    y0, y1, fy = _cell(y, field.shape[1])
    x0, x1, fx = _cell(x, field.shape[2])
    a = (1 - fx) * field[z0, y0, x0] + fx * field[z0, y0, x1]
    b = (1 - fx) * field[z0, y1, x0] + fx * field[z0, y1, x1]
    c = (1 - fx) * field[z1, y0, x0] + fx * field[z1, y0, x1]
    d = (1 - fx) * field[z1, y1, x0] + fx * field[z1, y1, x1]
    value: float = (1 - fz) * ((1 - fy) * a + fy * b) + fz * ((1 - fy) * c + fy * d)
    return value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sample(
    fields: tuple[Field, Field],
    size: Float,
    goes_on: Mask,
    point: Float,
    axes: Float,
    spacing: float,
    out: tuple[Field, Field],
) -> None:
    layers, rows, columns = out[0].shape
    for i in range(layers):
        for j in range(rows):
            for k in range(columns):
                # Steps from the middle: a plane looked at from behind has the same points to the bit.
                p, q, r = (i - layers // 2) * spacing, (j - rows // 2) * spacing, (k - columns // 2) * spacing
                z = (point[0] + ((p * axes[0, 0] + r * axes[2, 0]) + q * axes[1, 0])) / size[0]
                y = (point[1] + ((p * axes[0, 1] + r * axes[2, 1]) + q * axes[1, 1])) / size[1]
                x = (point[2] + ((p * axes[0, 2] + r * axes[2, 2]) + q * axes[1, 2])) / size[2]
                wall = _wall(z, y, x, fields[0].shape, size, goes_on)
                out[0][i, j, k] = min(_between(fields[0], z, y, x), wall)
                out[1][i, j, k] = _between(fields[1], z, y, x)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def crossings(inside: Field, side: Field) -> tuple[int, float]:
    """Columns along the normal that go from A to B within the pair, net of returns, and their mean layer.

    Parameters
    ----------
    inside, side : ndarray of float32, shape (layers, rows, columns)
        As of `Sections`.

    Returns
    -------
    columns : int
    place : float
        Layer in which `side` turns negative, returns counted against it; the middle one if no column crosses.
    """
    total, net = 0.0, 0
    for i in range(inside.shape[0] - 1):
        for j in range(inside.shape[1]):
            for k in range(inside.shape[2]):
                this, following = side[i, j, k], side[i + 1, j, k]
                if (this > 0) == (following > 0):
                    continue
                share = this / (this - following)
                if (1 - share) * inside[i, j, k] + share * inside[i + 1, j, k] > 0:
                    sign = 1 if this > 0 else -1
                    total += sign * (i + share)
                    net += sign
    if net <= 0:
        return 0, (inside.shape[0] - 1) / 2
    return net, min(max(total / net, 0.0), inside.shape[0] - 1.0)


def plane_axes(normal: tuple[float, float, float] | Float) -> Float:
    """Unit vectors of layers, rows and columns for a plane.

    Rows follow the volume's axis that is nearest to the plane (the last of equals), so they are the same for
    a normal and its opposite; columns are at right angles to both.

    Parameters
    ----------
    normal : sequence of float, shape (3,)
        (z, y, x) in physical units, of any length but zero.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        One vector (z, y, x) a row: the normal, along rows' index, along columns' index.

    Raises
    ------
    InputError
        If the normal has no direction.
    """
    z, y, x = (float(part) for part in normal)
    length = math.sqrt(z * z + y * y + x * x)
    if not 0 < length < math.inf:
        raise InputError("a plane needs a normal of some length", where=f"normal ({z}, {y}, {x})")
    n = (z / length, y / length, x / length)
    axis = min((2, 1, 0), key=lambda k: abs(n[k]))
    u = [float(k == axis) - n[axis] * n[k] for k in range(3)]
    length = math.sqrt(u[0] * u[0] + u[1] * u[1] + u[2] * u[2])
    u = [part / length for part in u]
    v = (n[1] * u[2] - n[2] * u[1], n[2] * u[0] - n[0] * u[2], n[0] * u[1] - n[1] * u[0])
    return np.array([n, u, v])


def grid_shape(depth: float, radius: float, spacing: float) -> tuple[int, int, int]:
    """Layers, rows and columns that reach `depth` and `radius` (physical units) to either side."""
    along, across = math.ceil(depth / spacing), math.ceil(radius / spacing)
    return 2 * along + 1, 2 * across + 1, 2 * across + 1


def pair_fields(
    box: Labels, a: int, b: int, voxel_size: Size, goes_on: Faces = CLOSED
) -> tuple[Field, Field]:
    """The fields `inside` and `side` of `Sections` at the voxels of a box; parameters as for `reslice`."""
    size = np.array(voxel_size, np.float64)
    mask_a, mask_b = box == a, box == b
    if not mask_a.any() or not mask_b.any():
        raise InputError("both labels must have voxels in the box", where=f"labels {a} and {b}")
    to_a, to_b = _squared_distance(mask_a, size), _squared_distance(mask_b, size)
    np.logical_or(mask_a, mask_b, out=mask_a)
    inner = _squared_distance(np.logical_not(mask_a, out=mask_a), size)
    _sided(to_a, to_b, float(size.min()) / 2)
    _signed(inner, to_b, size, np.array(goes_on, bool))
    return inner, to_a


def reslice(
    box: Labels,
    a: int,
    b: int,
    voxel_size: Size,
    point: tuple[float, float, float] | Float,
    normal: tuple[float, float, float] | Float,
    depth: float,
    radius: float,
    goes_on: Faces = CLOSED,
) -> Sections:
    """Cut a pair of labels into layers parallel to the plane between them.

    Parameters
    ----------
    box : ndarray of integer, shape (z, y, x)
        Labels around the pair. Distances are to what the box holds, so give all of both cells that matters.
    a, b : int
        The labels.
    voxel_size : tuple of float
        (z, y, x), in physical units. Its least is the spacing of the result.
    point : sequence of float, shape (3,)
        On the plane, (z, y, x) in physical units from the centre of the box's first voxel. In the middle of
        the result.
    normal : sequence of float, shape (3,)
        Of the plane, (z, y, x) in physical units, from A to B.
    depth, radius : float
        How far to go along the normal and within the plane, to either side, in physical units.
    goes_on : tuple of pairs of bool
        As for `signed_distance`: the volume's border, where it is not known that a cell ends. Points out of
        the box count as outside all the same.

    Returns
    -------
    Sections
        Its `zero` is the mean place at which `side` turns negative within the pair, over all columns along
        the normal (returns to A counted against it); that of the given plane if no column crosses.

    Raises
    ------
    InputError
        If a label has no voxel in the box, or the normal no length.

    Notes
    -----
    Exchanging the labels and turning the normal round mirrors layers and columns, to the bit.
    """
    axes, spacing = plane_axes(normal), float(min(voxel_size))
    fields = pair_fields(box, a, b, voxel_size, goes_on)
    shape = grid_shape(depth, radius, spacing)
    out = np.empty(shape, np.float32), np.empty(shape, np.float32)
    size, start = np.array(voxel_size, np.float64), np.array(point, np.float64)
    _sample(fields, size, np.array(goes_on, bool), start, axes, spacing, out)
    _, zero = crossings(*out)
    return Sections(*out, spacing, zero)


def peak_bytes(shape: tuple[int, int, int], depth: float, radius: float, spacing: float) -> int:
    """Memory that `reslice` takes at its peak, its result included and the box of labels not.

    Parameters
    ----------
    shape : tuple of int
        Of the box (z, y, x).
    depth, radius, spacing : float
        As for `reslice`; the spacing is the least voxel size.

    Returns
    -------
    int
        Three fields and two masks at the box's voxels, or two fields there and two at the points of the
        result; and a little for single columns.
    """
    voxels, points = math.prod(shape), math.prod(grid_shape(depth, radius, spacing))
    return max(14 * voxels, 8 * voxels + 8 * points) + 24 * max(shape) + 2**14
