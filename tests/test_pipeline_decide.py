"""Decisions: who merges with whom, and why not."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.kernels.tables import Candidates, LayerTable
from overseg.pipeline.decide import Guard, decide

HIGH = 0.9


def columns(extents: dict[int, tuple[int, int, int]]) -> LayerTable:
    """Labels with (first layer, last layer, area per layer)."""
    rows = [(label, z, area) for label, (z0, z1, area) in sorted(extents.items()) for z in range(z0, z1 + 1)]
    label = np.array([r[0] for r in rows], np.uint64)
    z, area = (np.array([r[i] for r in rows], np.int64) for i in (1, 2))
    labels, first = np.unique(label, return_index=True)
    zero = np.zeros(len(rows), np.int64)
    none = np.zeros(len(labels), np.int64)
    return LayerTable(
        label, z, area, *[zero] * 9, np.zeros((len(rows), 3), np.int64),
        labels, np.append(first, len(rows)), none, none, np.zeros(len(labels), bool),
    )  # fmt: skip


def pairs(*rows: tuple[int, int, int, int]) -> Candidates:
    """Rows (a, b, z, gap)."""
    a, b, z, gap = (np.array(c, np.int64) for c in zip(*rows, strict=True))
    return Candidates(
        a.astype(np.uint64), b.astype(np.uint64), z, gap, np.full(len(a), 5), np.full(len(a), 9),
        np.full(len(a), 9), a == b, np.zeros(len(a), bool), ((),) * len(a),
    )  # fmt: skip


def verdicts(candidates, layers, p, *, strange=(), cut=(), guard=None, threshold=0.8, review_from=0.5):
    out = np.zeros(len(candidates), bool)
    out[list(strange)] = True
    return decide(
        candidates, layers, np.array(p, float), threshold=threshold, review_from=review_from,
        out_of_range=out, cut=np.array(cut, np.uint64), guard=guard,
    )  # fmt: skip


TWO = columns({1: (0, 4, 9), 2: (6, 9, 9), 3: (6, 9, 9)})


def test_merge_review_keep_by_probability():
    v = verdicts(pairs((1, 2, 4, 1), (1, 3, 4, 1), (3, 2, 4, 1)), TWO, [0.8, 0.79, 0.49])
    assert v.decision.tolist() == ["merge", "review", "keep"]
    assert v.old.tolist() == [2] and v.new.tolist() == [1]
    assert all(v.reason)


def test_better_partner_wins_and_the_other_is_kept_with_a_reason():
    v = verdicts(pairs((1, 2, 4, 1), (1, 3, 4, 1)), TWO, [0.9, 0.95])
    assert v.decision.tolist() == ["keep", "merge"]
    assert v.reason[0] == "one of the faces has a better partner"
    assert v.old.tolist() == [3]


def test_ties_go_to_the_smaller_gap_then_the_smaller_labels():
    assert verdicts(pairs((1, 2, 3, 2), (1, 3, 4, 1)), TWO, [HIGH, HIGH]).decision.tolist() == [
        "keep",
        "merge",
    ]
    assert verdicts(pairs((1, 3, 4, 1), (1, 2, 4, 1)), TWO, [HIGH, HIGH]).decision.tolist() == [
        "keep",
        "merge",
    ]


def test_out_of_range_and_cut_cells_are_never_merged():
    v = verdicts(pairs((1, 2, 4, 1), (3, 2, 4, 1)), TWO, [HIGH, 0.1], strange=[0, 1])
    assert v.decision.tolist() == ["review", "keep"]
    v = verdicts(pairs((1, 2, 4, 1)), TWO, [HIGH], cut=[2])
    assert v.decision.tolist() == ["review"] and not len(v.old)


def test_a_hole_is_filled_without_a_relabelling():
    v = verdicts(pairs((1, 1, 2, 1)), TWO, [HIGH])
    assert v.decision.tolist() == ["fill"] and not len(v.old)


def test_chains_meet_in_one_group_named_by_the_smallest_label():
    layers = columns({7: (0, 3, 9), 5: (5, 8, 9), 9: (10, 12, 9)})
    v = verdicts(pairs((7, 5, 3, 1), (5, 9, 8, 1)), layers, [HIGH, HIGH])
    assert v.old.tolist() == [7, 9] and v.new.tolist() == [5, 5]
    assert v.root(np.array([5, 7, 9, 11], np.uint64)).tolist() == [5, 5, 5, 11]


def test_guard_sends_long_chains_and_giants_to_review_whole():
    layers = columns({i: (2 * i, 2 * i, 9) for i in range(1, 6)})
    chain = pairs(*((i, i + 1, 2 * i, 1) for i in range(1, 5)))
    v = verdicts(chain, layers, [HIGH] * 4, guard=Guard(members=4))
    assert v.decision.tolist() == ["review"] * 4 and not len(v.old)
    cells = dict.fromkeys(range(10, 400), (0, 3, 10)) | {1: (0, 9, 100), 2: (11, 20, 100)}
    v = verdicts(pairs((1, 2, 9, 1)), columns(cells), [HIGH], guard=Guard())
    assert v.decision.tolist() == ["review"]
    assert "larger" in v.reason[0]


def test_guard_refuses_parts_that_lie_beside_each_other():
    layers = columns({1: (0, 4, 9), 2: (6, 9, 9), 3: (0, 4, 9)})
    chain = pairs((1, 2, 4, 1), (2, 3, 9, 1))
    v = verdicts(chain, layers, [HIGH, HIGH], guard=Guard())
    assert v.decision.tolist() == ["review", "review"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_order_of_candidates_changes_nothing(data):
    labels = list(range(1, 8))
    layers = columns({i: (3 * i, 3 * i + 1, 9) for i in labels})
    row = st.sampled_from([(a, b, 3, g) for a, b in itertools.permutations(labels, 2) for g in (1, 2)])
    rows = data.draw(st.lists(row, min_size=1, max_size=12, unique=True))
    p = data.draw(
        st.lists(st.sampled_from([0.1, 0.6, 0.85, 0.9, 0.95]), min_size=len(rows), max_size=len(rows))
    )
    order = data.draw(st.permutations(range(len(rows))))
    one = verdicts(pairs(*rows), layers, p)
    two = verdicts(pairs(*(rows[i] for i in order)), layers, [p[i] for i in order])
    assert one.decision[list(order)].tolist() == two.decision.tolist()
    assert one.old.tolist() == two.old.tolist() and one.new.tolist() == two.new.tolist()
    merged = [r for r, d in zip(rows, one.decision, strict=True) if d == "merge"]
    assert len({r[0] for r in merged}) == len(merged) == len({r[1] for r in merged})


def test_published_matching_lets_faces_choose_by_jaccard_before_judging():
    candidates = pairs((1, 2, 4, 1), (1, 3, 4, 1))
    wider = dataclasses.replace(candidates, overlap=np.array([8, 5]))
    both = np.array([0.1, 0.9])
    rest = {
        "threshold": 0.5,
        "review_from": 0.5,
        "out_of_range": np.zeros(2, bool),
        "cut": np.zeros(0, np.uint64),
    }
    assert decide(wider, TWO, both, by_jaccard=True, **rest).decision.tolist() == ["keep", "keep"]
    assert decide(wider, TWO, both[::-1].copy(), by_jaccard=True, **rest).decision.tolist() == [
        "merge",
        "keep",
    ]


def with_a_hole(layer: int) -> LayerTable:
    """Label 1 in layers 0 .. 9 but one, label 2 in that one alone."""
    rows = columns({1: (0, 9, 9), 2: (layer, layer, 9)})
    keep = ~((rows.label == 1) & (rows.z == layer))
    parts = {
        each.name: getattr(rows, each.name)[keep]
        for each in dataclasses.fields(rows)
        if len(getattr(rows, each.name)) == len(keep)
    }
    return dataclasses.replace(rows, **parts, start=np.array([0, 9, 10]))


def test_a_label_that_fills_the_layer_another_one_misses_does_not_lie_beside_it():
    links = pairs((1, 2, 4, 0), (2, 1, 5, 0))
    v = verdicts(links, with_a_hole(5), [HIGH, HIGH], guard=Guard())
    assert v.decision.tolist() == ["merge", "merge"] and v.root(np.array([2], np.uint64)) == [1]


def test_parts_that_share_layers_do_lie_beside_each_other():
    layers = columns({1: (0, 9, 9), 2: (5, 5, 9)})
    v = verdicts(pairs((1, 2, 4, 0), (2, 1, 5, 0)), layers, [HIGH, HIGH], guard=Guard())
    assert v.decision.tolist() == ["review", "review"]
    assert set(v.reason) == {"the parts lie beside each other, not above each other"}


def of_layers(*members: set[int]) -> LayerTable:
    """Labels 1, 2, .. in these layers; z is made of whole tables and cut to what is asked for."""
    whole = columns({i: (min(own), max(own), 9) for i, own in enumerate(members, 1)})
    keep = np.array([z in members[int(label) - 1] for label, z in zip(whole.label, whole.z, strict=True)])
    names = ("label", "z", "area", "sy", "sx", "syy", "sxx", "syx", "y0", "y1", "x0", "x1", "back")
    parts = {name: getattr(whole, name)[keep] for name in names}
    start = np.append(0, np.cumsum([len(own) for own in members]))
    return dataclasses.replace(whole, **parts, start=start)


LAYERS = st.sets(st.integers(0, 12), min_size=1)


@settings(max_examples=100, deadline=None)
@given(LAYERS, LAYERS)
def test_two_parts_are_refused_by_the_layers_they_share(one, two):
    v = verdicts(pairs((1, 2, 4, 0)), of_layers(one, two), [HIGH], guard=Guard())
    beside = 2 * len(one & two) > min(len(one), len(two))
    assert v.decision.tolist() == ["review" if beside else "merge"]
