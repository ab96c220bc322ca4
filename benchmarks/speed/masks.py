"""Pairs of masks of real cells, some layers apart: always the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed import tiles
from overseg.kernels.transport import Points, mask_points

Mask = npt.NDArray[np.bool_]

LAGS = (1, 2, 3)
#: Voxels of a mask. Below, there is nothing to measure; above, the plain loop would take minutes a pair.
LEAST, MOST = 30, 3000
_VOLUMES = (
    ("meristem", ("plant_meristem/meristem",)),
    ("ovule", ("plant_ovule_crop/ovule_crop",)),
    ("nuclei", tuple(f"plant_ovule_nuclei/nuclei_{n}" for n in (1135, 1136, 1137, 1139, 1170))),
)


@dataclass(frozen=True)
class MaskPair:
    """Two masks of one cell, in one frame with a border of one voxel."""

    volume: str
    lag: int
    one: Mask
    two: Mask

    @property
    def points(self) -> tuple[Points, Points]:
        """Voxels (y, x) of both."""
        return mask_points(self.one), mask_points(self.two)


def pairs(per_volume: int) -> list[MaskPair]:
    """So many pairs of each volume, lags in turn, cells and layers drawn with a fixed seed."""
    found = []
    for volume, names in _VOLUMES:
        places = [place for name in names for place in _places(tiles.real(name))]
        order = np.random.default_rng(7).permutation(len(places)).tolist()
        taken: list[MaskPair] = []
        for turn, at in enumerate(order):
            if len(taken) == per_volume:
                break
            pair = _pair(volume, *places[at], LAGS[len(taken) % 3], turn)
            taken += [pair] if pair else []
        found += taken
    return found


def _places(labels: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], int]]:
    """Every label with the box around it, but for the outside."""
    from scipy import ndimage

    boxes = enumerate(ndimage.find_objects(labels), 1)
    return [(labels[box], label) for label, box in boxes if box and labels[box].size < labels.size // 8]


def _pair(volume: str, box: npt.NDArray[Any], label: int, lag: int, turn: int) -> MaskPair | None:
    first = int(np.random.default_rng(turn).integers(max(1, len(box) - lag)))
    if first + lag >= len(box):
        return None
    masks = [np.pad(box[z] == label, 1) for z in (first, first + lag)]
    if not all(LEAST <= int(mask.sum()) <= MOST for mask in masks):
        return None
    return MaskPair(volume, lag, masks[0], masks[1])
