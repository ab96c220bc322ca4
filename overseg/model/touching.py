"""Features of two labels that touch, from tables alone: would both be one cell?

Everything is a ratio: areas over areas, lengths over the radius of a ball of the joined cell's volume. The
two labels are treated alike, so that their names do not matter. Three things tell a cut cell from two cells:
how the contact fills the cross-section of the joined body; whether joining makes the shape simpler; and the
*ring*: a neighbour that touches both parts of a cut cell has one smooth facet that runs on across the cut,
while between two true cells the facets meet at an angle. The ring is ours; the other ideas are in
docs/methods.md with their sources.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.bodies import Bodies, Neighbours, Patches, Triple, bodies, corners_of, patches
from overseg.kernels.solids import Solids
from overseg.kernels.symmetric import along, determinant, dot, eigen
from overseg.kernels.tables import Int, Labels

Float = npt.NDArray[np.float64]
Spans = tuple[tuple[int, int], ...]

_CONTACT = (
    "area_over_section", "area_over_own_low", "area_over_own_high", "offset", "reach_low", "reach_high",
    "flatness", "thickness", "roundness", "compactness", "over_surface_low", "over_surface_high",
    "over_union", "contact_faces",
)  # fmt: skip
_SHAPE = (
    "fill", "fill_low", "fill_high", "fill_gain", "sphericity", "sphericity_low", "sphericity_high",
    "sphericity_gain", "long", "flat", "elongation_low", "elongation_high", "ratio", "smaller_voxels", "bare",
    "edges_low", "edges_high",
)  # fmt: skip
_PLACE = (
    "along_line", "along_axis", "lateral_low", "lateral_high", "lateral", "distance", "spread_low",
    "spread_high",
)  # fmt: skip
_RING = (
    "ring", "ring_cosine", "ring_quarter", "ring_straight", "ring_turn", "ring_whole", "ring_weight",
    "joined_over_neighbours", "smaller_over_neighbours", "larger_over_neighbours", "rank_low", "rank_high",
    "neighbours_low", "neighbours_high",
)  # fmt: skip
TOUCHING = (*_CONTACT, *_SHAPE, *_PLACE, *_RING)

_LEAST = 1e-3  # keeps logarithms of ratios finite
_FEW = 4096.0  # more voxels than this tell nothing more about how well a shape is known
_TINY = 1e-300
_SAME = 1e-9  # what differs by less than this part is the same but for rounding
_NOISE = 1e-12  # variances below this part of the largest are rounding


def touching_features(around: Neighbours, a: Labels, b: Labels, voxel_size: Triple, box: Spans) -> Float:
    """Features of pairs of touching labels.

    Parameters
    ----------
    around : Neighbours
        With all contacts of all `a` and `b`.
    a, b : ndarray of uint64, shape (n,)
        Pairs that touch.
    voxel_size : tuple of float
        (z, y, x).
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned: a label that reaches its faces may go on there.

    Returns
    -------
    ndarray of float64, shape (n, F)
        Columns `TOUCHING`, all finite. A row depends on its own cells and contacts alone.
    """
    solids = around.solids
    cells = bodies(solids, voxel_size)
    surfaces = patches(around.touches, corners_of(solids, around.touches.a), voxel_size)
    edges = edges_of(solids, box)
    out = np.zeros((len(a), len(TOUCHING)))
    _features(
        solids.index(a),
        solids.index(b),
        tuple(_arrays(cells)),
        edges.astype(np.float64),
        around.start,
        solids.index(around.touches.b),
        tuple(_arrays(surfaces)),
        out,
    )
    return out


def edges_of(solids: Solids, box: Spans) -> Int:
    """How many faces of a box each label reaches: it may go on there.

    Parameters
    ----------
    solids : Solids
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x).

    Returns
    -------
    ndarray of int64, shape (m,)
    """
    low, high = np.array(box, np.int64).T
    edges: Int = (solids.box[:, ::2] <= low).sum(axis=1) + (solids.box[:, 1::2] >= high).sum(axis=1)
    return edges


def _arrays(table: Bodies | Patches) -> list[Float]:
    return [np.ascontiguousarray(each) for each in vars(table).values()]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _features(first, second, cells, edges, start, other, surfaces, out):  # type: ignore[no-untyped-def]
    for row in range(len(first)):
        i, j = first[row], second[row]
        at = start[i] + np.searchsorted(other[start[i] : start[i + 1]], j)
        values = out[row]
        radius = (0.75 * (cells[1][i] + cells[1][j]) / math.pi) ** (1.0 / 3.0)
        normal = _normal(surfaces[2][at], cells[2][j] - cells[2][i], _SAME * radius)
        joined = _joined(cells[1], cells[2], cells[3], i, j)
        _contact(values[:14], i, j, at, normal, joined, cells, surfaces)
        _shape(values[14:31], i, j, at, joined, cells, surfaces, edges)
        _place(values[31:39], i, j, at, normal, joined, radius, cells, surfaces)
        _ring(values[39:], i, j, at, start, other, radius, cells, surfaces)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _normal(vector, apart, least):  # type: ignore[no-untyped-def]
    """The contact's mean normal; the line between the centroids where its faces cancel out."""
    flat, far = math.sqrt(dot(vector, vector)), math.sqrt(dot(apart, apart))
    if flat > 0.0:
        return vector / flat
    return apart / far if far > least else np.array([1.0, 0.0, 0.0])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _joined(volume, mean, cov, i, j):  # type: ignore[no-untyped-def]
    """Mean and covariance of two bodies as one; the mean in row 0."""
    out = np.empty((4, 3))
    share = volume[j] / (volume[i] + volume[j])
    apart = mean[j] - mean[i]
    out[0] = mean[i] + share * apart
    for k in range(3):
        for m in range(3):
            within = (1.0 - share) * cov[i, k, m] + share * cov[j, k, m]
            out[1 + k, m] = within + share * (1.0 - share) * apart[k] * apart[m]
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _section(cov, normal):  # type: ignore[no-untyped-def]
    """Central cross-section of the moment ellipsoid normal to a direction, and its half width along it.

    A body of uniform density that is an ellipsoid has the axes' squares five times its covariance.
    """
    width = 5.0 * along(cov, normal)
    return math.pi * math.sqrt(max(125.0 * determinant(cov), 0.0) / max(width, _TINY)), math.sqrt(width)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _log(over, under):  # type: ignore[no-untyped-def]
    return math.log(over / max(under, _TINY) + _LEAST) if under > 1e-12 * over else -math.log(_LEAST)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _contact(out, i, j, at, normal, joined, cells, surfaces):  # type: ignore[no-untyped-def]
    """How the contact fills cross-sections of the bodies, and what kind of surface it is."""
    _, _, mean, cov, surface, _ = cells
    faces, area, vector, centre, spread = surfaces
    flat = math.sqrt(dot(vector[at], vector[at]))
    own, reach = np.empty(2), np.empty(2)
    for k, cell in enumerate((i, j)):
        section, width = _section(cov[cell], normal)
        own[k] = _log(flat, section)
        reach[k] = abs(dot(centre[at] - mean[cell], normal)) / max(width, _TINY)
    section, width = _section(joined[1:], normal)
    offset = abs(dot(centre[at] - joined[0], normal)) / max(width, _TINY)
    values, vectors = np.empty(3), np.empty((3, 3))
    eigen(spread[at], values, vectors)
    values = np.where(values > _NOISE * values[2], values, 0.0)
    out[0] = _log(flat, section * math.sqrt(max(1.0 - offset * offset, 0.05)))
    out[1], out[2] = own.min(), own.max()
    out[3] = min(offset, 3.0)
    out[4], out[5] = min(reach.min(), 3.0), min(reach.max(), 3.0)
    out[6] = flat / area[at]
    out[7] = math.sqrt(values[0] / area[at])
    out[8] = math.sqrt(values[1] / max(values[2], _TINY)) if values[2] > 0.0 else 1.0
    out[9] = _log(flat, 4.0 * math.pi * math.sqrt(values[1] * values[2]) + 1e-3 * area[at])
    out[10] = area[at] / max(surface[i], surface[j])
    out[11] = area[at] / min(surface[i], surface[j])
    out[12] = area[at] / max(surface[i] + surface[j] - 2.0 * area[at], 1e-3 * area[at])
    out[12] = min(out[12], 3.0)
    out[13] = math.log(min(faces[at], _FEW))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _filling(volume, cov):  # type: ignore[no-untyped-def]
    """Volume over that of the moment ellipsoid."""
    ellipsoid = 4.0 / 3.0 * math.pi * math.sqrt(max(125.0 * determinant(cov), 0.0))
    return min(volume / max(ellipsoid, 0.1 * volume), 3.0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sphericity(volume, surface):  # type: ignore[no-untyped-def]
    return min(math.pi ** (1 / 3) * (6.0 * volume) ** (2 / 3) / max(surface, _TINY), 2.0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _axes(cov):  # type: ignore[no-untyped-def]
    """Logarithms of longest over middle and of middle over shortest axis."""
    values, vectors = np.empty(3), np.empty((3, 3))
    eigen(cov, values, vectors)
    values = np.maximum(values, 1e-9 * max(values[2], _TINY))
    return 0.5 * math.log(values[2] / values[1]), 0.5 * math.log(values[1] / values[0])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shape(out, i, j, at, joined, cells, surfaces, edges):  # type: ignore[no-untyped-def]
    """How simple the parts are, and the joined body."""
    n, volume, _, cov, surface, bare = cells
    whole = volume[i] + volume[j]
    left = max(surface[i] + surface[j] - 2.0 * surfaces[1][at], 1e-3 * surfaces[1][at])
    fill = np.array([_filling(volume[i], cov[i]), _filling(volume[j], cov[j])])
    round_ = np.array([_sphericity(volume[i], surface[i]), _sphericity(volume[j], surface[j])])
    share = np.array([volume[i], volume[j]]) / whole
    out[0] = _filling(whole, joined[1:])
    out[1], out[2] = fill.min(), fill.max()
    out[3] = out[0] - (fill[0] * share[0] + fill[1] * share[1])
    out[4] = _sphericity(whole, left)
    out[5], out[6] = round_.min(), round_.max()
    out[7] = out[4] - (round_[0] * share[0] + round_[1] * share[1])
    out[8], out[9] = _axes(joined[1:])
    one, two = _axes(cov[i]), _axes(cov[j])
    long = np.array([one[0] + one[1], two[0] + two[1]])
    out[10], out[11] = long.min(), long.max()
    out[12] = abs(math.log(volume[i] / volume[j]))
    out[13] = math.log(min(n[i], n[j], _FEW))
    out[14] = (bare[i] + bare[j]) / left
    out[15], out[16] = min(edges[i], edges[j]), max(edges[i], edges[j])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _aside(vector, normal):  # type: ignore[no-untyped-def]
    """Length of what of a vector is not along the normal."""
    rest = vector - dot(vector, normal) * normal
    return math.sqrt(dot(rest, rest))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _across(cov, normal):  # type: ignore[no-untyped-def]
    """Variance within the plane."""
    return max(cov[0, 0] + cov[1, 1] + cov[2, 2] - along(cov, normal), 0.0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _place(out, i, j, at, normal, joined, radius, cells, surfaces):  # type: ignore[no-untyped-def]
    """Where the contact lies between the two bodies."""
    mean, cov = cells[2], cells[3]
    centre, spread = surfaces[3][at], surfaces[4][at]
    apart = mean[j] - mean[i]
    distance = math.sqrt(dot(apart, apart))
    values, vectors = np.empty(3), np.empty((3, 3))
    eigen(joined[1:], values, vectors)
    aside = np.array([_aside(mean[i] - centre, normal), _aside(mean[j] - centre, normal)])
    own = np.array([_across(cov[i], normal), _across(cov[j], normal)])
    out[0] = abs(dot(normal, apart)) / distance if distance > _SAME * radius else 0.0
    along_axis = 0.0
    for k in range(3):
        # Where two axes are equally long, any direction between them is as good.
        if values[k] > (1.0 - _SAME) * values[2]:
            along_axis += dot(normal, vectors[:, k].copy()) ** 2
    out[1] = math.sqrt(along_axis)
    out[2], out[3] = min(aside.min() / radius, 3.0), min(aside.max() / radius, 3.0)
    out[4] = min(_aside(apart, normal) / radius, 3.0)
    out[5] = min(distance / radius, 6.0)
    out[6] = _log(_across(spread, normal), own.max())
    out[7] = _log(_across(spread, normal), own.min())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ring(out, i, j, at, start, other, radius, cells, surfaces):  # type: ignore[no-untyped-def]
    """Neighbours of both: do their facets run on from one part to the other?"""
    vector = surfaces[2]
    p, q = start[i], start[j]
    n = (start[i + 1] - p) + (start[j + 1] - q)
    sizes, cosines, weights = np.empty(n), np.empty(n), np.empty(n)
    found = shared = 0
    total = straight = turn = smooth = all_of = 0.0
    largest = np.zeros(2)
    while p < start[i + 1] or q < start[j + 1]:
        one = other[p] if p < start[i + 1] else np.int64(2**62)
        two = other[q] if q < start[j + 1] else np.int64(2**62)
        cell = min(one, two)
        if cell != i and cell != j:
            sizes[found] = cells[1][cell]
            found += 1
            for k, (mine, row) in enumerate(((one, p), (two, q))):
                if mine == cell:
                    largest[k] = max(largest[k], dot(vector[row], vector[row]))
            if one == two:
                facet = _facet(p, q, _SAME * radius, surfaces)
                cosines[shared], weights[shared] = facet[0], facet[1]
                shared += 1
                total += facet[1]
                straight += facet[1] * facet[2]
                turn += facet[1] * facet[3]
                smooth += facet[4]
                all_of += facet[5]
        p += one == cell
        q += two == cell
    flat = math.sqrt(dot(vector[at], vector[at]))
    out[0] = min(shared, 20)
    if shared and total > 0.0:
        out[1] = (cosines[:shared] * weights[:shared]).sum() / total
        out[2] = np.sort(cosines[:shared])[shared // 4]
        out[3], out[4], out[5] = straight / total, turn / total, smooth / max(all_of, _TINY)
        out[6] = _log(total, flat)
    else:
        out[6] = math.log(_LEAST)
    whole = cells[1][i] + cells[1][j]
    usual = np.median(sizes[:found]) if found else whole
    out[7] = math.log(whole / usual)
    out[8] = math.log(min(cells[1][i], cells[1][j]) / usual)
    out[9] = math.log(max(cells[1][i], cells[1][j]) / usual)
    ranks = flat / np.maximum(flat + np.sqrt(largest), _TINY)
    out[10], out[11] = ranks.min(), ranks.max()
    counts = start[i + 1] - start[i], start[j + 1] - start[j]
    out[12], out[13] = min(counts[0], counts[1], 40), min(max(counts[0], counts[1]), 40)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _facet(p, q, least, surfaces):  # type: ignore[no-untyped-def]
    """The facets of one neighbour with both parts: cosine of their normals, weight, how far they are from
    lying in one plane, how they turn along the way from one to the other, length of the sum of their area
    vectors, sum of the lengths."""
    _, _, vector, centre, _ = surfaces
    u, v = vector[p], vector[q]
    one, two = math.sqrt(dot(u, u)), math.sqrt(dot(v, v))
    both = u + v
    whole = math.sqrt(dot(both, both))
    if one <= 0.0 or two <= 0.0:
        return 0.0, min(one, two), 0.0, 0.0, whole, one + two
    u, v = u / one, v / two
    middle, way = u + v, centre[q] - centre[p]
    length, far = math.sqrt(dot(middle, middle)), math.sqrt(dot(way, way))
    out_of_plane = turning = 0.0
    if far > least:
        turning = dot(v - u, way) / far
        if length > _SAME:
            out_of_plane = abs(dot(way, middle)) / (length * far)
    return dot(u, v), min(one, two), out_of_plane, turning, whole, one + two
