"""Whole labels and contacts on disk, in the same parts as the layers: who needs some reads those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overseg.kernels.solids import Solids, Touches
from overseg.kernels.tables import Labels
from overseg.pipeline.layerstore import LayerStore
from overseg.pipeline.sections import Sections


@dataclass(frozen=True)
class SolidStore:
    """What `overseg.pipeline.parts.reconcile` left of one time point where contacts were counted.

    Small, and good on any machine that sees the folder. All methods raise `PlanError` if a part is damaged.

    Attributes
    ----------
    layers : LayerStore
        Of the same time point.
    """

    layers: LayerStore

    def contacts(self, part: int) -> Touches:
        """Contacts of which the smaller label, a, belongs to a part; all there are, whatever their labels."""
        touches = Touches.of(Sections(self.layers.path(part)).checked("contacts"))
        return touches.take(np.lexsort((touches.b, touches.a)))  # on disk they are in order of b's part

    def all_of(self, part: int) -> Solids:
        """All labels of a part."""
        return Solids.of(Sections(self.layers.path(part)).checked("solids"))

    def solids(self, labels: Labels) -> Solids:
        """These labels; each once, sorted. All must be there.

        Parameters
        ----------
        labels : ndarray of uint64, shape (n,)

        Returns
        -------
        Solids
        """
        names = np.unique(labels)
        found = np.empty((len(names), Solids.COLUMNS), np.int64)
        for file, mine, places in self.layers.found(names):
            found[mine] = file["solids"][places]
        return Solids.of(found)
