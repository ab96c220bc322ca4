"""Touching splits made in real cells: rugged planes of any tilt, each through one cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure.breaking import Mask, Voxels, Work, check, start
from overseg.measure.truth import Cut, Truth

__all__ = ["Cut", "cut_cells", "cut_truth"]

#: A cell that is cut has at least so many voxels and layers.
_LEAST_VOXELS = 60
_LEAST_LAYERS = 4
#: Either part has at least so many voxels, and this share of what was cut.
_LEAST_PART = 12
_LEAST_SHARE = 0.08

#: The cut's place: between these quantiles of the voxels along the plane's normal.
_PLACES = (0.12, 0.88)
#: Waves that make a plane rugged, and their lengths in equivalent radii.
_WAVES = 6
_LENGTHS = (0.5, 2.0)
#: Planes that are tried before a cell is left whole.
_TRIES = 6

Triple = tuple[float, float, float]
Heights = npt.NDArray[np.float64]


class _Ways(NamedTuple):
    """How a cell may be cut."""

    size: Triple
    tilts: tuple[float, float]
    roughness: Sequence[float]
    flat: float


def cut_cells(
    labels: Voxels,
    voxel_size: Triple = (1.0, 1.0, 1.0),
    *,
    rate: float = 0.3,
    seed: int = 0,
    tilts: tuple[float, float] = (0.0, 90.0),
    roughness: Sequence[float] = (0.0, 0.05, 0.1, 0.2),
    flat: float = 0.15,
    thirds: float = 0.15,
    background: Sequence[int] = (0,),
) -> tuple[Voxels, tuple[Cut, ...]]:
    """Cut cells of a labelled volume in two or three parts that touch.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        Any labelled volume; it is not changed. It is worked on whole, in about four times its own memory.
    voxel_size : tuple of float
        (z, y, x), in any one unit. Planes, tilts and radii are those of the cells in space.
    rate : float
        Part of the cells that is cut, 0 .. 1, of those that can be: cells in one piece of 60 voxels and four
        layers or more, none of them a fifth of the volume.
    seed : int
        The same seed does the same.
    tilts : tuple of float
        Least and largest angle of a plane's normal against z in degrees, 0 .. 90; any between is as likely.
    roughness : sequence of float
        Heights of the planes' waves, in the equivalent radius of what is cut; each as likely.
    flat : float
        Part of the cuts that goes exactly between two layers, whatever `tilts` says, 0 .. 1.
    thirds : float
        Part of the cut cells of which the larger part is cut again, 0 .. 1.
    background : sequence of int
        Labels that are no cells.

    Returns
    -------
    broken : ndarray of int, shape (z, y, x)
        The dtype of `labels`, or the smallest wider one that holds the fresh labels. Every part of a cell is
        one component by faces.
    cuts : tuple of Cut
        What was done, in the order in which it was done.

    Raises
    ------
    InputError
        If the array is no label volume, or an option cannot be.
    """
    check(labels, seed, rate=rate, flat=flat, thirds=thirds)
    ways = _Ways(_checked_size(voxel_size), _checked_tilts(tilts), _checked_roughness(roughness), flat)
    work = start(labels, background, seed)
    cells = _cells(work)
    wanted, cut, done = round(rate * len(cells)), 0, list[Cut]()
    for cell in work.rng.permutation(np.array(cells, np.int64)).tolist():
        if cut >= wanted:
            break
        again = work.rng.random() < thirds
        found = _cut(work, cell, int(work.names[cell]), ways)
        if found is None:
            continue
        cut += 1
        done.append(found)
        second = _cut(work, cell, _larger(work, cell, found), ways) if again else None
        if second is not None:
            done.append(second)
    return work.broken, tuple(done)


def cut_truth(broken: Voxels, cuts: Sequence[Cut], seed: int = 0) -> Truth:
    """Which cell each label of a cut volume belongs to.

    Parameters
    ----------
    broken : ndarray of int, shape (z, y, x)
        As of `cut_cells`.
    cuts : sequence of Cut
        As of `cut_cells`.
    seed : int
        With which it was made.

    Returns
    -------
    Truth
    """
    import fastremap

    owner = {cut.new: cut.true for cut in cuts}
    label = np.sort(fastremap.unique(broken)).astype(np.uint64)
    true = np.array([owner.get(name, name) for name in label.tolist()], np.uint64)
    return Truth(label, true, (), (), (), seed, tuple(cuts))


def _checked_size(voxel_size: Triple) -> Triple:
    if len(voxel_size) != 3 or not all(math.isfinite(size) and size > 0 for size in voxel_size):
        raise InputError(f"the voxel size {voxel_size} cannot be", remedy="give three lengths, z y x")
    z, y, x = voxel_size
    return float(z), float(y), float(x)


def _checked_tilts(tilts: tuple[float, float]) -> tuple[float, float]:
    if len(tilts) != 2 or not 0 <= tilts[0] <= tilts[1] <= 90:
        raise InputError(f"tilts of {tilts} cannot be", remedy="give two angles, in order, from 0 to 90")
    return float(tilts[0]), float(tilts[1])


def _checked_roughness(roughness: Sequence[float]) -> Sequence[float]:
    if not len(roughness) or not all(0 <= height <= 1 for height in roughness):
        raise InputError(f"a roughness of {tuple(roughness)} cannot be", remedy="give heights from 0 to 1")
    return roughness


def _cells(work: Work) -> list[int]:
    """Cells that can be cut. One in several pieces cannot: its parts would be in pieces too."""
    found = []
    for cell in sorted(work.boxes.keys() - set(work.background)):
        mask = work.compact[work.boxes[cell]] == cell
        large = len(mask) >= _LEAST_LAYERS and np.count_nonzero(mask) >= _LEAST_VOXELS
        if large and np.array_equal(_largest(mask), mask):
            found.append(cell)
    return found


def _larger(work: Work, cell: int, cut: Cut) -> int:
    """The label of the larger of a cut's parts."""
    block = work.broken[work.boxes[cell]]
    return max(cut.kept, cut.new, key=lambda label: np.count_nonzero(block == label))


def _cut(work: Work, cell: int, label: int, ways: _Ways) -> Cut | None:
    """Cut what carries a label; nothing if it is too small, or no plane that was tried leaves two parts."""
    rng, block = work.rng, work.broken[work.boxes[cell]]
    mask = block == label
    flat = bool(rng.random() < ways.flat)
    tilt = 0.0 if flat else float(rng.uniform(*ways.tilts))
    roughness = 0.0 if flat else float(rng.choice(np.array(ways.roughness)))
    if np.count_nonzero(mask) < _LEAST_VOXELS:
        return None
    for _ in range(_TRIES):
        heights = np.nonzero(mask)[0] if flat else _heights(mask, tilt, roughness, ways.size, rng)
        behind = np.zeros_like(mask)
        behind[mask] = heights > np.quantile(heights, rng.uniform(*_PLACES))
        part = _whole(behind, mask)
        # Strays that change side would hang over the border between the two layers.
        if _large_enough(part, mask) and not (flat and (part != behind).any()):
            new = work.new_label(cell)
            block[part] = new
            return Cut(int(work.names[cell]), label, new, tilt, roughness, flat)
    return None


def _heights(mask: Mask, tilt: float, roughness: float, size: Triple, rng: np.random.Generator) -> Heights:
    """How far behind a rugged plane each voxel of a mask lies, but for a constant."""
    points = np.argwhere(mask) * np.array(size)
    radius = (len(points) * math.prod(size) * 3 / 4 / math.pi) ** (1 / 3)
    angle, turn = math.radians(tilt), rng.uniform(0, 2 * math.pi)
    # The normal, and two directions in the plane at right angles to it and to each other.
    normal = np.array([math.cos(angle), math.sin(angle) * math.sin(turn), math.sin(angle) * math.cos(turn)])
    along = np.array([-math.sin(angle), math.cos(angle) * math.sin(turn), math.cos(angle) * math.cos(turn)])
    across = np.array([0.0, math.cos(turn), -math.sin(turn)])
    heights: Heights = points @ normal
    if roughness:
        waves = _waves(points @ along, points @ across, radius, rng)
        heights += roughness * radius * waves + min(roughness * radius, 0.7 * min(size)) * _noise(mask, rng)
    return heights


def _waves(one: Heights, two: Heights, radius: float, rng: np.random.Generator) -> Heights:
    """A sum of random waves in the plane, of mean square one."""
    total = np.zeros(len(one))
    for _ in range(_WAVES):
        length, angle, phase = rng.uniform(*_LENGTHS) * radius, *rng.uniform(0, 2 * math.pi, 2)
        total += np.cos(2 * math.pi / length * (one * math.cos(angle) + two * math.sin(angle)) + phase)
    total /= math.sqrt(_WAVES / 2)
    return total


def _noise(mask: Mask, rng: np.random.Generator) -> Heights:
    """Smooth noise of a voxel's scale in the voxels of a mask, of variance one."""
    from scipy import ndimage

    noise: Heights = ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.0)[mask]
    noise /= noise.std()
    return noise


def _largest(mask: Mask) -> Mask:
    """The largest component of a mask, by faces."""
    from scipy import ndimage

    numbers, n = ndimage.label(mask)
    if n < 2:
        return mask
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    largest: Mask = numbers == sizes.argmax()
    return largest


def _whole(part: Mask, mask: Mask) -> Mask:
    """The part of a connected mask such that it and the rest are one component each: strays change side."""
    rest = _largest(mask & ~_largest(part))
    return mask & ~rest


def _large_enough(part: Mask, mask: Mask) -> bool:
    voxels, total = int(np.count_nonzero(part)), int(np.count_nonzero(mask))
    return min(voxels, total - voxels) >= max(_LEAST_PART, _LEAST_SHARE * total)
