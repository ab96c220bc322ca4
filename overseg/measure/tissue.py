"""A made-up tissue that needs no data: packed cells with rugged borders beside loose ones with real gaps."""

from __future__ import annotations

from typing import Literal, get_args

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import InputError

Style = Literal["packed", "loose", "mixed", "columns", "palisade", "dividing", "sheets"]

#: Height of a cell over its width.
_ASPECT = {"palisade": 2.5, "sheets": 0.6}
#: Of all cells, in tissue where cells divide.
_DIVIDED = 0.35


def generate_tissue(
    shape: tuple[int, int, int] = (64, 128, 128),
    n_cells: int = 200,
    seed: int = 0,
    style: Style = "mixed",
) -> npt.NDArray[np.uint32]:
    """Make a labelled tissue without any splits.

    Each cell is grown around a point of a jittered lattice; space is bent by smooth noise, so that borders
    are irregular. Packed cells share all borders; loose ones are ellipsoids with background between, so that
    stacked cells face each other across real gaps.

    Parameters
    ----------
    shape : tuple of int
        Layers, rows and columns (z, y, x).
    n_cells : int
        About how many cells are wanted; cells cut by the border count as well.
    seed : int
        The same seed makes the same tissue.
    style : {"packed", "loose", "mixed", "columns", "palisade", "dividing", "sheets"}
        ``mixed`` is packed in the left part (small x) and loose in the right; in ``columns`` packed cells are
        stacked on each other along z, as alike as cells can be; ``palisade`` cells are packed and long along
        z; ``dividing`` is mixed, and a plane through its middle parts every third cell in two; ``sheets``
        are layers of flat cells, bent.

    Returns
    -------
    ndarray of uint32, shape `shape`
        Labels 1 .. n, 0 where there is no cell.

    Raises
    ------
    InputError
        If the shape, the number of cells, the seed or the style cannot be.

    Notes
    -----
    The cells are a Voronoi partition of jittered lattice points (Worley, SIGGRAPH 1996) in warped space.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"the shape {shape} is not a volume", remedy="give three sizes (z, y, x) above zero")
    if n_cells < 1:
        raise InputError(f"cannot make {n_cells} cells", remedy="ask for at least one cell")
    if seed < 0:
        raise InputError(f"the seed {seed} is negative", remedy="give a seed of zero or above")
    if style not in get_args(Style):
        raise InputError(f"unknown style {style!r}", remedy=f"choose from {', '.join(get_args(Style))}")
    size = np.array(shape, np.int64)
    aspect = _ASPECT.get(style, 1.0)
    pitch = max(4.0, float((size.prod() / aspect / n_cells) ** (1 / 3)))
    rng = np.random.default_rng(seed)
    grid = tuple(
        max(1, round(n / side)) for n, side in zip(shape, (pitch * aspect, pitch, pitch), strict=True)
    )
    step = size / np.array(grid)
    spread = [1.0, 0.25, 0.25] if style == "columns" else [1.0, 1.0, 1.0]
    centre = np.moveaxis(np.indices(grid), 0, -1) + 0.5 + rng.uniform(-0.32, 0.32, (*grid, 3)) * spread
    radius = rng.uniform(0.40, 0.60, grid)
    squash = np.exp(rng.normal(0, 0.12, (*grid, 3)))
    border = {"loose": -1.0, "mixed": 0.5, "dividing": 0.5}.get(style, 2.0)
    loose = centre[..., 2] > border * grid[2]
    coarse = np.maximum(2, (size / (0.5 * pitch)).astype(np.int64) + 2)
    warp = rng.normal(0, 0.10, (*coarse, 3))
    plane = np.zeros((*grid, 3))
    if style == "dividing":
        plane += rng.normal(size=plane.shape) * (rng.random((*grid, 1)) < _DIVIDED)
    if style == "sheets":
        _bend_sheets(warp, rng)
    labels = np.zeros(shape, np.uint32)
    _grow(labels, centre * step, radius * float(step.min()), squash, loose, plane, warp * pitch, step)
    return _compact(labels)


def _bend_sheets(warp: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Raise and lower space along z in waves across y and x."""
    y, x = np.meshgrid(*(np.linspace(0, 2 * np.pi, n) for n in warp.shape[1:3]), indexing="ij")
    phase = rng.uniform(0, 2 * np.pi, 2)
    warp[..., 0] += 0.6 * (np.sin(y + phase[0]) + np.sin(x + phase[1]))


def _compact(labels: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Number the labels 1 .. n in the order of their lattice points."""
    used = np.bincount(labels.ravel()) > 0
    used[0] = False
    return np.where(used, np.cumsum(used), 0).astype(np.uint32)[labels]


@numba.njit(cache=True, nogil=True)
def _bend(warp, z, y, x, shape, axis):  # type: ignore[no-untyped-def]
    """Trilinear value of the coarse noise at a voxel."""
    cz = z * (warp.shape[0] - 1) / shape[0]
    cy = y * (warp.shape[1] - 1) / shape[1]
    cx = x * (warp.shape[2] - 1) / shape[2]
    iz, iy, ix = int(cz), int(cy), int(cx)
    fz, fy, fx = cz - iz, cy - iy, cx - ix
    total = 0.0
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                weight = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                total += weight * warp[iz + dz, iy + dy, ix + dx, axis]
    return total


@numba.njit(cache=True, nogil=True)
def _grow(labels, centre, radius, squash, loose, plane, warp, step):  # type: ignore[no-untyped-def]
    """Give every voxel to the nearest point of the lattice, or to nobody outside a loose cell's ellipsoid."""
    gz, gy, gx = radius.shape
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                pz = z + _bend(warp, z, y, x, labels.shape, 0)
                py = y + _bend(warp, z, y, x, labels.shape, 1)
                px = x + _bend(warp, z, y, x, labels.shape, 2)
                bz = min(max(int(pz / step[0]), 0), gz - 1)
                by = min(max(int(py / step[1]), 0), gy - 1)
                bx = min(max(int(px / step[2]), 0), gx - 1)
                best, at = np.inf, (0, 0, 0)
                for i in range(max(bz - 1, 0), min(bz + 2, gz)):
                    for j in range(max(by - 1, 0), min(by + 2, gy)):
                        for k in range(max(bx - 1, 0), min(bx + 2, gx)):
                            d = (pz - centre[i, j, k, 0]) ** 2
                            d += (py - centre[i, j, k, 1]) ** 2
                            d += (px - centre[i, j, k, 2]) ** 2
                            if d < best:
                                best, at = d, (i, j, k)
                if loose[at]:
                    d = ((pz - centre[at][0]) * squash[at][0]) ** 2
                    d += ((py - centre[at][1]) * squash[at][1]) ** 2
                    d += ((px - centre[at][2]) * squash[at][2]) ** 2
                    if d > radius[at] ** 2:
                        continue
                side = (pz - centre[at][0]) * plane[at][0]
                side += (py - centre[at][1]) * plane[at][1] + (px - centre[at][2]) * plane[at][2]
                labels[z, y, x] = 2 * ((at[0] * gy + at[1]) * gx + at[2]) + (2 if side < 0 else 1)
