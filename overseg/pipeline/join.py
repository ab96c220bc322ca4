"""Decide which touching labels become one: from probabilities to groups, each pair with a reason.

1. Every pair gets a wish: merge, review, or keep.
2. Wishes to merge are granted in the order (p descending, smaller label, larger label). Where this makes a
   group of three or more, the group as it would be is judged anew, with the sums of its members: it has to
   look like one cell itself, or the pair goes to review.
3. A group over the guard's limits does not grow any further.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Int, Labels
from overseg.pipeline.decide import KEEP, MERGE, REVIEW, UNREAD, Guard, Verdicts
from overseg.pipeline.touching import Pairs

#: From this probability on a group as it would be may be one cell: each link reached the threshold by itself.
LIKELY = 0.5

#: Probability that two groups of labels are one cell.
Rescore = Callable[[Labels, Labels], float]


def join(
    pairs: Pairs,
    *,
    threshold: float,
    review_from: float,
    cut: Labels,
    gone: Labels,
    unread: Labels | None = None,
    guard: Guard | None,
    limit: float | None,
    voxels: Callable[[Labels], Int],
    rescore: Rescore | None,
) -> Verdicts:
    """Decisions for all touching pairs of one time point.

    Parameters
    ----------
    pairs : Pairs
    threshold, review_from : float
        Merge from the first on, review from the second on.
    cut : ndarray of uint64
        Labels cut by the region's border: their pairs are at most reviewed.
    gone : ndarray of uint64
        Labels of which restored masks took every voxel: nothing is joined by way of them.
    unread : ndarray of uint64, optional
        Labels near voxels that cannot be decoded: their pairs are kept.
    guard : Guard, optional
        Limits on groups; None for none.
    limit : float, optional
        Voxels that a group may have; None for no limit.
    voxels : callable
        Voxels of labels, sorted and each once.
    rescore : callable, optional
        Judges two groups of labels, given as their members, with the sums of their moments and contacts; None
        to let every chain be, as published.

    Returns
    -------
    Verdicts
    """
    decision, reason = _wishes(pairs, threshold, review_from, cut, gone, unread)
    wanted = np.flatnonzero(decision == MERGE)
    order = wanted[np.lexsort((pairs.b[wanted], pairs.a[wanted], -pairs.p[wanted]))]
    names = np.unique(np.concatenate([pairs.a[wanted], pairs.b[wanted]]))
    sizes = dict(zip(names.tolist(), voxels(names).tolist(), strict=True)) if len(names) else {}
    members = {label: [label] for label in names.tolist()}
    for row in order.tolist():
        one, two = members[int(pairs.a[row])], members[int(pairs.b[row])]
        if one is two:
            reason[row] = "one cell: both belong to one group"
            continue
        said = _objection(one, two, sizes, guard, limit)
        if said is None and rescore is not None and len(one) + len(two) > 2:
            p = rescore(np.array(sorted(one), np.uint64), np.array(sorted(two), np.uint64))
            said = None if p >= LIKELY else "the parts together do not look like one cell"
        if said is not None:
            decision[row], reason[row] = REVIEW, said
            continue
        whole = one + two
        for label in whole:
            members[label] = whole
    old = np.array(sorted(label for label, group in members.items() if label != min(group)), np.uint64)
    new = np.array([min(members[label]) for label in old.tolist()], np.uint64)
    return Verdicts(decision.astype("<U6"), reason, old, new)


def _wishes(
    pairs: Pairs,
    threshold: float,
    review_from: float,
    cut: Labels,
    gone: Labels,
    unread: Labels | None,
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    decision = np.full(len(pairs), KEEP, object)
    reason = np.full(len(pairs), "unlike one cell: p is below the review limit", object)
    band = (pairs.p >= review_from) & (pairs.p < threshold)
    decision[band], reason[band] = REVIEW, "undecided: p lies between the review limit and the threshold"
    high = pairs.p >= threshold
    decision[high], reason[high] = MERGE, "one cell: p reaches the threshold"
    strange = high & pairs.out_of_range
    decision[strange], reason[strange] = REVIEW, "far outside the range the model was trained on"
    held = high & (pairs.p < pairs.least)
    decision[held], reason[held] = REVIEW, "both are cut by the border of the volume: neither is seen whole"
    touched = (high | band) & (np.isin(pairs.a, cut) | np.isin(pairs.b, cut))
    decision[touched], reason[touched] = REVIEW, "a cell is cut by the border of the region"
    taken = np.isin(pairs.a, gone) | np.isin(pairs.b, gone)
    decision[taken], reason[taken] = KEEP, "a restored mask took every voxel of one of them"
    if unread is not None:
        near = np.isin(pairs.a, unread) | np.isin(pairs.b, unread)
        decision[near], reason[near] = KEEP, UNREAD
    return decision, reason


def _objection(
    one: list[int], two: list[int], sizes: dict[int, int], guard: Guard | None, limit: float | None
) -> str | None:
    """Why two groups must not become one, whatever they look like."""
    if guard is None:
        return None
    if len(one) + len(two) > guard.members:
        return f"a group of {len(one) + len(two)} labels: more than {guard.members}"
    if limit is not None and sum(sizes[label] for label in one + two) > limit:
        return "the merged cell would be far larger than the cells of this volume"
    return None
