"""Certified laziness: bounds hold for exact distances, and what is called certain decides as they would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from overseg.kernels.scan import scan_array
from overseg.measure import generate_tissue, simulate_splits
from overseg.model import load
from overseg.model.features import FULL, MOMENTS, moments_features
from overseg.model.intervals import Interval
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.decide import decide
from overseg.pipeline.distances import REACH, distance_rows, looks
from overseg.pipeline.lazy import Limits, bounded, certain, ranked

SIZE = (2.0, 0.5, 0.75)
LIMITS = Limits(0.5, 0.2)


@pytest.fixture(scope="module")
def case():
    broken = simulate_splits(generate_tissue((24, 44, 44), 24, seed=3), seed=1, rate=0.6)[0]
    tables = scan_array(broken, 2)
    candidates = find_candidates(*tables, 2)
    moments = moments_features(candidates, tables[0], SIZE)
    wanted = looks(candidates, tables[0], np.arange(len(candidates)), REACH)
    exact = distance_rows(broken.__getitem__, wanted, "full", SIZE[1:])
    return candidates, tables[0], moments, np.hstack([moments, exact])


def _head(seed: int, weight: float):
    """The shipped head, made to listen to distances."""
    head = load("default").head("full")
    rng = np.random.default_rng(seed)
    first = head.weights[0].copy()
    first[len(MOMENTS) :] = weight * rng.normal(size=(len(FULL) - len(MOMENTS), first.shape[1]))
    return replace(head, weights=(first, *head.weights[1:]))


def test_exact_features_lie_between_the_bounds(case) -> None:
    candidates, layers, moments, exact = case
    found = bounded(candidates, layers, moments, SIZE, REACH)
    assert len(candidates) > 10
    assert (found.low <= exact).all()
    assert (exact <= found.high).all()
    assert (found.low[:, : len(MOMENTS)] == moments).all()
    assert (found.high[:, len(MOMENTS) :] - found.low[:, len(MOMENTS) :]).max() < 10


@pytest.mark.parametrize("weight", [0.0, 0.003, 0.02, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_skipping_what_is_certain_changes_no_decision(case, seed: int, weight: float) -> None:
    candidates, layers, moments, exact = case
    head = _head(seed, weight)
    features = bounded(candidates, layers, moments, SIZE, REACH)
    same, p = certain(head, features, LIMITS)
    skip = same & ranked(candidates, p, LIMITS)
    rows = np.where(skip[:, None], 0.5 * (features.low + features.high), exact)
    verdicts = [
        decide(
            candidates,
            layers,
            head.probability(values),
            threshold=LIMITS.threshold,
            review_from=LIMITS.review_from,
            out_of_range=head.out_of_range(values),
            cut=np.zeros(0, np.uint64),
        )
        for values in (exact, rows)
    ]
    assert verdicts[0].decision.tolist() == verdicts[1].decision.tolist()
    assert verdicts[0].reason.tolist() == verdicts[1].reason.tolist()
    if weight == 0.0:
        assert skip.mean() > 0.9


def test_a_head_that_listens_closely_leaves_nothing_certain(case) -> None:
    candidates, layers, moments, _ = case
    features = bounded(candidates, layers, moments, SIZE, REACH)
    same, p = certain(_head(0, 50.0), features, LIMITS)
    assert (p.low < p.high).all()
    assert same.mean() < 0.5


def test_rivals_for_a_face_are_ranked_only_where_their_bounds_are_apart(case) -> None:
    pair = [0, 0]
    names = ("a", "b", "z", "gap", "overlap", "area_a", "area_b", "hole", "sliver")
    twins = replace(case[0], **{name: getattr(case[0], name)[pair] for name in names}, noise=((), ()))

    def known(*bounds: tuple[float, float]) -> list[bool]:
        low, high = np.array(bounds).T
        return ranked(twins, Interval(low, high), LIMITS).tolist()

    assert known((0.9, 0.95), (0.9, 0.95)) == [False, False]
    assert known((0.6, 0.95), (0.7, 0.8)) == [False, False]
    assert known((0.7, 0.8), (0.9, 0.95)) == [True, True]
    assert known((0.7, 0.8), (0.1, 0.4)) == [True, True]
    assert known((0.3, 0.8), (0.1, 0.5)) == [False, False]


def test_a_wide_rival_hides_the_order_of_all_it_meets(case) -> None:
    names = ("a", "b", "z", "gap", "overlap", "area_a", "area_b", "hole", "sliver")
    three = replace(case[0], **{name: getattr(case[0], name)[[0, 0, 0]] for name in names}, noise=((),) * 3)
    low, high = np.array([[0.5, 0.99], [0.6, 0.65], [0.7, 0.75]]).T
    assert not ranked(three, Interval(low, high), LIMITS).any()
