"""How good a segmentation is: tables of which labels meet, from volumes that are read in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure.source import Source, open_source
from overseg.measure.truth import Cut, Split, Truth, read_truth

THRESHOLDS = (0.25, 0.5, 0.75)

Counts = dict[tuple[int, int], int]


@dataclass(frozen=True)
class Score:
    """Agreement of cells at one threshold.

    Attributes
    ----------
    iou : float
        Two cells match from this intersection over union on; one to one, as many as possible.
    ap, precision, recall : float
        TP / (TP + FP + FN), TP / (TP + FP), TP / (TP + FN); NaN where there is nothing to count.
    matched, extra, missed : int
        TP, FP and FN.
    """

    iou: float
    ap: float
    precision: float
    recall: float
    matched: int
    extra: int
    missed: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    cells, true_cells : int
        Labels in the result and in the truth.
    scores : tuple of Score
        One per threshold.
    mean_ap : float
        Mean of the average precisions over the thresholds.
    voi_split, voi_merge : float
        Conditional entropies H(result | truth) and H(truth | result) over all voxels, background counting as
        a label, in bits.
    merges_right, merges_wrong : int or None
        With `broken`: joins of labels of the broken volume within a true cell, and across true cells.
    splits, splits_joined, splits_repaired : int or None
        With a truth table: splits; those whose two parts carry one label (for holes: whose gap is filled);
        and those whose layers between carry it as well, in most of the true cell's voxels.
    natural, natural_kept, hard, hard_kept : int or None
        With a truth table: pairs of different cells across gaps, and those still apart.
    cuts, cuts_joined : int or None
        With a truth table that has any: cuts through cells; and with `broken` those whose two parts carry
        one label, each by most of its voxels.
    """

    cells: int
    true_cells: int
    scores: tuple[Score, ...]
    mean_ap: float
    voi_split: float
    voi_merge: float
    merges_right: int | None = None
    merges_wrong: int | None = None
    splits: int | None = None
    splits_joined: int | None = None
    splits_repaired: int | None = None
    natural: int | None = None
    natural_kept: int | None = None
    hard: int | None = None
    hard_kept: int | None = None
    cuts: int | None = None
    cuts_joined: int | None = None


def evaluate(
    result: Any, truth: Any, *, broken: Any = None, table: Truth | None = None, label: str | None = None
) -> Evaluation:
    """Compare a segmentation with the truth.

    Parameters
    ----------
    result : path, URL, zarr.Array, zarr.Group or ndarray of int, shape (z, y, x)
        The segmentation.
    truth : the same, or a folder ``NAME.truth`` of `overseg simulate`
        The true cells. Such a folder brings its table of splits.
    broken : the same, optional
        The segmentation before it was corrected, to count merges, and cuts that were joined.
    table : Truth, optional
        What was broken, where `truth` does not bring it.
    label : str, optional
        Which labels of an OME-Zarr image.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If a volume cannot be read, or the shapes differ.

    Notes
    -----
    Average precision as in Stringer et al., Nature Methods 18:100, 2021; variation of information as in
    Meila, J. Multivariate Analysis 98:873, 2007. Label 0 is the background. Memory grows with the number of
    pairs of labels that meet, not with the volume.
    """
    if isinstance(truth, str | Path) and (Path(truth) / "truth.json").exists():
        table = read_truth(truth)
        truth = Path(truth) / "labels.zarr"
    ours, true = open_source(result, label), open_source(truth, label)
    before = None if broken is None else open_source(broken, label)
    for other in (true, before):
        if other is not None and other.shape != ours.shape:
            raise InputError(
                "the volumes have different shapes",
                where=f"{ours.name} {ours.shape}, {other.name} {other.shape}",
                remedy="compare volumes of the same region and level",
            )
    meetings: Counts = {}
    pieces: Counts = {}
    origins: Counts = {}
    for box in ours.boxes():
        block, target = ours.read(box), true.read(box)
        _add(meetings, target, block)
        if before is not None:
            old = before.read(box)
            _add(pieces, old, block)
            _add(origins, old, target)
    merges = _merges(pieces, origins) if before is not None else (None, None)
    verdicts = _verdicts(ours, true, table) if table is not None else {}
    if table is not None and table.cuts:
        verdicts["cuts"] = len(table.cuts)
        if before is not None:
            verdicts["cuts_joined"] = _joined(pieces, table.cuts)
    found = _agreement(meetings) | verdicts | {"merges_right": merges[0], "merges_wrong": merges[1]}
    return Evaluation(**found)


def contingency(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Counts:
    """How many voxels each pair of labels shares.

    Parameters
    ----------
    first, second : ndarray of int
        Labels, of one shape.

    Returns
    -------
    dict of (int, int) to int
    """
    counts: Counts = {}
    _add(counts, first, second)
    return counts


def _add(counts: Counts, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> None:
    import fastremap

    # Dense numbers first, so that a pair fits one integer whatever the ids.
    one, names_one = fastremap.renumber(np.ascontiguousarray(first), in_place=False)
    two, names_two = fastremap.renumber(np.ascontiguousarray(second), in_place=False)
    width = max(names_two.values(), default=0) + 1
    keys, n = np.unique(one.astype(np.int64).ravel() * width + two.ravel(), return_counts=True)
    back_one = {number: name for name, number in names_one.items()} | {0: 0}
    back_two = {number: name for name, number in names_two.items()} | {0: 0}
    for key, count in zip(keys.tolist(), n.tolist(), strict=True):
        pair = int(back_one[key // width]), int(back_two[key % width])
        counts[pair] = counts.get(pair, 0) + count


def _sums(counts: Counts, side: int) -> dict[int, int]:
    sums: dict[int, int] = {}
    for pair, n in counts.items():
        sums[pair[side]] = sums.get(pair[side], 0) + n
    return sums


def _agreement(meetings: Counts) -> dict[str, Any]:
    true, ours = _sums(meetings, 0), _sums(meetings, 1)
    cells, true_cells = len(ours.keys() - {0}), len(true.keys() - {0})
    pairs = {
        pair: n / (true[pair[0]] + ours[pair[1]] - n) for pair, n in meetings.items() if pair[0] and pair[1]
    }
    scores = tuple(_score(pairs, iou, cells, true_cells) for iou in THRESHOLDS)
    return {
        "cells": cells,
        "true_cells": true_cells,
        "scores": scores,
        "mean_ap": float(np.mean([score.ap for score in scores])),
        "voi_split": _entropy(meetings, true, 0),
        "voi_merge": _entropy(meetings, ours, 1),
    }


def _score(pairs: dict[tuple[int, int], float], iou: float, cells: int, true_cells: int) -> Score:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    good = [pair for pair, value in pairs.items() if value >= iou]
    matched = 0
    if good:
        rows, one = np.unique([pair[0] for pair in good], return_inverse=True)
        columns, two = np.unique([pair[1] for pair in good], return_inverse=True)
        graph = csr_array((np.ones(len(good), np.int8), (one, two)), shape=(len(rows), len(columns)))
        matched = int((maximum_bipartite_matching(graph) >= 0).sum())
    extra, missed = cells - matched, true_cells - matched

    def ratio(total: int) -> float:
        return matched / total if total else float("nan")

    return Score(
        iou, ratio(matched + extra + missed), ratio(cells), ratio(true_cells), matched, extra, missed
    )


def _entropy(meetings: Counts, given: dict[int, int], side: int) -> float:
    """Conditional entropy of the other side given this one, in bits."""
    total = sum(meetings.values())
    terms = sorted(n / total * np.log2(given[pair[side]] / n) for pair, n in meetings.items())
    return float(sum(terms))


def most(counts: Counts) -> dict[int, int]:
    """For each first label the second it shares most voxels with; background only where there is no other.

    Parameters
    ----------
    counts : dict of (int, int) to int
        As of `contingency`.

    Returns
    -------
    dict of int to int
        Without the first label 0.
    """
    best: dict[int, tuple[bool, int, int]] = {}
    for (one, two), n in counts.items():
        key = (two != 0, n, -two)
        if one and (one not in best or key > best[one]):
            best[one] = key
    return {one: -key[2] for one, key in best.items()}


def _merges(pieces: Counts, origins: Counts) -> tuple[int, int]:
    """Joins of former labels that are right, and joins of different cells."""
    cell_of = most(origins)
    groups: dict[int, list[int]] = {}
    for old, new in most(pieces).items():
        if new:
            groups.setdefault(new, []).append(cell_of[old])
    right = sum(len(group) - len(set(group)) for group in groups.values())
    wrong = sum(len(set(group)) - 1 for group in groups.values())
    return right, wrong


def _joined(pieces: Counts, cuts: Sequence[Cut]) -> int:
    """Cuts whose parts carry one label."""
    now = most(pieces)
    return sum(now.get(cut.kept, 0) == now.get(cut.new, 0) != 0 for cut in cuts)


def _verdicts(ours: Source, true: Source, table: Truth) -> dict[str, int]:
    faces: dict[tuple[int, int], int] = {}
    wanted: dict[int, set[int]] = {}
    for split in table.splits:
        for z in range(split.z, split.z + split.gap + 2):
            wanted.setdefault(z, set()).add(split.true)
    gaps = {"natural": table.natural, "hard": table.hard}
    true_of = dict(zip(table.label.tolist(), table.true.tolist(), strict=True))
    for gap in (*table.natural, *table.hard):
        wanted.setdefault(gap.z, set()).add(true_of[gap.upper])
        wanted.setdefault(gap.z + gap.gap + 1, set()).add(true_of[gap.lower])
    for z, cells in sorted(wanted.items()):
        faces |= {(z, cell): label for cell, label in _faces(ours, true, z, cells).items()}

    def one_label(split: Split, *layers: int) -> bool:
        names = {faces.get((z, split.true), 0) for z in layers}
        return len(names) == 1 and 0 not in names

    repaired = [one_label(s, *range(s.z, s.z + s.gap + 2)) for s in table.splits]
    joined = [
        whole if s.kind == "hole" else one_label(s, s.z, s.z + s.gap + 1)
        for s, whole in zip(table.splits, repaired, strict=True)
    ]
    verdicts = {"splits": len(joined), "splits_joined": sum(joined), "splits_repaired": sum(repaired)}
    for name, pairs in gaps.items():
        kept = sum(
            faces.get((g.z, true_of[g.upper])) != faces.get((g.z + g.gap + 1, true_of[g.lower]))
            for g in pairs
        )
        verdicts |= {name: len(pairs), f"{name}_kept": kept}
    return verdicts


def _faces(ours: Source, true: Source, z: int, cells: set[int]) -> dict[int, int]:
    """The label that most of each cell's voxels in a layer carry now; 0 where most carry none."""
    best: dict[int, tuple[int, int]] = {}
    counts: Counts = {}
    for box in ours.boxes(slice(z, z + 1)):
        target = true.read(box)
        inside = np.isin(target, list(cells))
        if inside.any():
            _add(counts, target[inside], ours.read(box)[inside])
    for (cell, label), n in counts.items():
        best[cell] = max(best.get(cell, (0, 0)), (n, label))
    return {cell: label for cell, (_, label) in best.items()}
