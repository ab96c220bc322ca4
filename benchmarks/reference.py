"""The method of docs/methods.md once more, slow and plain: masks, loops, NumPy and POT. An oracle for tests.

Nothing here shares code with the pipeline; only the model's probability is taken from elsewhere.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Pair = tuple[float, float]


class Row(NamedTuple):
    """A candidate: a's end face in layer z, b's start face in z + gap + 1."""

    a: int
    b: int
    z: int
    gap: int


class Cells:
    """The labels of a small volume that may be candidates, mask by mask."""

    def __init__(self, volume: Volume, background: tuple[int, ...] = (0,)) -> None:
        self.volume = volume
        labels = [int(v) for v in np.unique(volume) if int(v) not in background]
        self.labels = [v for v in labels if not _like_background(volume == v)]
        self.layers = {v: [z for z in range(len(volume)) if self.area(v, z)] for v in labels}

    def mask(self, label: int, z: int) -> Mask:
        """Where the label is in a layer; nowhere outside the volume."""
        inside = 0 <= z < len(self.volume)
        return self.volume[z] == label if inside else np.zeros(self.volume.shape[1:], bool)

    def area(self, label: int, z: int) -> int:
        """Voxels of the label in a layer."""
        return int(self.mask(label, z).sum())

    def is_face(self, label: int, z: int, lags: int, step: int) -> bool:
        """Whether the label ends here along `step`, perhaps but for slivers in the next layers."""
        face, last_sliver = self.area(label, z), 0
        for lag in range(1, lags + 1):
            if 4 * self.area(label, z + step * lag) >= face:
                return False
            if 20 * int((self.mask(label, z) & self.mask(label, z + step * lag)).sum()) >= face:
                last_sliver = lag
        return face > 0 and last_sliver < lags

    def overlap(self, row: Row) -> int:
        """Columns between the faces; of a link without a gap all contacts, at most the smaller face."""
        if row.gap > 0:
            return self.columns(row)
        contacts = int(((self.volume[:-1] == row.a) & (self.volume[1:] == row.b)).sum())
        return min(contacts, self.area(row.a, row.z), self.area(row.b, row.z + 1))

    def columns(self, row: Row) -> int:
        """Columns that lead from face to face and meet neither label in between."""
        columns = self.mask(row.a, row.z) & self.mask(row.b, row.z + row.gap + 1)
        for z in range(row.z + 1, row.z + row.gap + 1):
            columns &= ~self.mask(row.a, z) & ~self.mask(row.b, z)
        return int(columns.sum())

    def inside(self, row: Row) -> list[int]:
        """Labels that lie wholly in the gap, below a's face and above b's."""
        gap = range(row.z + 1, row.z + row.gap + 1)
        found = []
        for x in np.unique(self.volume[gap.start : gap.stop]).tolist():
            if x in self.labels and x not in (row.a, row.b) and set(self.layers[x]) <= set(gap):
                links = _links(row, self.layers[x], x)
                found += [x] if all(self.columns(link) for link in links) else []
        return found

    def is_noise(self, label: int, row: Row) -> bool:
        """Whether a label in the gap is small beside both faces."""
        smaller = min(self.area(row.a, row.z), self.area(row.b, row.z + row.gap + 1))
        return 4 * max(self.area(label, z) for z in self.layers[label]) < smaller


def _like_background(mask: Mask) -> bool:
    ends = [mask.take(i, axis).any() for axis in range(3) for i in (0, -1)]
    return 5 * int(mask.sum()) > mask.size or all(ends)


def _links(row: Row, layers: list[int], x: int) -> tuple[Row, Row]:
    upper = Row(row.a, x, row.z, layers[0] - row.z - 1)
    return upper, Row(x, row.b, layers[-1], row.z + row.gap - layers[-1])


def candidates(cells: Cells, max_gap: int) -> dict[Row, tuple[int, ...]]:
    """All candidates, and the noise that each would absorb."""
    rows = []
    for z, gap in product(range(len(cells.volume)), range(1, max_gap + 1)):
        if z + gap + 1 < len(cells.volume):
            columns = np.stack([cells.volume[z].ravel(), cells.volume[z + gap + 1].ravel()], axis=1)
            for a, b in np.unique(columns, axis=0).tolist():
                row, lags = Row(a, b, z, gap), gap + (a != b)
                rows += [row] if {a, b} <= set(cells.labels) and _faces(cells, row, lags) else []
    noise = {x for row in rows for x in cells.inside(row) if cells.is_noise(x, row)}
    rows, found = [row for row in rows if not {row.a, row.b} & noise], dict[Row, tuple[int, ...]]()
    while rows:
        row = rows.pop()
        inside = cells.inside(row)
        between = [x for x in inside if x not in noise]
        if not between:
            found[row] = tuple(x for x in inside if cells.is_noise(x, row))
        for x in between:
            rows += _links(row, cells.layers[x], x)
    return found


def _faces(cells: Cells, row: Row, lags: int) -> bool:
    ends = cells.is_face(row.a, row.z, lags, 1) and cells.is_face(row.b, row.z + row.gap + 1, lags, -1)
    return ends and cells.overlap(row) > 0


def features(cells: Cells, row: Row, size: Pair) -> dict[str, float]:
    """The features of the first stage, by name."""
    lag, below = row.gap + 1, row.z + row.gap + 1
    parts = (
        [(row.a, z) for z in reversed(cells.layers[row.a]) if z <= row.z],
        [(row.b, z) for z in cells.layers[row.b] if z >= below],
    )
    faces = cells.area(*parts[0][0]), cells.area(*parts[1][0])
    radius = math.sqrt((faces[0] + faces[1]) / 2 * size[0] * size[1] / math.pi)
    gap = _changes(cells, parts[0][0], parts[1][0], cells.overlap(row), size, radius)
    within, out = [], dict[str, float]()
    for part in parts:
        pairs = [(p, (p[0], z)) for p in part for z in (p[1] - lag, p[1] + lag) if (p[0], z) in part]
        pairs = [(p, q) for p, q in pairs if part.index(q) > part.index(p)]
        shared = [int((cells.mask(*p) & cells.mask(*q)).sum()) for p, q in pairs]
        within.append(
            [_changes(cells, p, q, n, size, radius) for (p, q), n in zip(pairs, shared, strict=True)]
        )
    for k, name in enumerate(("drift", "shape", "loss", "growth")):
        one, two = ([change[k] for change in part] for part in within)
        out |= {f"{name}_{what}": value for what, value in _compared(gap[k], one, two).items()}
    out |= {"apart": 1 - cells.overlap(row) / min(faces), "gap_layers": row.gap}
    out |= _low_high("layers", *(math.log(len(part)) for part in parts))
    out |= _ends(cells, parts, lag, size, radius)
    areas = [[cells.area(*layer) for layer in part] for part in parts]
    out["size_ratio"] = abs(math.log(sum(areas[0]) / sum(areas[1])))
    losses = [[change[2] for change in part] for part in within]
    profiles = {
        "area": [float(n) for n in areas[0][::-1] + areas[1]],
        "loss": [*losses[0][::-1], gap[2], *losses[1]],
    }
    out["short_profile"] = float(min(len(profile) for profile in profiles.values()) < 4)
    for name, profile in profiles.items():
        out |= dict(
            zip((f"{name}_linear", f"{name}_quadratic", f"{name}_smooth"), _course(profile), strict=True)
        )
    return out | _unusual(cells, lag, gap, size)


def _unusual(cells: Cells, lag: int, gap: tuple[float, ...], size: Pair) -> dict[str, float]:
    """The changes through a gap among those of all cells at the same lag, their radius taken anew."""
    found = []
    for label, layers in cells.layers.items():
        for one, two in ((z, z + lag) for z in layers if z + lag in layers):
            areas = cells.area(label, one), cells.area(label, two)
            if min(areas) >= 6:
                radius = math.sqrt(sum(areas) / 2 * size[0] * size[1] / math.pi)
                shared = int((cells.mask(label, one) & cells.mask(label, two)).sum())
                found.append(_changes(cells, (label, one), (label, two), shared, size, radius))
    out = {}
    for k, name in enumerate(("drift", "shape", "loss", "growth")):
        known = np.quantile([change[k] for change in found], np.linspace(0, 1, 65)) if found else None
        rank, ratio = 0.5, (0.0, 0.0)
        if known is not None:
            rank = float(((known < gap[k]) + 0.5 * (known == gap[k])).mean())
            ratio = tuple(math.log((gap[k] + 0.02) / (known[at] + 0.02)) for at in (32, 57))
        out |= {f"{name}_usual_rank": rank, f"{name}_usual_middle": ratio[0], f"{name}_usual_far": ratio[1]}
    return out


def _moments(mask: Mask, size: Pair) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points = np.argwhere(mask).astype(float)
    covariance = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((2, 2))
    return points.mean(axis=0) * size, (covariance + np.eye(2) / 12) * np.outer(size, size)


def _changes(
    cells: Cells, one: tuple[int, int], two: tuple[int, int], shared: int, size: Pair, radius: float
) -> tuple[float, float, float, float]:
    """Drift and shape over the radius (Gelbrich), 1 - IoU, and the log ratio of the areas."""
    (m1, s1), (m2, s2) = _moments(cells.mask(*one), size), _moments(cells.mask(*two), size)
    cross = np.linalg.eigvals(s1 @ s2)  # as of s1^1/2 s2 s1^1/2
    shape = np.trace(s1 + s2) - 2 * np.sqrt(np.maximum(cross.real, 0)).sum()
    n, m = cells.area(*one), cells.area(*two)
    drift = float(np.hypot(*(m1 - m2))) / radius
    return drift, math.sqrt(max(shape, 0)) / radius, 1 - shared / (n + m - shared), abs(math.log(n / m))


def _compared(gap: float, one: list[float], two: list[float]) -> dict[str, float]:
    out, every = {"gap": gap}, one + two
    median = lambda values: float(np.median(values))  # noqa: E731
    for name, how in (("worst", max), ("median", median), ("near", lambda values: values[0])):
        pair = [how(part) for part in (one or two, two or one)] if every else [0.0, 0.0]
        out |= _low_high(name, *pair)
    out["rank"] = sum((v < gap) + 0.5 * (v == gap) for v in every) / len(every) if every else 0.5
    out["excess"] = math.log((gap + 0.05) / (out["median_high"] + 0.05)) if every else 0.0
    return out


def _low_high(name: str, one: float, two: float) -> dict[str, float]:
    return {f"{name}_low": min(one, two), f"{name}_high": max(one, two)}


def _ends(
    cells: Cells, parts: tuple[list[tuple[int, int]], ...], lag: int, size: Pair, radius: float
) -> dict[str, float]:
    """How areas and centroids run towards the gap, and by how much their continuation misses."""
    face, taper, tip, own, short, centre, speed = [], [], [], [], [], [], []
    for part in parts:
        area = [cells.area(*layer) for layer in part]
        back = [i for i, layer in enumerate(part) if abs(layer[1] - part[0][1]) == lag]
        centre.append(_moments(cells.mask(*part[0]), size)[0])
        face.append(area[0])
        own.append(max(area))
        short.append(not back)
        taper.append(math.log(area[0] / area[back[0]]) if back else 0.0)
        tip.append(math.log(area[0] / area[1]) if len(area) > 1 else 0.0)
        speed.append(centre[-1] - _moments(cells.mask(*part[back[0]]), size)[0] if back else np.zeros(2))
    between, step = centre[1] - centre[0], math.log(face[0] / face[1])
    miss = [float(np.hypot(*v)) / radius for v in (between - speed[0], between + speed[1])]
    return {
        "short_one": float(short[0] != short[1]),
        "short_both": float(all(short)),
        "path_miss_middle": float(np.hypot(*(between - (speed[0] - speed[1]) / 2))) / radius,
        **_low_high("taper", *taper),
        **_low_high("tip", *tip),
        **_low_high("face", face[0] / own[0], face[1] / own[1]),
        **_low_high("face_pair", face[0] / max(own), face[1] / max(own)),
        **_low_high("area_miss", step + taper[0], taper[1] - step),
        **_low_high("path_miss", *miss),
    }


def _course(profile: list[float]) -> tuple[float, float, float]:
    """R² of a line and a parabola, and whether the profile turns at most once; 0 where it is too short."""
    if len(profile) < 4:
        return 0.0, 0.0, 0.0
    y, x, fits = np.array(profile, float), np.arange(len(profile)), []
    for degree in (1, 2):
        rest = y - np.polyval(np.polyfit(x, y, degree), x)
        fits.append(1 - (rest @ rest) / ((y - y.mean()) @ (y - y.mean())) if np.ptp(y) else 1.0)
    signs = np.sign(np.diff(y))
    smooth = bool(signs.all()) and int((signs[1:] != signs[:-1]).sum()) <= 1
    return fits[0], fits[1], float(smooth)


def transported(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> float:
    """W1 between two sets of points of equal weight, as anyone would ask POT for it."""
    import ot

    weights = [np.full(len(points), 1 / len(points)) for points in (one, two)]
    return float(ot.emd2(*weights, ot.dist(one.astype(float), two.astype(float), metric="euclidean")))


def distance(one: Mask, two: Mask, size: Pair) -> float:
    """W1 between two masks, every voxel with every voxel, by POT."""
    import ot

    points = [np.argwhere(mask) * size for mask in (one, two)]
    cost = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    return float(ot.emd2(*(np.full(len(p), 1 / len(p)) for p in points), cost))


def interpolated(one: Mask, two: Mask, gap: int) -> list[Mask]:
    """The masks between two others: outline voxels moved along their optimal plan (CellStitch), by POT."""
    import ot
    from scipy import ndimage

    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(float) for mask in (one, two)]
    plan = ot.emd(*(np.full(len(p), 1 / len(p)) for p in points), ot.dist(*points))
    i, j = np.nonzero(plan)
    found = []
    for k in range(1, gap + 1):
        share = k / (gap + 1)
        moved = np.rint((1 - share) * points[0][i] + share * points[1][j]).astype(int)
        line = np.zeros(one.shape, bool)
        line[tuple(moved.T)] = True
        closed = ndimage.binary_closing(np.pad(line, 2), np.ones((3, 3), bool))[2:-2, 2:-2]
        found.append(ndimage.binary_fill_holes(closed | line))
    return found


def merges(rows: list[Row], p: list[float], strange: list[bool], threshold: float) -> dict[int, int]:
    """Relabelled ids: one partner per end, best first; groups are named by their smallest label."""
    order = sorted(
        range(len(rows)),
        key=lambda i: (-p[i], rows[i].gap, min(rows[i].a, rows[i].b), max(rows[i].a, rows[i].b)),
    )
    ends, starts, group = set[int](), set[int](), dict[int, set[int]]()
    for i in order:
        a, b = rows[i].a, rows[i].b
        if a != b and p[i] >= threshold and not strange[i] and a not in ends and b not in starts:
            ends.add(a)
            starts.add(b)
            joined = group.get(a, {a}) | group.get(b, {b})
            group |= dict.fromkeys(joined, joined)
    return {label: min(members) for label, members in group.items() if label != min(members)}


def over_the_guard(cells: Cells, members: set[int]) -> bool:
    """Whether a group is one for a person: too many labels, too large, or parts beside each other."""
    voxels = {v: sum(cells.area(v, z) for z in layers) for v, layers in cells.layers.items()}
    ranked = sorted(voxels.values())
    if len(members) > 8:
        return True
    typical = ranked[int(0.99 * (len(ranked) - 1))]
    if len(ranked) >= 50 and sum(voxels[v] for v in members) > 3 * typical:
        return True
    pairs = ((set(cells.layers[v]), set(cells.layers[w])) for v in members for w in members if v < w)
    return any(2 * len(one & two) > min(len(one), len(two)) for one, two in pairs)


def may_be_filled(
    cells: Cells, row: Row, noise: tuple[int, ...], background: tuple[int, ...]
) -> dict[int, Mask]:
    """For each gap layer the voxels that a fill may take at most.

    Background and noise; and of a label that is larger there than its masks beside the gap let expect, what
    it does not hold in both of them.
    """
    allowed, below = {}, row.z + row.gap + 1
    for z in range(row.z + 1, below):
        free: Mask = np.isin(cells.volume[z], [*background, *noise])
        for name in {int(v) for v in np.unique(cells.volume[z])} - {row.a, row.b, *background}:
            sides = cells.area(name, row.z), cells.area(name, below)
            share = (z - row.z) / (row.gap + 1)
            expected = sides[0] + (sides[1] - sides[0]) * share if all(sides) else max(sides)
            if 0 < expected < cells.area(name, z):
                both = cells.mask(name, row.z) & cells.mask(name, below)
                free |= cells.mask(name, z) & ~both
        allowed[z] = free
    return allowed
