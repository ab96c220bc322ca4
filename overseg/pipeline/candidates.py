"""Which faces may belong to one cell: the candidate rule of docs/architecture.md, section 4.

Found in three steps, so that no process needs all of the tables. `sides_of` looks at pairs of labels from the
upper one's side, `meet` from the lower one's, each with the rows of its own labels alone; `resolve` follows
chains among the few contacts that are left. All comparisons are between integers and treat both directions of
z alike, so that no chunk border, order of rows or flip of the volume can change which candidates there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import Columns
from overseg.kernels.scan import scan_array
from overseg.kernels.tables import Candidates, LayerTable
from overseg.pipeline.chains import resolve
from overseg.pipeline.contacts import Rule, joined, meet, sides_of

__all__ = ["Found", "find_candidates", "scan_array", "search"]


@dataclass(frozen=True)
class Found:
    """Candidates, and what was not judged.

    Attributes
    ----------
    candidates : Candidates
        Sorted by (a, b, z, gap).
    touching : int
        Labels that end right above the start of another and are no link of a chain: flat splits or cells,
        which nobody judged.
    """

    candidates: Candidates
    touching: int


def find_candidates(
    layers: LayerTable,
    pairs: Columns,
    stacked: Columns,
    max_gap: int,
    rule: Rule = "default",
    excluded: npt.ArrayLike = (),
) -> Candidates:
    """Pairs of faces across one to `max_gap` missing layers, and the links of chains.

    Parameters
    ----------
    layers : LayerTable
        Every label in every layer.
    pairs, stacked : dict of ndarray
        Facing and touching labels, merged over all tasks.
    max_gap : int
        Layers that may be missing.
    rule : {"default", "paper"}
        The faces of section 4, or the globally last layer of a and first of b with one layer missing, as
        published (arXiv 2502.01890).
    excluded : array_like of uint64
        Labels that are never candidates, such as an unmarked background.

    Returns
    -------
    Candidates
        Sorted by (a, b, z, gap).
    """
    return search(layers, pairs, stacked, max_gap, rule, excluded).candidates


def search(
    layers: LayerTable,
    pairs: Columns,
    stacked: Columns,
    max_gap: int,
    rule: Rule = "default",
    excluded: npt.ArrayLike = (),
) -> Found:
    """As `find_candidates`, with the flat contacts that nobody judged."""
    barred = np.asarray(excluded, np.uint64).reshape(-1)
    sides = sides_of(layers, pairs, stacked, max_gap, rule, barred)
    contacts, flat = meet(sides.upper, sides.faces, layers.lags, rule)
    candidates, judged = resolve(joined([contacts, sides.holes]), max_gap)
    return Found(candidates, flat - judged)
