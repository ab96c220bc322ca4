"""Decide: from probabilities to merges, fills, reviews and keeps, each with a reason.

1. Every candidate gets a wish: merge, review, or keep.
2. Wishes to merge compete, one partner per end of a label, greedily in the order
   (p descending, gap, smaller label, larger label), which no layout and no flip can change.
3. Accepted pairs meet in one union-find; a group is named by its smallest label.
4. A group over the guard's limits goes to review whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.kernels.groups import Groups
from overseg.kernels.tables import Candidates, Layers

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint64]

MERGE, FILL, REVIEW, KEEP = "merge", "fill", "review", "keep"
UNREAD = "unread"
EVERY = (MERGE, FILL, REVIEW, KEEP)


@dataclass(frozen=True)
class Guard:
    """Limits beyond which a group of merged labels is shown to a person instead.

    Attributes
    ----------
    members : int
        Labels in one group.
    volume_ratio : float
        Voxels of the group over the `volume_quantile` of all labels' voxels.
    volume_quantile : float
        Between 0 and 1.
    least_labels : int
        With fewer labels in the volume the quantile says nothing and is not used.
    """

    members: int = 8
    volume_ratio: float = 3.0
    volume_quantile: float = 0.99
    least_labels: int = 50


@dataclass(frozen=True)
class Verdicts:
    """One decision and one reason per candidate, and what follows from them.

    Attributes
    ----------
    decision : ndarray of str, shape (n,)
        ``merge``, ``fill`` (a hole to be filled), ``review`` or ``keep``.
    reason : ndarray of object, shape (n,)
        Each a str; the same few for all.
    old, new : ndarray of uint64, shape (m,)
        Relabelled ids, sorted by `old`; `new` is the smallest label of the group.
    """

    decision: npt.NDArray[np.str_]
    reason: npt.NDArray[np.object_]
    old: Labels
    new: Labels

    @classmethod
    def none(cls) -> Verdicts:
        """Of no candidates."""
        nothing = np.zeros(0, np.uint64)
        return cls(np.zeros(0, "<U6"), np.zeros(0, object), nothing, nothing)

    @property
    def groups(self) -> Groups:
        """Which labels became which."""
        return Groups(self.old, self.new)

    def root(self, labels: Labels) -> Labels:
        """The label that each of `labels` has after the merges."""
        return self.groups.root(labels)


def decide(
    candidates: Candidates,
    layers: Layers,
    p: Float,
    *,
    threshold: float,
    review_from: float,
    out_of_range: Bool,
    cut: Labels,
    guard: Guard | None = None,
    by_jaccard: bool = False,
    unread: Labels | None = None,
) -> Verdicts:
    """Decisions for all candidates of one volume at one time.

    Parameters
    ----------
    candidates : Candidates
        n pairs of faces.
    layers : Layers
        The reconciled table, or where it is; gives volumes and z-ranges of the labels.
    p : ndarray of float64, shape (n,)
        Probability that the two faces belong to one cell.
    threshold : float
        Merge from here on.
    review_from : float
        Review from here up to the threshold; equal to it for no review band.
    out_of_range : ndarray of bool, shape (n,)
        Far outside what the model was trained on: never merged, at most reviewed.
    cut : ndarray of uint64
        Labels cut by the region's border: their candidates are at most reviewed.
    guard : Guard, optional
        Limits on groups; None for none (the published method has none).
    by_jaccard : bool
        Faces choose their partner by Jaccard index before anything is judged, as published
        (arXiv 2502.01890, section 3.2), and not by probability among the accepted.
    unread : ndarray of uint64, optional
        Labels near voxels that cannot be decoded: their candidates are kept, and no rival gets their faces.

    Returns
    -------
    Verdicts
    """
    decision, reason = _wishes(candidates, p, threshold, review_from, out_of_range, cut)
    if by_jaccard:
        union = candidates.area_a + candidates.area_b - candidates.overlap
        _match(candidates, candidates.overlap / np.maximum(union, 1), decision, reason, EVERY)
    else:
        _match(candidates, p, decision, reason, (MERGE,))
    if unread is not None:
        near = np.isin(candidates.a, unread) | np.isin(candidates.b, unread)
        decision[near], reason[near] = KEEP, UNREAD
    roots = _groups(candidates, decision)
    if guard is not None:
        for group in _oversized(roots, layers, guard):
            members, why = group
            inside = np.isin(candidates.a, members) & (decision == MERGE)
            decision[inside], reason[inside] = REVIEW, why
            for label in members.tolist():
                del roots[label]
    old = np.array(sorted(label for label, root in roots.items() if label != root), np.uint64)
    new = np.array([roots[label] for label in old.tolist()], np.uint64)
    return Verdicts(decision.astype("<U6"), reason, old, new)


def _wishes(
    candidates: Candidates, p: Float, threshold: float, review_from: float, out_of_range: Bool, cut: Labels
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    n = len(candidates)
    decision = np.full(n, KEEP, object)
    reason = np.full(n, "unlike one cell: p is below the review limit", object)
    band = (p >= review_from) & (p < threshold)
    decision[band], reason[band] = REVIEW, "undecided: p lies between the review limit and the threshold"
    high = p >= threshold
    decision[high] = np.where(candidates.hole[high], FILL, MERGE)
    reason[high] = "one cell: p reaches the threshold"
    strange = high & out_of_range
    decision[strange], reason[strange] = REVIEW, "far outside the range the model was trained on"
    touched = (high | band) & (np.isin(candidates.a, cut) | np.isin(candidates.b, cut))
    decision[touched], reason[touched] = REVIEW, "a cell is cut by the border of the region"
    return decision, reason


def _match(
    candidates: Candidates,
    rank: Float,
    decision: npt.NDArray[np.object_],
    reason: npt.NDArray[np.object_],
    competing: tuple[str, ...],
) -> None:
    """One partner per end of a label; the pair of higher rank wins, the other is kept apart."""
    low, high = np.minimum(candidates.a, candidates.b), np.maximum(candidates.a, candidates.b)
    order = np.lexsort((candidates.overlap, high, low, candidates.gap, -rank))
    taken: set[tuple[int, str]] = set()
    for i in order.tolist():
        if decision[i] not in competing:
            continue
        ends = (int(candidates.a[i]), "end"), (int(candidates.b[i]), "start")
        if taken.isdisjoint(ends):
            taken.update(ends)
        else:
            decision[i], reason[i] = KEEP, "one of the faces has a better partner"


def _groups(candidates: Candidates, decision: npt.NDArray[np.object_]) -> dict[int, int]:
    """Label -> smallest label of its group, for every label in an accepted merge."""
    parent: dict[int, int] = {}

    def find(label: int) -> int:
        parent.setdefault(label, label)
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    for i in np.flatnonzero(decision == MERGE).tolist():
        one, two = find(int(candidates.a[i])), find(int(candidates.b[i]))
        parent[max(one, two)] = min(one, two)
    return {label: find(label) for label in parent}


def _oversized(roots: dict[int, int], layers: Layers, guard: Guard) -> list[tuple[Labels, str]]:
    """Groups over the guard's limits, with the reason."""
    if not roots:
        return []
    facts = layers.facts(np.array(list(roots), np.uint64))
    limit = volume_limit(layers.sizes(), guard)
    members: dict[int, list[int]] = {}
    for label, root in sorted(roots.items()):
        members.setdefault(root, []).append(label)
    found, doubtful = [], []
    for group in members.values():
        labels = np.array(group, np.uint64)
        at = facts.index(labels)
        if len(group) > guard.members:
            found.append((labels, f"a chain of {len(group)} labels: more than {guard.members}"))
        elif limit is not None and facts.voxels[at].sum() > limit:
            found.append((labels, "the merged cell would be far larger than the cells of this volume"))
        elif _folded(facts.first[at], facts.last[at]):
            doubtful.append(labels)
    return found + [
        (labels, "the parts lie beside each other, not above each other")
        for labels in _beside(doubtful, layers)
    ]


def volume_limit(voxels: npt.NDArray[np.int64], guard: Guard) -> float | None:
    """Voxels that a merged cell may have; None where the volume has too few labels to tell."""
    if len(voxels) < guard.least_labels:
        return None
    rank = int(guard.volume_quantile * (len(voxels) - 1))
    return guard.volume_ratio * float(np.partition(voxels, rank)[rank])


def _folded(z_first: npt.NDArray[np.int64], z_last: npt.NDArray[np.int64]) -> bool:
    """Whether parts of a chain share more than half of the shorter one's layers."""
    order = np.lexsort((z_last, z_first))
    first, last = z_first[order], z_last[order]
    height = last - first + 1
    shared = np.minimum(last[:-1], last[1:]) - first[1:] + 1
    return bool(np.any(2 * shared > np.minimum(height[:-1], height[1:])))


def _beside(groups: list[Labels], layers: Layers) -> list[Labels]:
    """Groups of which two parts share more than half of the layers that the lower of them is really in.

    A part may lie in layers that another one, above and below it, misses.
    """
    if not groups:
        return []
    rows = layers.take(np.concatenate(groups))
    found = []
    for labels in groups:
        at = rows.index(labels)
        seen = [rows.z[rows.start[i] : rows.start[i + 1]] for i in at.tolist()]
        pairs = ((seen[i], seen[j]) for i in range(len(seen)) for j in range(i))
        if any(2 * len(np.intersect1d(one, two)) > min(len(one), len(two)) for one, two in pairs):
            found.append(labels)
    return found
