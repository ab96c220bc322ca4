"""What goes wrong with a mask: the ways in which a simulation breaks one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure.truth import Split

#: What may happen to a mask in the gap: it is missing; a neighbour takes it; several neighbours share it;
#: noise lies in it; half of it stays under a third label; all of it does; it is missing and both parts keep
#: one label.
KINDS = ("missing", "swallowed", "shared", "noise", "half", "stray", "hole")

#: A label above this part of the volume is not taken for a cell.
_TOO_LARGE = 0.2

Holes = Literal["exact", "dilated", "jittered"]
Box = tuple[slice, slice, slice]
Mask = npt.NDArray[np.bool_]
Voxels = npt.NDArray[Any]


@dataclass
class Work:
    """A simulation under way: compact labels as they were, labels as they become, and where that was."""

    compact: Voxels
    names: npt.NDArray[np.uint64]
    broken: Voxels
    boxes: dict[int, Box]
    background: list[int]
    blank: int
    rng: np.random.Generator
    fresh: int
    taken: Mask
    owner: dict[int, int] = field(default_factory=dict)

    def new_label(self, cell: int) -> int:
        self.owner[self.fresh] = int(self.names[cell])
        self.fresh += 1
        return self.fresh - 1


def check(labels: Voxels, seed: int, **parts: float) -> None:
    """Refuse what is no label volume, negative seeds, and named parts that are not between 0 and 1."""
    from overseg.volume.arrays import check_array

    check_array(labels)
    for name, part in parts.items():
        if not 0 <= part <= 1:
            raise InputError(f"{name} is {part}", remedy="give a part between 0 and 1")
    if seed < 0:
        raise InputError(f"the seed {seed} is negative", remedy="give a seed of zero or above")


def start(labels: Voxels, background: Sequence[int], seed: int) -> Work:
    """A simulation with nothing broken yet; `labels` stay as they are.

    Raises
    ------
    InputError
        If no larger labels than those of the volume are left.
    """
    import fastremap
    from scipy import ndimage

    compact, numbers = fastremap.renumber(labels, in_place=False)
    names = np.zeros(max(numbers.values(), default=0) + 1, np.uint64)
    for name, number in numbers.items():
        names[number] = name
    boxes = {i: box for i, box in enumerate(ndimage.find_objects(compact), 1) if box}
    barred = [0, *(number for name, number in numbers.items() if name in background and name)]
    sizes = np.bincount(compact.ravel(), minlength=len(names))
    barred += [i for i in boxes if sizes[i] > _TOO_LARGE * labels.size and i not in barred]
    # A split takes at most three fresh labels in each layer of its gap, a cut cell two; a wider type
    # costs only memory.
    top, room = int(labels.max()), 64 * len(boxes)
    if top + room > np.iinfo(np.int64).max:
        raise InputError(
            f"no room for fresh labels above {top}", remedy="relabel the volume with small numbers"
        )
    fits = top + room <= np.iinfo(labels.dtype).max
    return Work(
        compact,
        names,
        labels.astype(labels.dtype if fits else np.min_scalar_type(top + room)),
        boxes,
        background=barred,
        blank=0 if 0 in background or not background else int(background[0]),
        rng=np.random.default_rng(seed),
        fresh=top + 1,
        taken=np.zeros(labels.shape, bool),
    )


def padded(work: Work, cell: int, z0: int, z1: int) -> Box:
    """The cell's box in y and x with one voxel around, in the layers z0 .. z1 - 1."""
    _, y, x = work.boxes[cell]
    rows, columns = work.compact.shape[1:]
    return (
        slice(max(z0, 0), z1),
        slice(max(y.start - 1, 0), min(y.stop + 1, rows)),
        slice(max(x.start - 1, 0), min(x.stop + 1, columns)),
    )


def break_cell(work: Work, cell: int, split: Split, holes: Holes) -> Split:
    """Do to the gap layers what the split's kind says; a kind that finds no neighbour becomes ``missing``."""
    kind = split.kind
    third = work.new_label(cell) if kind in ("half", "stray") else 0
    for z in range(split.z + 1, split.z + split.gap + 1):
        box = padded(work, cell, z, z + 1)[1:]
        mask = work.compact[z][box] == cell
        layer = work.broken[z][box]
        around = _around(work, mask, work.compact[z][box], layer)
        if kind in ("swallowed", "shared") and not (around > 0).any():
            kind = "missing"
        layer[mask] = _filling(work, cell, kind, third, mask, around)
        if holes != "exact":
            _roughen(work, mask, around, layer, holes)
    return Split(split.true, split.upper, split.lower, split.z, split.gap, kind)


def _around(work: Work, mask: Mask, compact: Voxels, layer: Voxels) -> Voxels:
    """Labels of the cells right beside a mask, 0 elsewhere."""
    from scipy import ndimage

    ring = ndimage.binary_dilation(mask) & ~mask & ~np.isin(compact, work.background)
    return np.where(ring, layer, 0)


def _filling(work: Work, cell: int, kind: str, third: int, mask: Mask, around: Voxels) -> Voxels:
    """What stands in the mask's voxels afterwards."""
    if kind == "swallowed":
        names, counts = np.unique(around[around > 0], return_counts=True)
        return np.array(names[counts.argmax()])
    if kind == "shared":
        return _nearest(around)[mask]
    points = np.argwhere(mask)
    filling = np.full(len(points), third if kind == "stray" else work.blank, work.broken.dtype)
    if kind == "half":
        angle = work.rng.uniform(0, 2 * np.pi)
        along = points @ np.array([np.sin(angle), np.cos(angle)])
        filling[along <= np.quantile(along, work.rng.uniform(0.35, 0.75))] = third
    if kind == "noise":
        pieces = int(work.rng.integers(1, 4))
        for centre in points[work.rng.choice(len(points), pieces)]:
            near = ((points - centre) ** 2).sum(1) <= 0.15 * len(points) / pieces / np.pi
            filling[near] = work.new_label(cell)
    return filling


def _nearest(around: Voxels) -> Voxels:
    """For every voxel the nearest of the labels around a mask."""
    from scipy import ndimage

    at = ndimage.distance_transform_edt(around == 0, return_distances=False, return_indices=True)
    nearest: Voxels = around[tuple(at)]
    return nearest


def _roughen(work: Work, mask: Mask, around: Voxels, layer: Voxels, holes: Holes) -> None:
    """Move the neighbours' borders at the hole by a random voxel here and there."""
    from scipy import ndimage

    hole = mask & (layer == work.blank)
    ring = around > 0
    if not hole.any() or not ring.any():
        return
    layer[ring & (work.rng.random(mask.shape) < 0.5)] = work.blank
    if holes == "jittered":
        border = hole & ndimage.binary_dilation(ring) & (work.rng.random(mask.shape) < 0.5)
        layer[border] = _nearest(around)[border]
