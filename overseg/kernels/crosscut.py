"""What cross-sections parallel to a contact tell: areas, overlaps, and whether the pair has a groove there.

Two cells that touch meet the outer surface in a groove, in which a third cell or the outside lies; a cell
that was cut in two has none. All sums go point by point in a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.resample import Field, Float, Sections, crossings
from overseg.kernels.transport import Points

Bool = npt.NDArray[np.bool_]

REACHES = (0.15, 0.3, 0.5)
"""How far before and behind the plane a groove is looked for, over the contact's equivalent radius."""

STATIONS = (0.5, 0.75, 1.0)
"""Where, within a reach, the trend of the area is taken from: clear of the plane."""

FLAT = 1e-3
"""Spacings by which a rim must lie inside to count as grooved; straight outlines are straight only but for
the last bits."""


@dataclass(frozen=True)
class Groove:
    """How the pair's outer surface behaves where the contact meets it; one entry for each of `REACHES`.

    Parameters
    ----------
    radius : float
        Equivalent radius of the contact as seen along the normal, in physical units; 0 if there is none.
    linear, parabolic : ndarray of float64, shape (reaches,)
        How much less area the pair has at the plane than a straight line, or a parabola, through the areas
        before and behind it predicts; over the prediction. Positive for a groove, at most 1.
    rim : ndarray of float64, shape (reaches,)
        How far the contact's rim lies inside the straight line between the outlines before and behind it:
        mean along the rim, over `radius`. Positive for a groove.
    grooved : ndarray of float64, shape (reaches,)
        Share of the rim that lies inside that line.
    missing : ndarray of bool, shape (reaches,)
        The pair, or what was sliced of it, ends before that reach; all other numbers are 0 there.
    """

    radius: float
    linear: Float
    parabolic: Float
    rim: Float
    grooved: Float
    missing: Bool


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _soft(distance: float, spacing: float) -> float:
    """Share of a point's square or cube that is inside, for a flat border at that distance."""
    share: float = min(max(distance / spacing + 0.5, 0.0), 1.0)
    return share


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _areas(inside: Field, side: Field, spacing: float, out: Float) -> None:
    for i in range(inside.shape[0]):
        both, of_a = 0.0, 0.0
        for j in range(inside.shape[1]):
            for k in range(inside.shape[2]):
                share = _soft(inside[i, j, k], spacing)
                both += share
                of_a += share * _soft(side[i, j, k], spacing)
        out[0, i] = both * spacing * spacing
        out[1, i] = of_a * spacing * spacing
        out[2, i] = (both - of_a) * spacing * spacing


def areas(sections: Sections) -> Float:
    """Areas of the cross-sections, layer by layer, counted below the size of a voxel.

    Parameters
    ----------
    sections : Sections

    Returns
    -------
    ndarray of float64, shape (3, layers)
        Of A and B together, of A, and of B; in squared physical units.
    """
    out = np.empty((3, sections.inside.shape[0]))
    _areas(sections.inside, sections.side, sections.spacing, out)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _overlaps(inside: Field, spacing: float, lag: int, out: Float) -> None:
    for i in range(out.size):
        common, either = 0.0, 0.0
        for j in range(inside.shape[1]):
            for k in range(inside.shape[2]):
                p, q = _soft(inside[i, j, k], spacing), _soft(inside[i + lag, j, k], spacing)
                common += min(p, q)
                either += max(p, q)
        out[i] = common / either if either > 0 else 0.0


def overlaps(sections: Sections, lag: int = 1) -> Float:
    """Intersection over union of the pair's cross-sections that lie `lag` layers apart.

    Parameters
    ----------
    sections : Sections
    lag : int
        In layers, at least 1.

    Returns
    -------
    ndarray of float64, shape (max(layers - lag, 0),)
        Entry i is of layers i and i + lag; 0 where both are empty.
    """
    out = np.empty(max(sections.inside.shape[0] - lag, 0))
    _overlaps(sections.inside, sections.spacing, lag, out)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _at(inside: Field, place: float, j: int, k: int) -> float:
    low = min(int(place), inside.shape[0] - 2)
    value: float = inside[low, j, k] + (place - low) * (inside[low + 1, j, k] - inside[low, j, k])
    return value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rim(inside: Field, side: Field, spacing: float, step: float) -> tuple[float, float, float]:
    """Second difference of `inside` along the normal, on the line where A, B and the outside meet.

    Weight, weighted sum, and weight of what is positive.
    """
    weight, total, positive = 0.0, 0.0, 0.0
    for i in range(math.ceil(step), inside.shape[0] - math.ceil(step)):
        for j in range(inside.shape[1]):
            for k in range(inside.shape[2]):
                here = inside[i, j, k]
                near = (spacing - abs(here)) / spacing
                if near <= 0 or abs(side[i, j, k]) >= spacing:
                    continue
                near *= (spacing - abs(side[i, j, k])) / spacing
                bend = (_at(inside, i - step, j, k) + _at(inside, i + step, j, k)) / 2 - here
                weight += near
                total += near * bend
                positive += near if bend > FLAT * spacing else 0.0
    return weight, total, positive


def _trends(profile: Float, zero: float, step: float) -> tuple[float, float]:
    """What a line and a parabola through the areas at the stations on both sides predict for the plane."""
    layers = np.arange(profile.size, dtype=np.float64)
    both = [
        (
            float(np.interp(zero - t * step, layers, profile))
            + float(np.interp(zero + t * step, layers, profile))
        )
        / 2
        for t in STATIONS
    ]
    # The odd part of a fit is nothing at the plane; the even part is a line in the squared distance.
    squares = [t * t for t in STATIONS]
    middle, line = sum(squares) / len(squares), sum(both) / len(both)
    spread = sum((x - middle) ** 2 for x in squares)
    slope = sum((x - middle) * y for x, y in zip(squares, both, strict=True)) / spread
    return line, line - slope * middle


def groove(sections: Sections) -> Groove:
    """Look for a groove in the pair's outer surface where the contact meets it.

    Parameters
    ----------
    sections : Sections
        With at least half the contact's equivalent radius of depth to both sides, for all of `REACHES`.

    Returns
    -------
    Groove

    Notes
    -----
    Ours. The rim is the set of points at which `inside` and `side` both vanish, each weighted by its
    nearness. Where the outer surface goes straight on, however slanted, the signed distance a step before
    such a point, along the normal, is the opposite of that a step behind; in a groove both are positive. So
    no centre is needed, and the contact may be as rugged and as far from round as it likes.
    """
    inside, side, spacing = sections.inside, sections.side, sections.spacing
    columns, _ = crossings(inside, side)
    radius = spacing * math.sqrt(columns / math.pi)
    rims = np.array([_rim(inside, side, spacing, reach * radius / spacing) for reach in REACHES])
    return groove_of(areas(sections)[0], sections.zero, spacing, radius, rims)


def groove_of(profile: Float, zero: float, spacing: float, radius: float, rims: Float) -> Groove:
    """Put together what was summed up of a groove, here or on a graphics card.

    Parameters
    ----------
    profile : ndarray of float64, shape (layers,)
        Areas of the pair's cross-sections.
    zero, spacing, radius : float
        As of `Sections` and `Groove`.
    rims : ndarray of float64, shape (reaches, 3)
        Weight of the rim, weighted sum of the second differences, and weight of those above zero.

    Returns
    -------
    Groove
    """
    layers = np.arange(profile.size, dtype=np.float64)
    linear, parabolic, rim, grooved = np.zeros((4, len(REACHES)))
    missing = np.ones(len(REACHES), bool)
    for at, (reach, (weight, total, positive)) in enumerate(zip(REACHES, rims.tolist(), strict=True)):
        step = reach * radius / spacing
        before, behind = zero - step, zero + step
        if step == 0 or before < 0 or behind > layers[-1] or weight <= 0:
            continue
        if min(profile[math.floor(before)], profile[math.ceil(behind)]) <= 0:
            continue
        missing[at] = False
        here = float(np.interp(zero, layers, profile))
        line, parabola = _trends(profile, zero, step)
        linear[at] = (line - here) / line
        # A parabola may predict next to nothing, which is no measure for what is there.
        parabolic[at] = (parabola - here) / max(parabola, line / 2)
        rim[at], grooved[at] = total / weight / radius, positive / weight
    return Groove(radius, linear, parabolic, rim, grooved, missing)


def section_points(sections: Sections, layer: int, part: Literal["both", "a", "b"] = "both") -> Points:
    """One cross-section as a mask's points, for `overseg.kernels.transport.emd_points`.

    Parameters
    ----------
    sections : Sections
    layer : int
    part : {"both", "a", "b"}
        Which label's; the points of A and of B are together those of both.

    Returns
    -------
    ndarray of int64, shape (n, 2)
        Row and column in C order, of points more than half inside; one unit is ``sections.spacing``.
    """
    mask = sections.inside[layer] > 0
    if part != "both":
        mask &= (sections.side[layer] > 0) == (part == "a")
    return np.argwhere(mask).astype(np.int64)
