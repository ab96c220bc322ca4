"""The features of touching labels from lists of voxels and faces, one pair at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from overseg.model.touching import TOUCHING

AXES = np.eye(3)


class Body(NamedTuple):
    """A set of voxels in space."""

    n: int
    volume: float
    mean: np.ndarray
    cov: np.ndarray
    surface: float
    bare: float
    edges: int


class Facet(NamedTuple):
    """A set of voxel faces in space; the vector points from the first label to the second."""

    faces: int
    area: float
    vector: np.ndarray
    mean: np.ndarray
    cov: np.ndarray


class Tissue:
    """A label array with everything that can be asked of it."""

    def __init__(self, array: np.ndarray, size: tuple[float, float, float], background=(0,)) -> None:
        self.array, self.size = array, np.array(size)
        self.background = list(background)
        before, after, centre, axis = [], [], [], []
        for k in range(3):
            one, two = np.delete(array, -1, k), np.delete(array, 0, k)
            where = np.argwhere(one != two)
            before += one[one != two].tolist()
            after += two[one != two].tolist()
            centre += (where + AXES[k] / 2).tolist()
            axis += [k] * len(where)
        self.before, self.after = np.array(before, np.uint64), np.array(after, np.uint64)
        self.centre = np.array(centre).reshape(-1, 3) * self.size
        self.axis = np.array(axis, int)
        z, y, x = self.size
        self.areas = np.array([y * x, z * x, z * y])[self.axis]

    def body(self, *labels: int) -> Body:
        where = np.argwhere(np.isin(self.array, labels))
        points, n = where * self.size, len(where)
        mean = points.mean(axis=0)
        cov = (points - mean).T @ (points - mean) / n + np.diag(self.size**2) / 12
        one, two = (np.isin(each, labels) for each in (self.before, self.after))
        bare = np.isin(self.before, self.background) | np.isin(self.after, self.background)
        edges = (where.min(axis=0) == 0).sum() + (where.max(axis=0) == np.array(self.array.shape) - 1).sum()
        surface = self.areas[one != two].sum()
        return Body(n, n * self.size.prod(), mean, cov, surface, self.areas[(one != two) & bare].sum(), edges)

    def facet(self, a: int, b: int) -> Facet:
        ahead, back = ((self.before == one) & (self.after == two) for one, two in ((a, b), (b, a)))
        rows = ahead | back
        w, points = self.areas[rows], self.centre[rows]
        mean = (w[:, None] * points).sum(axis=0) / w.sum()
        cov = (w[:, None] * (points - mean)).T @ (points - mean) / w.sum()
        steps = np.where(ahead, 1, -1)[rows] @ AXES[self.axis[rows]]  # whole numbers: they may cancel out
        return Facet(rows.sum(), w.sum(), steps * self.size.prod() / self.size, mean, cov)

    def partners(self, a: int) -> set[int]:
        found = {*self.after[self.before == a].tolist(), *self.before[self.after == a].tolist()}
        return found - set(self.background)

    def pairs(self) -> list[tuple[int, int]]:
        cells = set(np.unique(self.array).tolist()) - set(self.background)
        return [(a, b) for a in sorted(cells) for b in sorted(self.partners(a)) if a < b]


def log(over: float, under: float) -> float:
    return math.log(over / under + 1e-3) if under > 1e-12 * over else -math.log(1e-3)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def ellipsoid(cov: np.ndarray) -> float:
    """Volume of the solid ellipsoid of that covariance."""
    return 4 / 3 * math.pi * math.sqrt(np.linalg.det(5 * cov))


def features(tissue: Tissue, a: int, b: int) -> dict[str, float]:
    """All of `TOUCHING` for one pair."""
    one, two, both = tissue.body(a), tissue.body(b), tissue.body(a, b)
    contact = tissue.facet(a, b)
    radius = (3 / 4 / math.pi * both.volume) ** (1 / 3)
    flat, apart = float(np.linalg.norm(contact.vector)), two.mean - one.mean
    if flat > 0:
        normal = unit(contact.vector)
    elif np.linalg.norm(apart) > 1e-9 * radius:
        normal = unit(apart)
    else:
        normal = AXES[0]
    found = {
        **_contact(one, two, both, contact, flat, normal),
        **_shape(one, two, both),
        **_place(one, two, both, contact, normal, radius),
        **_ring(tissue, a, b, one, two, flat, radius),
    }
    assert set(found) == set(TOUCHING)
    return found


def _contact(one: Body, two: Body, both: Body, contact: Facet, flat: float, normal: np.ndarray) -> dict:
    def section(body: Body) -> tuple[float, float, float]:
        """Area of the central section, half width, how far off it the contact lies in half widths."""
        half = math.sqrt(5 * normal @ body.cov @ normal)
        area = ellipsoid(body.cov) * 3 / 4 / half
        return area, half, abs((contact.mean - body.mean) @ normal) / half

    whole, offset = section(both)[0], section(both)[2]
    own = sorted(log(flat, section(body)[0]) for body in (one, two))
    reach = sorted(min(section(body)[2], 3) for body in (one, two))
    least, middle, most = np.linalg.eigvalsh(contact.cov)
    # A variance is nothing where it is rounding: all of one face, the least of a flat contact.
    most = most if most > 1e-12 * contact.area else 0.0
    least, middle = (value if value > 1e-12 * most else 0.0 for value in (least, middle))
    least, middle = min(least, most), min(middle, most)
    over = sorted(contact.area / body.surface for body in (one, two))
    return {
        "area_over_section": log(flat, whole * math.sqrt(max(1 - offset**2, 0.05))),
        "area_over_own_low": own[0],
        "area_over_own_high": own[1],
        "offset": min(offset, 3),
        "reach_low": reach[0],
        "reach_high": reach[1],
        "flatness": flat / contact.area,
        "thickness": math.sqrt(least / contact.area),
        "roundness": math.sqrt(middle / most) if most > 0 else 1.0,
        "compactness": log(flat, 4 * math.pi * math.sqrt(middle * most) + 1e-3 * contact.area),
        "over_surface_low": over[0],
        "over_surface_high": over[1],
        "over_union": min(contact.area / max(both.surface, 1e-3 * contact.area), 3),
        "contact_faces": math.log(min(contact.faces, 4096)),
    }


def _shape(one: Body, two: Body, both: Body) -> dict:
    def fill(body: Body) -> float:
        return min(body.volume / max(ellipsoid(body.cov), 0.1 * body.volume), 3)

    def sphericity(body: Body) -> float:
        return min(math.pi ** (1 / 3) * (6 * body.volume) ** (2 / 3) / max(body.surface, left), 2)

    def axes(body: Body) -> np.ndarray:
        return np.sqrt(np.linalg.eigvalsh(body.cov))

    left = 1e-3 * (one.surface + two.surface - both.surface) / 2  # nothing is left of two that fill it all
    share = one.n / both.n
    fills, rounds = sorted(map(fill, (one, two))), sorted(map(sphericity, (one, two)))
    least, middle, most = axes(both)
    long = sorted(math.log(axes(body)[2] / axes(body)[0]) for body in (one, two))
    return {
        "fill": fill(both),
        "fill_low": fills[0],
        "fill_high": fills[1],
        "fill_gain": fill(both) - share * fill(one) - (1 - share) * fill(two),
        "sphericity": sphericity(both),
        "sphericity_low": rounds[0],
        "sphericity_high": rounds[1],
        "sphericity_gain": sphericity(both) - share * sphericity(one) - (1 - share) * sphericity(two),
        "long": math.log(most / middle),
        "flat": math.log(middle / least),
        "elongation_low": long[0],
        "elongation_high": long[1],
        "ratio": abs(math.log(one.n / two.n)),
        "smaller_voxels": math.log(min(one.n, two.n, 4096)),
        "bare": both.bare / max(both.surface, left),
        "edges_low": min(one.edges, two.edges),
        "edges_high": max(one.edges, two.edges),
    }


def _place(one: Body, two: Body, both: Body, contact: Facet, normal: np.ndarray, radius: float) -> dict:
    in_plane = np.eye(3) - np.outer(normal, normal)
    apart = two.mean - one.mean
    distance = float(np.linalg.norm(apart))
    values, vectors = np.linalg.eigh(both.cov)
    longest = vectors[:, values > (1 - 1e-9) * values[2]]
    aside = sorted(min(np.linalg.norm(in_plane @ (x.mean - contact.mean)) / radius, 3) for x in (one, two))
    spread = [np.trace(in_plane @ each.cov) for each in (contact, one, two)]
    return {
        "along_line": abs(normal @ apart) / distance if distance > 1e-9 * radius else 0.0,
        "along_axis": float(np.linalg.norm(normal @ longest)),
        "lateral_low": aside[0],
        "lateral_high": aside[1],
        "lateral": min(np.linalg.norm(in_plane @ apart) / radius, 3),
        "distance": min(distance / radius, 6),
        "spread_low": log(max(spread[0], 0), max(spread[1:])),
        "spread_high": log(max(spread[0], 0), min(spread[1:])),
    }


def _ring(tissue: Tissue, a: int, b: int, one: Body, two: Body, flat: float, radius: float) -> dict:
    near = tissue.partners(a), tissue.partners(b)
    others = [each - {a, b} for each in near]
    cosines, weights, straight, turn, whole, lengths = [], [], [], [], [], []
    for cell in sorted(others[0] & others[1]):
        p, q = tissue.facet(a, cell), tissue.facet(b, cell)
        u, v = p.vector, q.vector
        nu, nv = np.linalg.norm(u), np.linalg.norm(v)
        whole.append(np.linalg.norm(u + v))
        lengths.append(nu + nv)
        weights.append(min(nu, nv))
        known = weights[-1] > 0
        u, v = (u / nu, v / nv) if known else (0 * u, 0 * v)
        way = q.mean - p.mean
        far = np.linalg.norm(way) > 1e-9 * radius and known
        way = unit(way) if far else 0 * way
        cosines.append(u @ v)
        turn.append((v - u) @ way)
        straight.append(abs(unit(u + v) @ way) if known and np.linalg.norm(u + v) > 1e-9 else 0.0)
    total = sum(weights)
    usual = np.median([tissue.body(cell).volume for cell in sorted(others[0] | others[1])] or
                      [one.volume + two.volume])  # fmt: skip

    def rank(cell: int, rest: set[int]) -> float:
        largest = max([float(np.linalg.norm(tissue.facet(cell, each).vector)) for each in rest], default=0)
        return flat / (flat + largest) if flat else 0.0

    ranks = sorted([rank(a, others[0]), rank(b, others[1])])
    known = total > 0
    return {
        "ring": min(len(weights), 20),
        "ring_cosine": np.dot(cosines, weights) / total if known else 0.0,
        "ring_quarter": sorted(cosines)[len(cosines) // 4] if known else 0.0,
        "ring_straight": np.dot(straight, weights) / total if known else 0.0,
        "ring_turn": np.dot(turn, weights) / total if known else 0.0,
        "ring_whole": sum(whole) / sum(lengths) if known else 0.0,
        "ring_weight": log(total, flat) if known else math.log(1e-3),
        "joined_over_neighbours": math.log((one.volume + two.volume) / usual),
        "smaller_over_neighbours": math.log(min(one.volume, two.volume) / usual),
        "larger_over_neighbours": math.log(max(one.volume, two.volume) / usual),
        "rank_low": ranks[0],
        "rank_high": ranks[1],
        "neighbours_low": min(len(near[0]), len(near[1]), 40),
        "neighbours_high": min(max(len(near[0]), len(near[1])), 40),
    }
