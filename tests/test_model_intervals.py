"""Bounds through features and perceptron: no value between the bounds may fall outside of what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.model import load
from overseg.model.features import FULL, MOMENTS, distance_features
from overseg.model.intervals import Interval, distance_intervals, probability_between


def _between(rng: np.random.Generator, interval: Interval) -> np.ndarray:
    return interval.low + rng.random(interval.low.shape) * (interval.high - interval.low)


def _made(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Interval:
    low = rng.random(shape).round(1)
    return Interval(low, low + (width * rng.random(shape)).round(1))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5), st.sampled_from([0.0, 0.1, 1.0]))
def test_features_stay_between_their_bounds(seed: int, n_one: int, n_two: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    through, one, two = (_made(rng, shape, width) for shape in ((2,), (2, n_one), (2, n_two)))
    found = distance_intervals(through, one, two)
    ends = [[getattr(each, end) for each in (through, one, two)] for end in ("low", "high")]
    for values in [*ends, *([_between(rng, each) for each in (through, one, two)] for _ in range(20))]:
        features = distance_features(*values)
        assert (found.low <= features).all()
        assert (features <= found.high).all()


@pytest.mark.parametrize("width", [0.0, 0.05, 1.0])
def test_probability_stays_between_its_bounds(width: float) -> None:
    rng = np.random.default_rng(3)
    head = load("default").head("full")
    centre = head.mean + head.scale * rng.normal(size=(40, len(FULL)))
    reach = np.zeros(len(FULL))
    reach[len(MOMENTS) :] = width * head.scale[len(MOMENTS) :]
    boxes = Interval(centre - reach, centre + reach)
    found = probability_between(head, boxes)
    for _ in range(200):
        p = head.probability(_between(rng, boxes))
        assert (found.low <= p).all()
        assert (p <= found.high).all()


def test_known_features_give_the_probability_itself() -> None:
    rng = np.random.default_rng(4)
    head = load("default").head("full")
    rows = head.mean + head.scale * rng.normal(size=(20, len(FULL)))
    found = probability_between(head, Interval(rows, rows))
    assert found.high - found.low == pytest.approx(0.0, abs=1e-6)
    assert 0.5 * (found.low + found.high) == pytest.approx(head.probability(rows), abs=1e-6)
