"""What imaging and segmentation layer by layer do to masks, apart from breaking cells.

Blurred borders shrink masks (the main error that arXiv 2502.01890 names), a lenient threshold grows them, the
stage drifts from layer to layer, borders are rugged, corners are missing. A model that has only seen clean
masks takes all of this for a sign of two cells.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import InputError

Flaw = Literal["shrunk", "grown", "jittered", "rugged", "cornered"]

FLAWS: tuple[Flaw, ...] = ("shrunk", "grown", "jittered", "rugged", "cornered")

#: Of masks with missing corners; and the reach of a corner over the mask's equivalent radius.
_CORNERED = 0.3
_CORNER = 0.45


def flawed(labels: npt.NDArray[np.integer], flaw: Flaw, seed: int = 0) -> npt.NDArray[np.integer]:
    """The volume as flawed imaging would have it; cells stay what they are.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        0 is background. Not changed.
    flaw : {"shrunk", "grown", "jittered", "rugged", "cornered"}
        Masks end one to two voxels inside their borders; they reach one to two voxels into background; layers
        are moved by about one voxel; borders are rugged; parts are missing at the border of every third mask.
    seed : int
        The same seed does the same.

    Returns
    -------
    ndarray of int, shape (z, y, x)
        Of the same dtype; no new labels.

    Raises
    ------
    InputError
        If the array is no label volume, or the flaw is unknown.
    """
    from overseg.volume.arrays import check_array

    check_array(labels)
    if flaw not in FLAWS:
        raise InputError(f"unknown flaw {flaw!r}", remedy=f"choose from {', '.join(FLAWS)}")
    rng = np.random.default_rng(seed)
    out = np.ascontiguousarray(labels).copy()
    for layer in out:
        if flaw == "shrunk":
            for _ in range(int(rng.integers(1, 3))):
                _shrink(layer.copy(), layer)
        elif flaw == "grown":
            for _ in range(int(rng.integers(1, 3))):
                _grow(layer.copy(), layer)
        elif flaw == "jittered":
            layer[:] = _moved(layer, *rng.integers(-1, 2, 2).tolist())
        elif flaw == "rugged":
            for _ in range(2):
                _roughen(layer.copy(), rng.integers(0, 8, layer.shape, np.uint8), layer)
        else:
            _take_corners(layer, rng)
    return out


def _moved(layer: npt.NDArray[np.integer], dy: int, dx: int) -> npt.NDArray[np.integer]:
    """A layer moved by some voxels; its border is drawn out."""
    rows = np.clip(np.arange(layer.shape[0]) - dy, 0, layer.shape[0] - 1)
    columns = np.clip(np.arange(layer.shape[1]) - dx, 0, layer.shape[1] - 1)
    return layer[np.ix_(rows, columns)]


def _take_corners(layer: npt.NDArray[np.integer], rng: np.random.Generator) -> None:
    """Clear a disc about a voxel at the border of some of the masks."""
    names, _first, number, area = np.unique(layer, return_index=True, return_inverse=True, return_counts=True)
    border = _border(layer)
    number = number.reshape(layer.shape)
    chosen = np.flatnonzero((rng.random(len(names)) < _CORNERED) & (names != 0) & (area > 20))
    points = np.argwhere(border & np.isin(number, chosen))
    points = points[rng.permutation(len(points))]
    _, one = np.unique(number[tuple(points.T)], return_index=True)
    for y, x in points[one].tolist():
        _clear(layer, y, x, _CORNER * float(np.sqrt(area[number[y, x]] / np.pi)))


def _border(layer: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    out = np.zeros(layer.shape, bool)
    for axis in (0, 1):
        differ = np.diff(layer.astype(np.int64), axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(0, -1), slice(1, None)
        out[tuple(before)] |= differ
        out[tuple(after)] |= differ
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _clear(layer, y, x, radius):  # type: ignore[no-untyped-def]
    label, reach = layer[y, x], int(radius)
    for v in range(max(0, y - reach), min(layer.shape[0], y + reach + 1)):
        for u in range(max(0, x - reach), min(layer.shape[1], x + reach + 1)):
            if layer[v, u] == label and (v - y) ** 2 + (u - x) ** 2 <= radius * radius:
                layer[v, u] = 0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sides(layer, y, x):  # type: ignore[no-untyped-def]
    """Labels above, below, left and right; the layer goes on as it ends."""
    height, width = layer.shape
    return (
        layer[max(y - 1, 0), x],
        layer[min(y + 1, height - 1), x],
        layer[y, max(x - 1, 0)],
        layer[y, min(x + 1, width - 1)],
    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shrink(before, out):  # type: ignore[no-untyped-def]
    """Clear what has another label at one of its sides."""
    for y in range(before.shape[0]):
        for x in range(before.shape[1]):
            for side in _sides(before, y, x):
                if side != before[y, x]:
                    out[y, x] = 0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _grow(before, out):  # type: ignore[no-untyped-def]
    """Background with a label at one of its sides takes it."""
    for y in range(before.shape[0]):
        for x in range(before.shape[1]):
            if before[y, x] == 0:
                out[y, x] = max(_sides(before, y, x))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _roughen(before, where, out):  # type: ignore[no-untyped-def]
    """Half of the voxels take the label beside them, at a side drawn for each."""
    for y in range(before.shape[0]):
        for x in range(before.shape[1]):
            if where[y, x] < 4:
                out[y, x] = _sides(before, y, x)[where[y, x]]
