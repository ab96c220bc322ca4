"""A model of touching labels from labelled volumes: cut their cells, and learn which contacts are cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.bodies import Neighbours
from overseg.kernels.solids import Touches, touch_array
from overseg.kernels.tables import Labels
from overseg.measure import calibrate
from overseg.measure.cutting import Cut, cut_cells
from overseg.measure.examples import Examples, Triple, views
from overseg.measure.training import Trained, fit_left_out
from overseg.model.mlp import Float
from overseg.model.touching import TOUCHING, touching_features
from overseg.pipeline.graph import candidates_among

Voxels = npt.NDArray[Any]
Tissues = Sequence[Sequence[tuple[Voxels, Triple]]]

#: A label of more than this part of a volume is background that nobody marked.
_TOO_LARGE = 0.2


@dataclass(frozen=True)
class Contacts:
    """A volume with known cuts, and the contacts in it that may be one.

    Attributes
    ----------
    broken : ndarray of int, shape (z, y, x)
    cuts : tuple of Cut
    cells : int
        Of the volume before.
    around : Neighbours
        All labels and contacts.
    pairs : Touches
        Candidates.
    voxel_size : tuple of float
        (z, y, x).
    """

    broken: Voxels
    cuts: tuple[Cut, ...]
    cells: int
    around: Neighbours
    pairs: Touches
    voxel_size: Triple

    @property
    def box(self) -> tuple[tuple[int, int], ...]:
        """Half-open voxel ranges of the whole volume."""
        return tuple((0, n) for n in self.broken.shape)

    def true_of(self, labels: Labels) -> Labels:
        """The true cell of each label."""
        new = np.array([cut.new for cut in self.cuts], np.uint64)
        true = np.array([cut.true for cut in self.cuts], np.uint64)
        order = np.argsort(new)
        if not len(order):
            return labels
        at = np.minimum(np.searchsorted(new[order], labels), len(order) - 1)
        return np.where(new[order][at] == labels, true[order][at], labels)

    def same_cell(self) -> npt.NDArray[np.bool_]:
        """Whether both sides of each contact are one cell."""
        return np.asarray(self.true_of(self.pairs.a) == self.true_of(self.pairs.b), bool)

    def natural(self) -> npt.NDArray[np.bool_]:
        """Whether each contact is between two cells of which neither was cut."""
        cut = np.unique(np.array([[each.true, each.new] for each in self.cuts], np.uint64))
        return ~(np.isin(self.pairs.a, cut) | np.isin(self.pairs.b, cut))

    def features(self) -> Float:
        """Of all candidates."""
        return touching_features(self.around, self.pairs.a, self.pairs.b, self.voxel_size, self.box)


def cut_and_look(labels: Voxels, voxel_size: Triple, seed: int, **options: Any) -> Contacts:
    """Cut cells of a volume and find all contacts.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        True cells.
    voxel_size : tuple of float
        (z, y, x).
    seed : int
    **options
        Of `overseg.measure.cutting.cut_cells`.

    Returns
    -------
    Contacts
    """
    broken, cuts = cut_cells(labels, voxel_size, seed=seed, **options)
    solids, touches = touch_array(broken)
    large = solids.label[solids.n > _TOO_LARGE * broken.size]
    pairs = touches.take(candidates_among(touches, solids, voxel_size))
    pairs = pairs.take(~(np.isin(pairs.a, large) | np.isin(pairs.b, large)))
    cells = len(solids) - len(large) - len(cuts)
    return Contacts(broken, cuts, cells, Neighbours.of(solids, touches), pairs, voxel_size)


def contact_cases(
    tissues: Tissues, *, seed: int = 0, repeats: int = 1, rate: float = 0.4
) -> Iterator[tuple[int, Contacts]]:
    """Cut volumes from all views of all volumes.

    Parameters
    ----------
    tissues : sequence of sequence of (ndarray, tuple of float)
        For each tissue its volumes of true cells, with their voxel sizes.
    seed : int
        Seed of the first simulation; each further one counts on.
    repeats : int
        Simulations per view.
    rate : float
        Part of the cells that is cut.

    Yields
    ------
    tuple of int and Contacts
        The tissue's position, and a case of it.
    """
    for number, volumes in enumerate(tissues):
        for labels, voxel_size in volumes:
            for view, size in views(labels, voxel_size):
                for _ in range(repeats):
                    yield number, cut_and_look(view, size, seed, rate=rate)
                    seed += 1


def collect_contacts(tissues: Tissues, *, seed: int, repeats: int) -> Examples:
    """Features and truth of all candidates of all cases."""
    rows: list[tuple[npt.NDArray[Any], ...]] = []
    cells = np.zeros(len(tissues), np.int64)
    for number, (group, case) in enumerate(contact_cases(tissues, seed=seed, repeats=repeats)):
        n = len(case.pairs)
        places = np.full(n, group, np.int64), np.full(n, number, np.int64)
        rows.append((case.features(), case.same_cell(), case.natural(), *places))
        cells[group] += case.cells - len({cut.true for cut in case.cuts})
    features, same, natural, groups, numbers = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Examples(features, same, natural, groups, numbers, cells)


def train_touching(tissues: Tissues, *, seed: int, repeats: int, epochs: int) -> Trained:
    """A head of contacts, and for each tissue one that has not seen it."""
    examples = collect_contacts(tissues, seed=seed, repeats=repeats)
    head, folds, unseen = fit_left_out(examples, TOUCHING, seed=seed, epochs=epochs)
    low, high = calibrate.SURE_LOW, calibrate.SURE_HIGH
    heads = [{"touching": replace(each, sure_low=low, sure_high=high)} for each in (head, *folds)]
    facts = {"candidate_rule": "contacts"}
    return Trained(heads[0], tuple(heads[1:]), unseen, examples, facts)
