"""What is usual in a volume: how much its own cells change from layer to layer.

Tissues, samplings and segmentations differ in how alike the layers of one cell are, and a short part says
little of that itself. So the change through a gap is also set against the changes within all cells of the
volume, at the same lag. No truth is needed for that. The method is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Int, LayerTable
from overseg.model.changes import CHANGES, changes, shared_within, within

Float = npt.NDArray[np.float64]

#: So many cells tell what is usual, about.
CELLS = 1024

#: Levels of the quantiles that are kept.
LEVELS = 64

_OF_A_CHANGE = ("rank", "middle", "far")

#: Names of the columns of `usual_features`.
USUAL: tuple[str, ...] = tuple(f"{change}_usual_{what}" for change in CHANGES for what in _OF_A_CHANGE)

#: Smaller masks are mostly border: how they change says nothing of the others.
_LEAST_AREA = 6
_FLOOR = 0.02


@dataclass(frozen=True)
class Usual:
    """Changes within a volume's cells.

    Attributes
    ----------
    quantiles : ndarray of float64, shape (lags, len(CHANGES), LEVELS + 1)
        For a lag of 1, 2, ... layers and each change the quantiles at 0, 1 / LEVELS, ..., 1; NaN where no
        cell has so many layers.
    """

    quantiles: Float


def usual_of(layers: LayerTable, voxel_size: tuple[float, float, float]) -> Usual:
    """What is usual among some cells.

    Parameters
    ----------
    layers : LayerTable
        All rows of these cells; those that are too large are passed over.
    voxel_size : tuple of float
        (z, y, x), any unit of length; only the ratio of y to x matters.

    Returns
    -------
    Usual
        The same bits for any order of the cells and for a flipped volume.
    """
    names = ("area", "sy", "sx", "syy", "sxx", "syx")
    moments = np.stack([getattr(layers, name) for name in names], axis=1).astype(np.int64)
    start, z = layers.start.astype(np.int64), layers.z.astype(np.int64)
    back = np.ascontiguousarray(layers.back, np.int64)
    out = np.full((layers.lags, len(CHANGES), LEVELS + 1), np.nan)
    for lag in range(1, layers.lags + 1):
        found = np.empty((len(CHANGES), len(z)))
        size = _all_within(
            start, z, moments, back, layers.too_large, lag, float(voxel_size[1]), float(voxel_size[2]), found
        )
        if size:
            out[lag - 1] = np.quantile(found[:, :size], np.linspace(0, 1, LEVELS + 1), axis=1).T
    return Usual(out)


def usual_features(through: Float, gap: Int, usual: Usual) -> Float:
    """How unusual the changes through some gaps are in this volume.

    Parameters
    ----------
    through : ndarray of float64, shape (n, len(CHANGES))
        Changes through the gaps.
    gap : ndarray of int64, shape (n,)
        Layers between the faces.
    usual : Usual

    Returns
    -------
    ndarray of float64, shape (n, len(USUAL))
        For each change the share of changes within cells that are smaller (equal ones count half), and its
        log ratio to their median and to what a tenth of them exceeds. One half and 0 where nothing is known.
    """
    out = np.zeros((len(through), len(USUAL)))
    _compare(np.ascontiguousarray(through), gap.astype(np.int64), usual.quantiles, out)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all_within(start, z, moments, back, barred, lag, size_y, size_x, out):  # type: ignore[no-untyped-def]
    """Changes of all pairs of layers `lag` apart, over the pair's radius; how many there are."""
    size, still = 0, np.zeros(2, np.int64)
    for label in range(start.size - 1):
        if barred[label]:
            continue
        pairs = within(np.arange(start[label], start[label + 1]), z, lag)
        shared = shared_within(pairs, z, back, lag)
        n = 0
        for k in range(pairs.shape[0]):
            one, two = pairs[k]
            if min(moments[one, 0], moments[two, 0]) < _LEAST_AREA:
                continue
            # The same order of the two masks in a flipped volume.
            for m in range(moments.shape[1]):
                if moments[one, m] != moments[two, m]:
                    if moments[one, m] > moments[two, m]:
                        one, two = two, one
                    break
            pairs[n, 0], pairs[n, 1], shared[n] = one, two, shared[k]
            n += 1
        found = changes(pairs[:n], shared[:n], moments, still, size_y, size_x, 1.0)
        for k in range(n):
            area = 0.5 * (moments[pairs[k, 0], 0] + moments[pairs[k, 1], 0])
            radius = np.sqrt(area * size_y * size_x / np.pi)
            for m in range(out.shape[0]):
                out[m, size] = found[m, k] / radius if m < 2 else found[m, k]
            size += 1
    return size


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _compare(through, gap, quantiles, out):  # type: ignore[no-untyped-def]
    levels = quantiles.shape[2] - 1
    for i in range(through.shape[0]):
        for m in range(through.shape[1]):
            known, value = quantiles[gap[i], m], through[i, m]
            if np.isnan(known[0]):
                out[i, 3 * m] = 0.5
                continue
            below = 0.0
            for level in known:
                below += 1.0 if level < value else (0.5 if level == value else 0.0)
            out[i, 3 * m] = below / (levels + 1)
            out[i, 3 * m + 1] = np.log((value + _FLOOR) / (known[levels // 2] + _FLOOR))
            out[i, 3 * m + 2] = np.log((value + _FLOOR) / (known[(9 * levels) // 10] + _FLOOR))
