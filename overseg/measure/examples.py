"""Examples to learn from: candidates of volumes with known splits, and whether each is one cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Candidates, LayerTable
from overseg.measure.breaking import Holes
from overseg.measure.imaging import FLAWS, flawed
from overseg.measure.truth import Truth

Triple = tuple[float, float, float]
Known = TypeVar("Known", bound="Judgeable")
Measure = Callable[[Known, npt.NDArray[np.int64]], npt.NDArray[np.float64]]

#: Fewer layers than this hold no cell that could be broken.
_LEAST_LAYERS = 8

Rule = Literal["default", "paper"]
_HOLES: tuple[Holes, ...] = ("exact", "jittered", "dilated")
#: Every so many simulations of a view its masks are flawed. Flips would show nothing new: no feature changes.
_FLAWED_EVERY = 3


class Judgeable(Protocol):
    """A broken volume, and candidates in it of which the truth is known."""

    @property
    def counted(self) -> int:
        """Cells that false merges are set against."""
        ...

    def certain(self) -> npt.NDArray[np.bool_]:
        """Whether the truth of each candidate is known."""
        ...

    def same_cell(self) -> npt.NDArray[np.bool_]:
        """Whether both sides of each candidate belong to one cell."""
        ...

    def natural(self) -> npt.NDArray[np.bool_]:
        """Whether each candidate was there before anything was broken."""
        ...


@dataclass(frozen=True)
class Case:
    """One volume with known splits, scanned.

    Attributes
    ----------
    labels : ndarray of int, shape (z, y, x)
        The broken volume.
    original : ndarray of int, shape (z, y, x)
        The volume before.
    truth : Truth
    layers : LayerTable
    candidates : Candidates
    voxel_size : tuple of float
        (z, y, x).
    """

    labels: npt.NDArray[Any]
    original: npt.NDArray[Any]
    truth: Truth
    layers: LayerTable
    candidates: Candidates
    voxel_size: Triple

    @property
    def counted(self) -> int:
        """Cells that false merges are set against."""
        return len(np.unique(self.truth.true))

    def same_cell(self) -> npt.NDArray[np.bool_]:
        """Whether both faces of each candidate belong to one cell."""
        same: npt.NDArray[np.bool_] = self.truth.true_of(self.candidates.a) == self.truth.true_of(
            self.candidates.b
        )
        return same

    def natural(self) -> npt.NDArray[np.bool_]:
        """Whether each candidate is a pair of two cells that was one before anything was broken."""
        gaps = {(gap.upper, gap.lower, gap.z, gap.gap) for gap in self.truth.natural}
        found = self.candidates
        keys = zip(found.a.tolist(), found.b.tolist(), found.z.tolist(), found.gap.tolist(), strict=True)
        return np.array([key in gaps for key in keys], bool)

    def certain(self) -> npt.NDArray[np.bool_]:
        """Whether the truth of each candidate is known: a label may have had holes to begin with."""
        made = {(split.upper, split.z) for split in self.truth.splits if split.kind == "hole"}
        at = zip(self.candidates.a.tolist(), self.candidates.z.tolist(), strict=True)
        known = np.array([key in made for key in at], bool)
        return known | ~self.candidates.hole


def views(
    labels: npt.NDArray[Any], voxel_size: Triple, steps: int = 4
) -> Iterator[tuple[npt.NDArray[Any], Triple]]:
    """The volume along all three axes, with every layer and with every 2nd to `steps`-th alone.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
    voxel_size : tuple of float
        (z, y, x).
    steps : int
        Largest distance of the layers kept.

    Yields
    ------
    tuple of ndarray and tuple of float
        A volume whose first axis is z, and its voxel size.
    """
    for axis in range(3):
        turned = np.moveaxis(labels, axis, 0)
        size = (voxel_size[axis], *(voxel_size[k] for k in range(3) if k != axis))
        for step in range(1, steps + 1):
            if turned.shape[0] >= step * _LEAST_LAYERS:
                yield np.ascontiguousarray(turned[::step]), (size[0] * step, size[1], size[2])


def make_case(
    labels: npt.NDArray[Any],
    voxel_size: Triple,
    seed: int,
    *,
    max_gap: int = 2,
    rule: Rule = "default",
    **options: Any,
) -> Case:
    """Break a volume, scan it, and find its candidates.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        True cells.
    voxel_size : tuple of float
        (z, y, x).
    seed : int
        Seed of the simulation.
    max_gap : int
        Gaps of 1 to so many layers are made and looked for.
    rule : {"default", "paper"}
        How candidates are found.
    **options
        More options of `overseg.measure.simulate_splits`.

    Returns
    -------
    Case
    """
    from overseg.kernels.scan import scan_array
    from overseg.measure.simulation import simulate_splits
    from overseg.pipeline.candidates import find_candidates

    broken, truth = simulate_splits(labels, seed=seed, gaps=range(1, max_gap + 1), **options)
    tables = scan_array(broken, max_gap)
    large = truth.label[np.isin(truth.label, _large(broken))]
    found = find_candidates(*tables, max_gap, rule=rule, excluded=large)
    return Case(broken, labels, truth, tables[0], found, voxel_size)


def _large(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Labels of more than a fifth of the volume: background that nobody marked."""
    import fastremap

    names, counts = fastremap.unique(labels, return_counts=True)
    return np.asarray(names[counts > 0.2 * labels.size], np.uint64)


@dataclass(frozen=True)
class Examples:
    """Candidates to learn from, from many cases.

    Attributes
    ----------
    features : ndarray of float64, shape (n, F)
    same : ndarray of bool, shape (n,)
        Whether both faces belong to one cell.
    natural : ndarray of bool, shape (n,)
        Whether the pair, of two cells, was a candidate before anything was broken.
    group : ndarray of int64, shape (n,)
        Tissue the row comes from.
    case : ndarray of int64, shape (n,)
        Position of the row's case.
    cells : ndarray of int64, shape (groups,)
        Cells in all cases of each tissue.
    """

    features: npt.NDArray[np.float64]
    same: npt.NDArray[np.bool_]
    natural: npt.NDArray[np.bool_]
    group: npt.NDArray[np.int64]
    case: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.bool_], cells: npt.NDArray[np.int64]) -> Examples:
        """Some of the examples, and how many cells they stand for."""
        group, case = self.group[rows], self.case[rows]
        return Examples(self.features[rows], self.same[rows], self.natural[rows], group, case, cells)

    def without(self, group: int) -> tuple[npt.NDArray[np.bool_], Examples]:
        """Those of all tissues but one: which they are, and they."""
        others = self.group != group
        cells = np.where(np.arange(len(self.cells)) == group, 0, self.cells)
        return others, self.take(others, cells)


def cases(
    tissues: Sequence[Sequence[tuple[npt.NDArray[Any], Triple]]],
    *,
    seed: int = 0,
    repeats: int = 1,
    max_gap: int = 2,
    rate: float = 0.4,
    hard: float = 0.6,
    rule: Rule = "default",
) -> Iterator[tuple[int, Case]]:
    """Cases from all views of all volumes, with exact, jittered and dilated holes in turn.

    Parameters
    ----------
    tissues : sequence of sequence of (ndarray, tuple of float)
        For each tissue its volumes of true cells, with their voxel sizes.
    seed : int
        Seed of the first simulation; each further one counts on.
    repeats : int
        Simulations per view; in every third one masks are flawed (`overseg.measure.imaging`).
    max_gap, rate, hard, rule
        See `make_case` and `simulate_splits`.

    Yields
    ------
    tuple of int and Case
        The tissue's position, and a case of it.
    """
    for number, volumes in enumerate(tissues):
        for labels, voxel_size in volumes:
            for view, size in views(labels, voxel_size):
                for again in range(1, repeats + 1):
                    holes, flaw = _HOLES[seed % len(_HOLES)], FLAWS[seed % len(FLAWS)]
                    masks = view if again % _FLAWED_EVERY else flawed(view, flaw, seed)
                    case = make_case(
                        masks, size, seed, max_gap=max_gap, rule=rule, rate=rate, hard=hard, holes=holes
                    )
                    yield number, case
                    seed += 1


def collect(
    found: Iterable[tuple[int, Known]], measure: Measure[Known], keep: npt.NDArray[np.bool_] | None = None
) -> Examples:
    """Features and truth of the candidates of some cases; those whose truth is not known are left out.

    Parameters
    ----------
    found : iterable of (int, Case)
        As of `cases`, or of `overseg.measure.joining.contact_cases`.
    measure : callable
        Gives the features of a case for some rows of its candidates.
    keep : ndarray of bool, optional
        Which of the rows that a call without it gives are wanted.

    Returns
    -------
    Examples
    """
    rows: list[tuple[npt.NDArray[Any], ...]] = []
    cells: dict[int, int] = {}
    for number, (group, case) in enumerate(found):
        known = np.flatnonzero(case.certain())
        if keep is not None:
            known, keep = known[keep[: len(known)]], keep[len(known) :]
        n = len(known)
        places = np.full(n, group, np.int64), np.full(n, number, np.int64)
        rows.append((measure(case, known), case.same_cell()[known], case.natural()[known], *places))
        cells[group] = cells.get(group, 0) + case.counted
    features, same, natural, groups, numbers = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    counts = np.array([cells[group] for group in sorted(cells)], np.int64)
    return Examples(features, same, natural, groups, numbers, counts)
