"""What looks wrong with a label volume before anything is corrected, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.sums import largest_rows
from overseg.kernels.tables import Bool, Labels, LayerTable
from overseg.pipeline.reconcile import Box, Reconciled, Summary

_FEW = 4  # labels; a semantic mask rarely has more classes
_BULK = 20  # labels from which "most of them" means something
_FAR = 40  # times the variance of a disc: no cell is that long in one layer
_LOOSE = 1.5  # times the variance of a disc: not one compact piece
_DISC = 1 / (2 * np.pi)  # variance of a disc (both axes together) over its area
_NAMED = 5


@dataclass(frozen=True)
class Health:
    """Facts about labels of one time point. All are heuristics, made to warn and never to decide.

    Attributes
    ----------
    labels : int
        How many there are.
    background_like : ndarray of uint64
        Over a fifth of the volume, or present on all its faces.
    far_pieces : int
        Labels in pieces that lie far apart.
    far_named : ndarray of uint64
        A few of them.
    one_layer : int
        Labels that live in a single layer.
    spread : int
        Labels that lie all over the volume, or are like background.
    outlines : int
        Labels whose masks are rings: borders were labelled, not cells.
    """

    labels: int
    background_like: Labels
    far_pieces: int
    far_named: Labels
    one_layer: int
    spread: int
    outlines: int

    @property
    def few_valued(self) -> bool:
        """So few labels, so widely spread, that they are classes rather than cells."""
        return 0 < self.labels <= _FEW and self.spread == self.labels

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            name: value if isinstance(value, int) else value.tolist() for name, value in vars(self).items()
        }

    @classmethod
    def together(cls, parts: Iterable[Mapping[str, Any]]) -> Health:
        """Of all labels, from what `plain` gave for some of them each."""
        given = list(parts)

        def total(name: str) -> int:
            return sum(part[name] for part in given)

        def named(name: str) -> Labels:
            return np.array(sorted(label for part in given for label in part[name]), np.uint64)

        return cls(
            labels=total("labels"),
            background_like=named("background_like"),
            far_pieces=total("far_pieces"),
            far_named=named("far_named")[: _NAMED + 1],
            one_layer=total("one_layer"),
            spread=total("spread"),
            outlines=total("outlines"),
        )


def examine(found: Reconciled) -> Health:
    """Look for the usual trouble.

    Parameters
    ----------
    found : Reconciled
        The tables of one time point, or of some of its labels.

    Returns
    -------
    Health
    """
    layers, n = found.layers, len(found.layers.labels)
    spread, rings = _shapes(layers)
    named = ~np.isin(layers.labels, found.background_like)
    far = named & (_far_in_z(layers) | (spread > _FAR) & ~rings)
    wide = _wide(found.summary, found.box) & (spread > _LOOSE)
    return Health(
        labels=n,
        background_like=found.background_like,
        far_pieces=int(far.sum()),
        far_named=layers.labels[far][: _NAMED + 1],
        one_layer=int((np.diff(layers.start) == 1).sum()),
        spread=int((far | wide | ~named).sum()),
        outlines=int(rings.sum()),
    )


def warnings_of(health: Health) -> list[str]:
    """One line for each thing that looks wrong, with the remedy.

    Parameters
    ----------
    health : Health

    Returns
    -------
    list of str
    """
    lines = []
    if health.few_valued:
        values = "one value" if health.labels == 1 else f"{health.labels} values"
        lines.append(
            f"The volume holds {values} spread all over it: this looks like a mask of classes, "
            "not of cells. Label its connected components first, for example with skimage.measure.label."
        )
    elif len(health.background_like):
        ids = _some(health.background_like)
        lines.append(
            f"Label {ids} is over a fifth of the volume or lies on all its faces, like background: it is "
            f"never merged. If it is background, say so with --background 0 {ids}."
        )
    if health.far_pieces and not health.few_valued:
        lines.append(
            f"{health.far_pieces} labels come in several far pieces, for example "
            f"{_some(health.far_named)}: ids were used twice. Give each piece its own id first, for example "
            "with skimage.measure.label, else cells far apart share decisions."
        )
    if health.labels >= _BULK and 2 * health.one_layer > health.labels:
        lines.append(
            f"{health.one_layer} of {health.labels} labels live in one layer: these look like 2D masks that "
            "were never stitched. Stitch them along z first, for example with CellStitch or "
            "cellpose --stitch_threshold."
        )
    if 2 * health.outlines > health.labels and not health.few_valued:
        lines.append(
            f"{health.outlines} of {health.labels} labels are rings: these look like outlines. Fill the "
            "masks first, for example with scipy.ndimage.binary_fill_holes layer by layer."
        )
    return lines


def _far_in_z(layers: LayerTable) -> Bool:
    """Labels with a stretch of layers between their pieces that is longer than all the layers they have."""
    far = np.zeros(len(layers.labels), bool)
    member = np.repeat(np.arange(len(layers.labels)), np.diff(layers.start))
    missing = np.diff(layers.z) - 1
    inside = np.diff(member) == 0
    longest = np.maximum(np.diff(layers.start)[member[1:]], 2 * layers.back.shape[1])
    far[member[1:][inside & (missing > longest)]] = True
    return far


def _wide(summary: Summary, box: Box) -> Bool:
    """Labels whose box holds over a quarter of the volume."""
    s = summary
    room = (s.z1 - s.z0) * (s.y1 - s.y0) * (s.x1 - s.x0)
    return np.asarray(4 * room > math.prod(hi - lo for lo, hi in box), bool)


def _shapes(layers: LayerTable) -> tuple[npt.NDArray[np.float64], Bool]:
    """Each label's largest layer: its variance over that of a disc of its area, and whether it is a ring."""
    m = len(layers.labels)
    if not m:
        return np.zeros(0), np.zeros(0, bool)
    at = largest_rows(layers.start, layers.area)
    area = layers.area[at].astype(np.float64)
    mean_y, mean_x = layers.sy[at] / area, layers.sx[at] / area
    var_y, var_x = layers.syy[at] / area - mean_y**2, layers.sxx[at] / area - mean_x**2
    both = layers.syx[at] / area - mean_y * mean_x
    spread = np.where(layers.too_large, 0.0, (var_y + var_x) / (area * _DISC))
    # Voxels of a ring lie about one radius from its middle, evenly in all directions.
    height, width = layers.y1[at] - layers.y0[at], layers.x1[at] - layers.x0[at]
    thin = (spread > 1.8) & (np.minimum(height, width) >= 5)
    radius = (height + width) / 4
    round_ = (np.abs(both) < 0.2 * radius**2) & (np.maximum(var_y, var_x) < 3 * np.minimum(var_y, var_x))
    return spread, thin & round_ & (var_y + var_x > 0.6 * radius**2) & (var_y + var_x < 1.4 * radius**2)


def _some(labels: Labels) -> str:
    named = " ".join(str(int(label)) for label in labels[:_NAMED])
    return named + (" ..." if len(labels) > _NAMED else "")
