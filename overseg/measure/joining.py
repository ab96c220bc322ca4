"""A model of touching labels from labelled volumes: cut their cells, and learn which contacts are cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.bodies import Neighbours
from overseg.kernels.groups import Groups
from overseg.kernels.solids import Touches, touch_array
from overseg.kernels.tables import Labels
from overseg.measure import calibrate
from overseg.measure.cutting import Cut, cut_cells
from overseg.measure.examples import Triple, collect, views
from overseg.measure.training import Trained, fit_left_out
from overseg.model.across import ACROSS
from overseg.model.mlp import Float
from overseg.model.touching import TOUCHING, touching_features
from overseg.pipeline.across import Kind, measured_across
from overseg.pipeline.closer import looks, sights
from overseg.pipeline.graph import candidates_among
from overseg.pipeline.plandata import Fills

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

    @property
    def counted(self) -> int:
        """Cells that false merges are set against: those that were not cut."""
        return self.cells - len({cut.true for cut in self.cuts})

    def certain(self) -> npt.NDArray[np.bool_]:
        """The truth of each contact is known."""
        return np.ones(len(self.pairs), bool)

    def same_cell(self) -> npt.NDArray[np.bool_]:
        """Whether both sides of each contact are one cell."""
        return np.asarray(self.true_of(self.pairs.a) == self.true_of(self.pairs.b), bool)

    def natural(self) -> npt.NDArray[np.bool_]:
        """Whether each contact is between two cells of which neither was cut."""
        cut = np.unique(np.array([[each.true, each.new] for each in self.cuts], np.uint64))
        return ~(np.isin(self.pairs.a, cut) | np.isin(self.pairs.b, cut))


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


def touching_of(case: Contacts, rows: npt.NDArray[np.int64]) -> Float:
    """Features of the first stage of some candidates of a case."""
    pairs = case.pairs.take(rows)
    return touching_features(case.around, pairs.a, pairs.b, case.voxel_size, case.box)


def across_of(case: Contacts, rows: npt.NDArray[np.int64]) -> Float:
    """Features of both stages of some candidates of a case."""
    return np.concatenate([touching_of(case, rows), seen_across(case, rows, "tilted")], axis=1)


def seen_across(case: Contacts, rows: npt.NDArray[np.int64], kind: Kind) -> Float:
    """What some candidates of a case look like across their contact."""
    pairs, shape = case.pairs.take(rows), case.broken.shape
    seen = sights(pairs, case.around.solids, case.voxel_size, (shape[0], shape[1], shape[2]))
    wanted = list(looks(pairs.a, pairs.b, seen, Groups.none(), Fills.none()))
    return measured_across(case.broken.__getitem__, wanted, kind, case.voxel_size)


def train_touching(tissues: Tissues, *, seed: int, repeats: int, epochs: int) -> Trained:
    """Heads of both stages; the second goes on from the first with what that is unsure of."""

    def again() -> Iterator[tuple[int, Contacts]]:
        return contact_cases(tissues, seed=seed, repeats=repeats)

    examples = collect(again(), touching_of)
    first, first_folds, unseen = fit_left_out(examples, TOUCHING, seed=seed, epochs=epochs)
    low, high = calibrate.SURE_LOW, calibrate.SURE_HIGH
    # A wider band than is asked later, and of every view one case: these features are dear.
    once = examples.case % repeats == 0
    keep = once & (unseen > 0.3 * low) & (unseen < 1 - 0.3 * (1 - high))
    asked = ((unseen[once] > low) & (unseen[once] < high)).mean()
    starts = first, *first_folds
    closer = collect(again(), across_of, keep)
    second, second_folds, seen = fit_left_out(
        closer, TOUCHING + ACROSS, seed=seed, epochs=2 * epochs, starts=starts
    )
    unseen[keep] = np.where((unseen[keep] > low) & (unseen[keep] < high), seen, unseen[keep])
    judged = examples.take(once, examples.cells // repeats)
    pairs = zip(starts, (second, *second_folds), strict=True)
    heads = [{"touching": replace(one, sure_low=low, sure_high=high), "across": two} for one, two in pairs]
    facts = {
        "candidate_rule": "contacts",
        "asked_second_stage": round(float(asked), 4),
    }
    return Trained(heads[0], tuple(heads[1:]), unseen[once], judged, facts)
