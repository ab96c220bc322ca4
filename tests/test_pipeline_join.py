"""Which touching labels become one: wishes, groups judged anew, limits, and always a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from overseg.pipeline.decide import Guard, Verdicts
from overseg.pipeline.join import join
from overseg.pipeline.touching import Pairs

NONE = np.zeros(0, np.uint64)


def pairs(*rows: tuple[int, int, float], strange: tuple[int, ...] = ()) -> Pairs:
    """Of (a, b, p)."""
    a, b = (np.array([row[i] for row in rows], np.uint64) for i in (0, 1))
    zeros = np.zeros(len(rows), np.int64)
    p = np.array([row[2] for row in rows], np.float64)
    least = np.zeros(len(rows))
    far, unknown = np.isin(np.arange(len(rows)), strange), np.full(len(rows), np.nan)
    return Pairs(a, b, zeros, zeros, zeros, zeros, least, p, far, unknown)


def joined(table: Pairs, **changes: object) -> Verdicts:
    usual = {
        "threshold": 0.9,
        "review_from": 0.5,
        "cut": NONE,
        "gone": NONE,
        "guard": Guard(),
        "limit": None,
        "voxels": lambda labels: np.full(len(labels), 100),
        "rescore": lambda one, two: 1.0,
    }
    return join(table, **(usual | changes))


def decided(table: Pairs, **changes: object) -> tuple[list[str], dict[int, int]]:
    found = joined(table, **changes)
    assert all(isinstance(reason, str) and reason for reason in found.reason)
    assert set(found.decision) <= {"merge", "review", "keep"}
    return found.decision.tolist(), dict(zip(found.old.tolist(), found.new.tolist(), strict=True))


def test_wishes() -> None:
    table = pairs((1, 2, 0.9), (3, 4, 0.8999), (5, 6, 0.5), (7, 8, 0.4999), (9, 10, 0.0), (11, 12, 1.0))
    decision, groups = decided(table)
    assert decision == ["merge", "review", "review", "keep", "keep", "merge"]
    assert groups == {2: 1, 12: 11}


def test_no_pairs() -> None:
    assert decided(pairs()) == ([], {})


def test_far_outside_is_reviewed_where_it_would_be_merged() -> None:
    table = pairs((1, 2, 0.95), (3, 4, 0.2), (5, 6, 0.95), strange=(0, 1))
    assert decided(table) == (["review", "keep", "merge"], {6: 5})


def test_cut_cells_are_at_most_reviewed() -> None:
    table = pairs((1, 2, 0.95), (3, 4, 0.6), (5, 6, 0.1), (7, 8, 0.95))
    found = joined(table, cut=np.array([2, 3, 6], np.uint64))
    assert found.decision.tolist() == ["review", "review", "keep", "merge"]
    assert "border of the region" in found.reason[0] and found.old.tolist() == [8]


def test_nothing_is_joined_by_way_of_what_is_gone() -> None:
    table = pairs((1, 2, 0.99), (2, 3, 0.98), (3, 4, 0.97))
    assert decided(table, gone=np.array([2], np.uint64)) == (["keep", "keep", "merge"], {4: 3})


CHAIN = pairs((1, 2, 0.99), (3, 4, 0.98), (2, 3, 0.97))


def test_a_chain_is_judged_as_a_whole() -> None:
    asked = []

    def yes(one: np.ndarray, two: np.ndarray) -> float:
        assert one.dtype == two.dtype == np.uint64
        asked.append((one.tolist(), two.tolist()))
        return 0.5

    assert decided(CHAIN, rescore=yes) == (["merge"] * 3, {2: 1, 3: 1, 4: 1})
    assert asked == [([1, 2], [3, 4])]


def test_a_chain_that_does_not_look_like_one_cell_is_reviewed_at_its_last_link() -> None:
    found = joined(CHAIN, rescore=lambda one, two: 0.49)
    assert found.decision.tolist() == ["merge", "merge", "review"]
    assert "do not look like one cell" in found.reason[2]
    assert (found.old.tolist(), found.new.tolist()) == ([2, 4], [1, 3])


def test_as_published_no_chain_is_judged() -> None:
    assert decided(CHAIN, rescore=None, guard=None) == (["merge"] * 3, {2: 1, 3: 1, 4: 1})


def test_both_ends_of_a_ring_are_one_cell_without_asking_again() -> None:
    table = pairs((1, 2, 0.99), (2, 3, 0.98), (1, 3, 0.97))
    asked = []
    found = joined(table, rescore=lambda one, two: asked.append(1) or 1.0)
    assert found.decision.tolist() == ["merge"] * 3 and len(asked) == 1
    assert "both belong to one group" in found.reason[2]


def test_a_group_grows_no_further_than_the_guard_lets_it() -> None:
    table = pairs(*((k, k + 1, 0.99 - k / 1000) for k in range(1, 7)))
    found = joined(table, guard=Guard(members=3))
    assert found.decision.tolist() == ["merge", "merge", "review", "merge", "merge", "review"]
    assert "more than 3" in found.reason[2]


def test_a_group_grows_no_larger_than_the_limit() -> None:
    sizes = {1: 10, 2: 20, 3: 30, 4: 31}
    voxels: Callable = lambda labels: np.array([sizes[label] for label in labels.tolist()])  # noqa: E731
    table = pairs((1, 2, 0.99), (2, 3, 0.98), (3, 4, 0.97))
    found = joined(table, limit=60, voxels=voxels)
    assert found.decision.tolist() == ["merge", "merge", "review"] and "far larger" in found.reason[2]
    assert joined(table, limit=60, voxels=voxels, guard=None).decision.tolist() == ["merge"] * 3
    assert joined(table, limit=29, voxels=voxels).decision.tolist() == ["review", "review", "review"]


def test_huge_names() -> None:
    top = 2**63
    assert decided(pairs((top - 1, top, 0.95), (1, top, 0.91))) == (["merge"] * 2, {top: 1, top - 1: 1})


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[int, int, float]]:
    every = list(combinations(range(1, 9), 2))
    some = draw(st.lists(st.sampled_from(every), unique=True, max_size=14))
    return [(a, b, draw(st.sampled_from([0.1, 0.6, 0.9, 0.95, 0.99]))) for a, b in some]


@given(tables(), st.randoms(use_true_random=False), st.integers(2, 8), st.sampled_from([None, 300]))
def test_the_order_of_rows_does_not_matter(rows: list, order, members: int, limit: int | None) -> None:
    def rescore(one: np.ndarray, two: np.ndarray) -> float:
        return float((one.sum() * 7 + two.sum() * 7) % np.uint64(3) > 0)

    more = {"rescore": rescore, "guard": Guard(members=members), "limit": limit}
    shuffled = rows.copy()
    order.shuffle(shuffled)
    one, two = (joined(pairs(*each), **more) for each in (rows, shuffled))
    decisions = [
        dict(zip(each, zip(found.decision, found.reason, strict=True), strict=True))
        for each, found in ((rows, one), (shuffled, two))
    ]
    assert decisions[0] == decisions[1]
    assert one.old.tolist() == two.old.tolist() and one.new.tolist() == two.new.tolist()
    # What follows from the merges alone: the smallest label of each component.
    names = {label: label for label in range(1, 9)}
    for (a, b, p), decision in zip(rows, one.decision, strict=True):
        assert (decision == "keep") == (p < 0.5)
        assert p >= 0.9 or decision != "merge"
        if decision == "merge":
            low = min(names[a], names[b])
            ends = {names[a], names[b]}
            names = {label: low if root in ends else root for label, root in names.items()}
    assert {old: new for old, new in names.items() if old != new} == dict(
        zip(one.old.tolist(), one.new.tolist(), strict=True)
    )
    groups = list(names.values())
    assert max(groups.count(name) for name in groups) <= (members if limit is None else min(members, 3))


def test_rescoring_is_given_whole_groups() -> None:
    asked = []

    def rescore(one: np.ndarray, two: np.ndarray) -> float:
        asked.append((one.tolist(), two.tolist()))
        return 1.0

    table = pairs((2, 5, 0.99), (1, 4, 0.98), (4, 5, 0.97), (3, 6, 0.96), (5, 6, 0.95), (4, 7, 0.94))
    decided(table, rescore=rescore)
    assert asked == [([1, 4], [2, 5]), ([1, 2, 4, 5], [3, 6]), ([1, 2, 3, 4, 5, 6], [7])]


def test_of_two_that_are_cut_by_the_border_more_is_asked() -> None:
    table = replace(pairs((1, 2, 0.95), (3, 4, 0.95), (5, 6, 0.95)), least=np.array([0.96, 0.95, np.inf]))
    found = joined(table)
    assert found.decision.tolist() == ["review", "merge", "review"]
    assert "both are cut by the border" in found.reason[0]
