"""What is usual in a volume: plain truth, the same for flips, names and orders, and what it is good for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from overseg.kernels.hashing import drawn
from overseg.kernels.scan import scan_array
from overseg.measure import generate_tissue, simulate_splits
from overseg.model.changes import CHANGES
from overseg.model.features import MOMENTS, moments_features
from overseg.model.usual import LEVELS, USUAL, usual_features, usual_of
from overseg.pipeline.candidates import find_candidates

SIZE = (2.0, 0.5, 0.75)


@pytest.fixture(scope="module")
def tissue():
    return generate_tissue((30, 64, 64), 40, seed=3)


def test_quantiles_are_those_of_all_pairs_of_layers(tissue):
    layers = scan_array(tissue, 1)[0]
    for lag in (1, 2):
        losses, growths = [], []
        for label in range(1, int(tissue.max()) + 1):
            mask = tissue == label
            for z in range(len(tissue) - lag):
                n, m = mask[z].sum(), mask[z + lag].sum()
                if min(n, m) >= 6:
                    losses.append(1 - (both := (mask[z] & mask[z + lag]).sum()) / (n + m - both))
                    growths.append(abs(np.log(n / m)))
        found = usual_of(layers, SIZE).quantiles[lag - 1]
        levels = np.linspace(0, 1, LEVELS + 1)
        np.testing.assert_allclose(found[CHANGES.index("loss")], np.quantile(losses, levels))
        np.testing.assert_allclose(found[CHANGES.index("growth")], np.quantile(growths, levels), atol=1e-12)


def test_a_flip_and_other_names_change_no_bit(tissue):
    once = usual_of(scan_array(tissue, 2)[0], SIZE).quantiles
    flipped = usual_of(scan_array(np.ascontiguousarray(tissue[::-1]), 2)[0], SIZE).quantiles
    names = np.append(0, 10 + np.random.default_rng(0).permutation(int(tissue.max())))
    assert np.array_equal(once, flipped)
    assert np.array_equal(once, usual_of(scan_array(names[tissue], 2)[0], SIZE).quantiles)


def test_a_label_that_is_too_large_says_nothing(tissue):
    layers = scan_array(tissue, 1)[0]
    none = replace(layers, too_large=np.ones(len(layers.labels), bool))
    assert np.isnan(usual_of(none, SIZE).quantiles).all()


def test_ranks_and_ratios_by_hand():
    usual = usual_of(scan_array(generate_tissue((20, 40, 40), 20, seed=1), 1)[0], SIZE)
    known = usual.quantiles[1, 0]
    through = np.array([[known[10] + 1e-12, *usual.quantiles[1, 1:, 0]], [9.0, 9.0, 9.0, 9.0]])
    values = usual_features(through, np.array([1, 1]), usual)
    assert values[0, USUAL.index("drift_usual_rank")] == pytest.approx(11 / (LEVELS + 1))
    assert values[1, USUAL.index("drift_usual_rank")] == 1
    expected = np.log((9.02) / (known[LEVELS // 2] + 0.02))
    assert values[1, USUAL.index("drift_usual_middle")] == pytest.approx(expected)


def test_where_nothing_is_known_columns_are_neutral():
    layers = scan_array(np.ones((1, 8, 8), np.uint8), 1)[0]
    values = usual_features(np.ones((2, 4)), np.array([0, 1]), usual_of(layers, SIZE))
    assert np.array_equal(values, np.tile([0.5, 0, 0], (2, 4)))


def test_the_same_gap_is_more_unusual_among_smoother_cells(tissue):
    broken, _ = simulate_splits(tissue, seed=1)
    tables = scan_array(broken, 2)
    found = find_candidates(*tables, 2)
    steady = np.zeros((20, 40, 40), np.uint16)
    steady[:, 5:15, 5:15], steady[:, 20:35, 20:35] = 1, 2
    own = moments_features(found, tables[0], SIZE)
    other = moments_features(found, tables[0], SIZE, usual_of(scan_array(steady, 2)[0], SIZE))
    column = MOMENTS.index("loss_usual_middle")
    assert (other[:, column] > own[:, column]).all()
    assert np.array_equal(own[:, : -len(USUAL)], other[:, : -len(USUAL)])


def test_all_labels_stand_for_few_and_some_for_many():
    rng = np.random.default_rng(0)
    facts = [rng.integers(1, 10_000, 20_000) for _ in range(3)]
    assert drawn(*facts, 20_000, 20_000).all()
    chosen = drawn(*facts, 20_000, 2_000)
    assert 1_700 < chosen.sum() < 2_300
    assert np.array_equal(drawn(*(each[::-1] for each in facts), 20_000, 2_000), chosen[::-1])
