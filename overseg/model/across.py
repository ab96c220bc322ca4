"""What is measured of two touching labels across their contact: does one cell go on there, or end?

Every length is over the equivalent radius of the contact, every change is compared with those within A and
within B at the same lag, and the two sides enter symmetrically. The sections parallel to the contact are
those of `overseg.kernels.resample`.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from overseg.kernels.crosscut import REACHES, areas, groove, overlaps, section_points
from overseg.kernels.emd_features import centred
from overseg.kernels.resample import Field, Sections
from overseg.kernels.transport import Points, emd_points, mask_points
from overseg.model.features import PAPER, paper_features

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Modes = Literal["minmax", "q1q3"]

_NAMED = tuple(f"{reach:.2f}"[2:] for reach in REACHES)
_OF_A_CHANGE = ("through", "excess")

#: Names of the columns of `across_features`.
ACROSS: tuple[str, ...] = (
    *(f"rim_{reach}" for reach in _NAMED),
    *(f"grooved_{reach}" for reach in _NAMED[1:]),
    *(f"linear_{reach}" for reach in _NAMED),
    *(f"missing_{reach}" for reach in _NAMED),
    "neck_low",
    "neck_high",
    "contact_share",
    *(f"{change}_{what}" for change in ("loss", "shape") for what in _OF_A_CHANGE),
    "short_one",
    "short_both",
    "solid",
    "solid_gain",
    "solid_missing",
)

#: Lag of the changes, and how far out a side is compared with the plane, over the contact's radius.
LAG, FAR = 0.3, 0.5

_FLOOR = 0.05  # added to both sides of a ratio of changes, so that two nearly equal sections are no surprise
_NOTHING = 1e-6  # of a point: less is rounding
_MOST_POINTS = 1024  # of a section, for its distances


def across_features(sections: Sections) -> Float:
    """Features of one contact.

    Parameters
    ----------
    sections : Sections
        With at least half the contact's equivalent radius of depth to both sides.

    Returns
    -------
    ndarray of float64, shape (len(ACROSS),)
        Without NaN: what cannot be measured is 0, and ``missing_*``, ``short_*`` or ``solid_missing`` says
        so.

    Notes
    -----
    Ours. The groove is that of `overseg.kernels.crosscut.groove`. Changes (1 - IoU, and W1 over the radius
    with centroids laid on each other) are of sections of A and B together, `LAG` radii apart.
    """
    found = groove(sections)
    rims = [*found.rim, *found.grooved[1:], *found.linear, *found.missing]
    necks = _necks(sections, found.radius)
    changes = _changes(sections, found.radius)
    return np.array([*rims, *necks, *changes, *_solid(sections, found.radius)], np.float64)


def unseen() -> Float:
    """The features of a contact of which nothing can be seen, shape (len(ACROSS),)."""
    told = {*(f"missing_{reach}" for reach in _NAMED), "short_both", "solid_missing"}
    return np.array([float(name in told) for name in ACROSS])


def _necks(sections: Sections, radius: float) -> tuple[float, float, float]:
    """Area at the plane over those before and behind (log, lesser first); the contact's share of it."""
    points, step = areas(sections)[0] / sections.spacing**2, FAR * radius / sections.spacing
    layers = np.arange(len(points))
    here, *sides = np.interp([sections.zero, sections.zero - step, sections.zero + step], layers, points)
    if radius == 0 or here < _NOTHING:
        return 0.0, 0.0, 0.0
    logs = [math.log(min(max(here / max(side, _NOTHING), 0.1), 10.0)) for side in sides]
    return min(logs), max(logs), min(math.pi * (radius / sections.spacing) ** 2 / here, 2.0)


# ------------------------------------------------------------------ changes


def _changes(sections: Sections, radius: float) -> list[float]:
    """Changes through the plane against those on either side of it, and whether sides are too short."""
    lag = max(1.0, LAG * radius / sections.spacing)
    # Between layers, so that the plane is in the middle whatever the voxels.
    fields = [_between(sections.inside, sections.zero + steps * lag) for steps in (-1.5, -0.5, 0.5, 1.5)]
    before, one, two, behind = ((field > 0).any() for field in fields)
    if radius == 0 or not (one and two):
        return [0.0] * (2 * len(_OF_A_CHANGE)) + [0.0, 1.0]
    pairs = [(1, 2), *([(0, 1)] if before else []), *([(2, 3)] if behind else [])]
    unit = sections.spacing / radius
    changes = np.array([_change(fields[p], fields[q], sections.spacing, unit) for p, q in pairs]).T
    return [
        *(value for each in changes for value in _compared(each)),
        before != behind,
        not (before or behind),
    ]


def _between(inside: Field, place: float) -> Field:
    """A section between two layers; beyond the last ones there is nothing."""
    if not 0 <= place <= len(inside) - 1:
        return np.full(inside.shape[1:], -1, np.float32)
    low = min(int(place), len(inside) - 2) if len(inside) > 1 else 0
    section: Field = inside[low] + np.float32(place - low) * (
        inside[min(low + 1, len(inside) - 1)] - inside[low]
    )
    return section


def _compared(changes: Float) -> tuple[float, float]:
    """A change through the plane (the first), and its excess over the mean of those within the sides."""
    through, within = float(changes[0]), float(changes[1:].mean()) if len(changes) > 1 else float(changes[0])
    return through, math.log((through + _FLOOR) / (within + _FLOOR))


def _change(one: Field, two: Field, spacing: float, unit: float) -> tuple[float, float]:
    """1 - IoU of two sections, and W1 in radii with their centroids laid on each other."""
    both = np.stack([one, two])
    loss = 1 - float(overlaps(Sections(both, both, spacing, 0.5))[0])
    return loss, unit * _changed(one, two)


def _changed(one: Field, two: Field) -> float:
    """W1 between two sections with their centroids laid on each other, in their points' spacings."""
    middle = np.array(one.shape) // 2
    full = [mask_points(field > 0) - middle for field in (one, two)]
    step = math.ceil(math.sqrt(max(map(len, full)) / _MOST_POINTS))
    p, q = (_thinned(points, step) for points in full)
    if not len(p) or not len(q):
        step, (p, q) = 1, full  # one is so small that the thinner grid misses it
    return step * emd_points(*centred(p, q), fast=True)


def _thinned(points: Points, step: int) -> Points:
    """Every so manieth row and column, counted from the middle, as a mask of its own."""
    return points if step == 1 else points[(points % step == 0).all(axis=1)] // step


# ------------------------------------------------------------------ convexity


def _solid(sections: Sections, radius: float) -> list[float]:
    """How much of its convex hull the pair fills around the plane, and the sides' mean less that."""
    step = FAR * radius / sections.spacing
    first, last = max(math.ceil(sections.zero - step), 0), math.floor(sections.zero + step) + 1
    cut = math.ceil(sections.zero)
    inside = sections.inside > 0
    both, one, two = (solidity(inside[i:j]) for i, j in ((first, last), (first, cut), (cut, last)))
    if math.isnan(both + one + two):
        return [0.0, 0.0, 1.0]
    return [both, (one + two) / 2 - both, 0.0]


def solidity(mask: Mask) -> float:
    """Share of a solid's convex hull that it fills.

    Parameters
    ----------
    mask : ndarray of bool, shape (layers, rows, columns)

    Returns
    -------
    float
        1 for a convex solid, but for the steps of its voxels; NaN for one that is flat.

    Notes
    -----
    The points in a hull are counted as its volume and half its surface (Ehrhart's first two terms).
    """
    from scipy.spatial import ConvexHull, QhullError

    columns = mask.any(axis=2)
    layer, row = np.nonzero(columns)
    first = mask.argmax(axis=2)[columns]
    last = mask.shape[2] - 1 - mask[:, :, ::-1].argmax(axis=2)[columns]
    ends = [np.stack([layer, row, end], axis=1) for end in (first, last)]
    try:
        hull = ConvexHull(np.concatenate(ends))
    except (QhullError, ValueError):
        return math.nan
    return float(np.count_nonzero(mask) / (hull.volume + hull.area / 2))


# ------------------------------------------------------------------ as published


def published_across(sections: Sections) -> Float:
    """The published twelve of a tilted candidate.

    Parameters
    ----------
    sections : Sections
        Of the whole pair, in voxels.

    Returns
    -------
    ndarray of float64, shape (12,)
        Columns `overseg.model.features.PAPER`; all NaN if a side has no section.

    Notes
    -----
    arXiv 2502.01890, section 3.3: what lies before the plane is A's and what lies behind B's, which cleans
    the strips that a tilted cut leaves; the layer at the plane is removed. Only for a side that has nothing
    but that layer it is kept.
    """
    middle = sections.inside.shape[0] // 2
    points = [section_points(sections, layer) for layer in range(sections.inside.shape[0])]
    one = [each for each in points[:middle] if len(each)][::-1]
    two = [each for each in points[middle + 1 :] if len(each)]
    kept = points[middle : middle + 1] if len(points[middle]) else []
    one, two = one or kept, two or kept
    if not one or not two:
        return np.full(len(PAPER), np.nan)
    within = [np.array([emd_points(p, q) for p, q in itertools.pairwise(side)], float) for side in (one, two)]
    profile = np.array([len(each) for each in [*one[::-1], *two]], float)
    return paper_features(emd_points(one[0], two[0]), within[0], within[1], profile)


def with_penalty(features: Float, scale: Float, penalty: float, mode: Modes = "minmax") -> Float:
    """Published features as a tilted candidate's are given to the model.

    Parameters
    ----------
    features : ndarray of float64, shape (n, 12)
        Columns `overseg.model.features.PAPER`.
    scale : ndarray of float64, shape (12,)
        Of the model's head, by which it divides.
    penalty : float
        Taken off the shape index after z-scoring, at least 0. The more, the fewer merges.
    mode : {"minmax", "q1q3"}
        ``q1q3`` puts the quartiles of the distances within A and within B also in place of their minimum and
        maximum.

    Returns
    -------
    ndarray of float64, shape (n, 12)
        New.
    """
    out = np.array(features, np.float64)
    out[:, PAPER.index("shape_index")] -= penalty * scale[PAPER.index("shape_index")]
    if mode == "q1q3":
        for part in "ab":
            for end, quartile in (("min", "q1"), ("max", "q3")):
                out[:, PAPER.index(f"w1_{part}_{end}")] = features[:, PAPER.index(f"w1_{part}_{quartile}")]
    return out
