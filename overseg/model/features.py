"""What is measured of a candidate: how the shape evolves through the gap, and how in the cell itself.

Every length is over the equivalent radius of the two facing masks, and everything inside a part is taken at
the same lag as the gap (gap + 1 layers). Only a part's own side of the gap enters: of the upper label the
layers up to its face, of the lower those from its face on. What lies in the gap is never looked at.

The layers of both parts are walked from the face outwards, and the parts enter symmetrically (smaller value,
larger value), so that a flipped volume gives the same bits. Each row is worked on alone.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.profile import _fits, _turns_at_most_once, five_numbers, shape_index
from overseg.kernels.tables import Candidates, LayerTable
from overseg.model.changes import CHANGES, changes, shared_within, within
from overseg.model.usual import USUAL, Usual, usual_features, usual_of

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

_OF_A_CHANGE = (
    "gap",
    *(f"{which}_{side}" for which in ("worst", "median", "near") for side in ("low", "high")),
    "rank",
    "excess",
)

_OWN: tuple[str, ...] = (
    *(f"{change}_{what}" for change in CHANGES for what in _OF_A_CHANGE),
    "apart",
    "gap_layers",
    "layers_low",
    "layers_high",
    "short_one",
    "short_both",
    "taper_low",
    "taper_high",
    "tip_low",
    "tip_high",
    "face_low",
    "face_high",
    "face_pair_low",
    "face_pair_high",
    "area_miss_low",
    "area_miss_high",
    "path_miss_low",
    "path_miss_high",
    "path_miss_middle",
    "size_ratio",
    "area_linear",
    "area_quadratic",
    "area_smooth",
    "loss_linear",
    "loss_quadratic",
    "loss_smooth",
    "short_profile",
)

#: Names of the columns of `moments_features`.
MOMENTS: tuple[str, ...] = (*_OWN, *USUAL)

#: Exact earth mover's distances over the radius, plain and with the centroids laid on each other.
DISTANCES = ("emd", "emd_centred")

#: Names of the columns of the second stage: those of the first, and the distances.
FULL: tuple[str, ...] = (
    *MOMENTS,
    *(f"{change}_{what}" for change in DISTANCES for what in _OF_A_CHANGE),
)

#: The twelve features of arXiv 2502.01890: W1 between consecutive layers of either part, W1 through the gap,
#: and the shape index of the joined cell's areas. In pixels.
PAPER: tuple[str, ...] = (
    *(f"w1_{part}_{number}" for part in "ab" for number in ("min", "q1", "median", "q3", "max")),
    "w1_gap",
    "shape_index",
)

#: Columns of the published features that are z-scored together: W1 in the parts, W1 through the gap, index.
PAPER_CLASSES: tuple[tuple[int, ...], ...] = (tuple(range(10)), (10,), (11,))

#: Added to both sides of a ratio of changes, so that two nearly equal masks are no surprise.
_FLOOR = 0.05


def moments_features(
    candidates: Candidates,
    layers: LayerTable,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    usual: Usual | None = None,
) -> Float:
    """Features of the first stage, from the tables alone.

    Parameters
    ----------
    candidates : Candidates
        n pairs of faces; a gap of 0 (a link of a chain) is as good as any.
    layers : LayerTable
        The reconciled table.
    voxel_size : tuple of float
        (z, y, x), any unit of length; only the ratio of y to x matters.
    usual : Usual, optional
        Of the volume; that of all cells of the table when not given.

    Returns
    -------
    ndarray of float64, shape (n, len(MOMENTS))
        Without NaN: where a part is too short for a value, the other part's stands for it, or 0, and
        ``short_*`` says so.
    """
    out = np.zeros((len(candidates), len(_OWN)))
    if not len(candidates):
        return np.zeros((0, len(MOMENTS)))
    at_a, at_b = layers.index(candidates.a), layers.index(candidates.b)
    moments = np.stack(
        [getattr(layers, name) for name in ("area", "sy", "sx", "syy", "sxx", "syx")], axis=1
    ).astype(np.int64)
    _all_rows(
        np.stack([at_a, at_b, candidates.z, candidates.gap, candidates.overlap], axis=1).astype(np.int64),
        layers.start.astype(np.int64),
        layers.z.astype(np.int64),
        moments,
        np.ascontiguousarray(layers.back, np.int64),
        np.stack([layers.corner_y, layers.corner_x], axis=1).astype(np.int64),
        float(voxel_size[1]),
        float(voxel_size[2]),
        out,
    )
    through = out[:, [_OWN.index(f"{change}_gap") for change in CHANGES]]
    usual = usual_of(layers, voxel_size) if usual is None else usual
    return np.hstack([out, usual_features(through, candidates.gap, usual)])


def distance_features(through: Float, one: Float, two: Float) -> Float:
    """Features of the second stage that the first does not have, for one candidate.

    Parameters
    ----------
    through : ndarray of float64, shape (2,)
        Distance through the gap, plain and centred, over the radius.
    one, two : ndarray of float64, shape (2, m)
        The same within either part at the gap's lag, the pair nearest to the face first; may be empty.

    Returns
    -------
    ndarray of float64, shape (len(FULL) - len(MOMENTS),)
    """
    width = len(_OF_A_CHANGE)
    out = np.empty(2 * width)
    for k in range(2):
        part = np.ascontiguousarray(one[k]), np.ascontiguousarray(two[k])
        _one_change(float(through[k]), *part, out[k * width : (k + 1) * width])
    return out


def paper_features(through: float, within_a: Float, within_b: Float, areas: Float) -> Float:
    """The published twelve, for one candidate.

    Parameters
    ----------
    through : float
        W1 from face to face, in pixels.
    within_a, within_b : ndarray of float64
        W1 between consecutive layers of either part, in pixels; a part of one layer has none: that counts
        as 0.
    areas : ndarray of float64
        Areas of the joined cell, layer by layer.

    Returns
    -------
    ndarray of float64, shape (12,)
    """
    values = np.concatenate([within_a, within_b])
    numbers = five_numbers(values, [0, len(within_a), len(values)]).ravel()
    index = shape_index(areas, [0, len(areas)])
    row: Float = np.nan_to_num(np.concatenate([numbers, [through], index]))
    return row


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all_rows(keys, start, z, moments, back, corner, size_y, size_x, out):  # type: ignore[no-untyped-def]
    for i in range(keys.shape[0]):
        a, b, face, gap, overlap = keys[i]
        upper = _outwards(z, start[a], start[a + 1], face, -1)
        lower = _outwards(z, start[b], start[b + 1], face + gap + 1, 1)
        if _second_first(a, b, upper, lower, moments):
            a, b, upper, lower = b, a, lower, upper
        _row(upper, lower, gap, overlap, z, moments, back, corner[b] - corner[a], size_y, size_x, out[i])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _outwards(z, first, last, face, step):  # type: ignore[no-untyped-def]
    """Rows of a part, from its face away from the gap."""
    if step < 0:
        end = first + np.searchsorted(z[first:last], face + 1)
        return np.arange(end - 1, first - 1, -1)
    return np.arange(first + np.searchsorted(z[first:last], face), last)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _second_first(a, b, one, two, moments):  # type: ignore[no-untyped-def]
    """Canonical order: the smaller label first; for one label the smaller end, by its layers' moments."""
    if a != b:
        return a > b
    if one.size != two.size:
        return one.size > two.size
    for i in range(one.size):
        for k in range(moments.shape[1]):
            if moments[one[i], k] != moments[two[i], k]:
                return moments[one[i], k] > moments[two[i], k]
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _low_high(one, two, has_one, has_two, out, at):  # type: ignore[no-untyped-def]
    """Write the smaller and the larger of two values; one stands for both where the other is missing."""
    if not has_one:
        one = two if has_two else 0.0
    if not has_two:
        two = one
    out[at], out[at + 1] = min(one, two), max(one, two)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _one_change(gap, one, two, out):  # type: ignore[no-untyped-def]
    """How the gap's change compares with those within the two parts: the columns of `_OF_A_CHANGE`."""
    has_one, has_two = one.size > 0, two.size > 0
    out[0] = gap
    _low_high(one.max() if has_one else 0.0, two.max() if has_two else 0.0, has_one, has_two, out, 1)
    _low_high(
        np.median(one) if has_one else 0.0, np.median(two) if has_two else 0.0, has_one, has_two, out, 3
    )
    _low_high(one[0] if has_one else 0.0, two[0] if has_two else 0.0, has_one, has_two, out, 5)
    n = one.size + two.size
    if n == 0:
        out[7], out[8] = 0.5, 0.0
        return
    below = 0.0
    for part in (one, two):
        for value in part:
            below += 1.0 if value < gap else (0.5 if value == gap else 0.0)
    out[7] = below / n
    out[8] = math.log((gap + _FLOOR) / (out[4] + _FLOOR))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _centre(row, moments, size_y, size_x):  # type: ignore[no-untyped-def]
    n = moments[row, 0]
    return moments[row, 1] / n * size_y, moments[row, 2] / n * size_x


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _row(one, two, gap, overlap, z, moments, back, shift, size_y, size_x, out):  # type: ignore[no-untyped-def]
    lag = gap + 1
    area_one, area_two = moments[one[0], 0], moments[two[0], 0]
    radius = math.sqrt((area_one + area_two) * 0.5 * size_y * size_x / math.pi)
    still = np.zeros(2, np.int64)

    faces = np.array([[one[0], two[0]]])
    through = changes(faces, np.array([overlap]), moments, shift, size_y, size_x, radius)
    pairs_one, pairs_two = within(one, z, lag), within(two, z, lag)
    shared_one, shared_two = shared_within(pairs_one, z, back, lag), shared_within(pairs_two, z, back, lag)
    in_one = changes(pairs_one, shared_one, moments, still, size_y, size_x, radius)
    in_two = changes(pairs_two, shared_two, moments, still, size_y, size_x, radius)
    at = 0
    for k in range(4):
        _one_change(through[k, 0], in_one[k], in_two[k], out[at : at + 9])
        at += 9

    short_one = pairs_one.shape[0] == 0 or pairs_one[0, 0] != one[0]
    short_two = pairs_two.shape[0] == 0 or pairs_two[0, 0] != two[0]
    out[at] = 1.0 - overlap / min(area_one, area_two)
    out[at + 1] = gap
    _low_high(math.log(one.size), math.log(two.size), True, True, out, at + 2)
    out[at + 4] = 1.0 if short_one != short_two else 0.0
    out[at + 5] = 1.0 if short_one and short_two else 0.0
    at += 6
    _areas(one, two, pairs_one, pairs_two, short_one, short_two, moments, out[at : at + 10])
    at += 10
    _paths(
        one, two, pairs_one, pairs_two, short_one, short_two, moments, shift, size_y, size_x, radius,
        out[at : at + 3],
    )  # fmt: skip
    at += 3
    total_one, total_two = 0, 0
    for row in one:
        total_one += moments[row, 0]
    for row in two:
        total_two += moments[row, 0]
    out[at] = abs(math.log(total_one / total_two))
    _profiles(one, two, in_one[2], through[2, 0], in_two[2], moments, out[at + 1 :])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _areas(one, two, pairs_one, pairs_two, short_one, short_two, moments, out):  # type: ignore[no-untyped-def]
    """How the areas run towards the gap: taper, the outermost step, and the miss of their continuation."""
    face_one, face_two = math.log(moments[one[0], 0]), math.log(moments[two[0], 0])
    taper_one = 0.0 if short_one else face_one - math.log(moments[pairs_one[0, 1], 0])
    taper_two = 0.0 if short_two else face_two - math.log(moments[pairs_two[0, 1], 0])
    _low_high(taper_one, taper_two, True, True, out, 0)
    tip_one = face_one - math.log(moments[one[1], 0]) if one.size > 1 else 0.0
    tip_two = face_two - math.log(moments[two[1], 0]) if two.size > 1 else 0.0
    _low_high(tip_one, tip_two, True, True, out, 2)
    top_one, top_two = 0, 0
    for row in one:
        top_one = max(top_one, moments[row, 0])
    for row in two:
        top_two = max(top_two, moments[row, 0])
    _low_high(moments[one[0], 0] / top_one, moments[two[0], 0] / top_two, True, True, out, 4)
    top = max(top_one, top_two)
    _low_high(moments[one[0], 0] / top, moments[two[0], 0] / top, True, True, out, 6)
    miss_one = face_one + taper_one - face_two
    miss_two = face_two + taper_two - face_one
    _low_high(miss_one, miss_two, True, True, out, 8)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _paths(  # type: ignore[no-untyped-def]
    one, two, pairs_one, pairs_two, short_one, short_two, moments, shift, size_y, size_x, radius, out
):
    """By how much the centroids, continued linearly through the gap, miss the other face, and each other."""
    y1, x1 = _centre(one[0], moments, size_y, size_x)
    y2, x2 = _centre(two[0], moments, size_y, size_x)
    # Corner to corner last: the sums are about each label's own corner.
    dy, dx = (y2 - y1) + shift[0] * size_y, (x2 - x1) + shift[1] * size_x
    vy1, vx1, vy2, vx2 = 0.0, 0.0, 0.0, 0.0
    if not short_one:
        back_y, back_x = _centre(pairs_one[0, 1], moments, size_y, size_x)
        vy1, vx1 = y1 - back_y, x1 - back_x
    if not short_two:
        back_y, back_x = _centre(pairs_two[0, 1], moments, size_y, size_x)
        vy2, vx2 = y2 - back_y, x2 - back_x
    miss_one = math.hypot(dy - vy1, dx - vx1) / radius
    miss_two = math.hypot(dy + vy2, dx + vx2) / radius
    _low_high(miss_one, miss_two, True, True, out, 0)
    out[2] = math.hypot(dy - 0.5 * (vy1 - vy2), dx - 0.5 * (vx1 - vx2)) / radius


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _profiles(one, two, loss_one, loss, loss_two, moments, out):  # type: ignore[no-untyped-def]
    """Algorithm 3 on the joined cell: areas layer by layer, and the losses of overlap at the gap's lag."""
    areas = np.empty(one.size + two.size)
    for i in range(one.size):
        areas[one.size - 1 - i] = moments[one[i], 0]
    for i in range(two.size):
        areas[one.size + i] = moments[two[i], 0]
    losses = np.concatenate((loss_one[::-1], np.array([loss]), loss_two))
    out[6] = 0.0
    for k, profile in enumerate((areas, losses)):
        if profile.size < 4:
            out[6] = 1.0
            continue
        out[3 * k], out[3 * k + 1] = _fits(profile)
        out[3 * k + 2] = 1.0 if _turns_at_most_once(profile) else 0.0
