"""What a plan expects of itself: gaps made in the volume's own cells, and how many merges are right."""

from __future__ import annotations

import numpy as np
import pytest

import overseg
from overseg.kernels.scan import scan_array
from overseg.measure import generate_tissue, simulate_splits
from overseg.pipeline.expected import OwnGaps, doubts, make_gaps, of_this_volume
from overseg.pipeline.layerstore import LayerStore


@pytest.fixture(scope="module")
def tissue():
    return generate_tissue((40, 80, 80), 60, seed=5)


def test_made_gaps_lie_within_cells(tissue):
    layers = scan_array(tissue, 3)[0]
    made = make_gaps(layers)
    assert {1, 2, 3} == set(made.gap.tolist()) and made.hole.all()
    keys = list(zip(made.a.tolist(), made.gap.tolist(), strict=True))
    assert len(set(keys)) == len(keys) > 60
    for a, z, gap, overlap, one, two in zip(
        *(getattr(made, name).tolist() for name in ("a", "z", "gap", "overlap", "area_a", "area_b")),
        strict=True,
    ):
        upper, lower = tissue[z] == a, tissue[z + gap + 1] == a
        assert (upper & lower).sum() == overlap
        assert (upper.sum(), lower.sum()) == (one, two)
        assert (tissue[:z] == a).any() and (tissue[z + gap + 2 :] == a).any()


def test_low_cells_have_no_room_for_a_gap():
    assert len(make_gaps(scan_array(np.ones((4, 6, 6), np.uint8), 1)[0])) == 0


def test_a_plan_tells_what_it_expects(tissue, tmp_path):
    broken, truth = simulate_splits(tissue, seed=1)
    plan = overseg.plan(broken, out=tmp_path / "a")
    said = plan.data.measured["volume"]
    assert said["own_gaps"] > 80 and said["own_gaps_closed"] > 0.85 * said["own_gaps"]
    low, high = said["expected_precision_interval"]
    assert low <= said["expected_precision"] <= high
    merges = plan.data.merges
    right = truth.true_of(merges.old) == truth.true_of(merges.new)
    assert low <= right.mean() <= high


def test_the_draw_is_the_same_on_disk_and_in_memory(tissue, tmp_path, monkeypatch):
    found = []
    some = LayerStore.some
    monkeypatch.setattr(LayerStore, "some", lambda store, wanted: found.append(store) or some(store, 12))
    overseg.plan(tissue, out=tmp_path / "a", max_gap=2)
    layers = scan_array(tissue, 2)[0]
    assert 0 < len(layers.some(12)) < 40
    assert np.array_equal(some(found[0], 12), layers.some(12))


def test_a_model_that_leaves_own_gaps_open_is_doubted():
    assert doubts(None) == [] and doubts(OwnGaps(20, 0, 0)) == [] and doubts(OwnGaps(100, 95, 1)) == []
    (line,) = doubts(OwnGaps(1200, 480, 100))
    assert "1,200 gaps" in line and "only 40%" in line and "overseg train" in line


def test_expected_precision_by_hand():
    said = of_this_volume([OwnGaps(10, 9, 1)], np.array([0.9, 1.0]), 0.01)
    assert said["own_gaps"] == 10 and said["expected_precision"] == 0.95
    low, high = said["expected_precision_interval"]
    assert low == pytest.approx(0.95 - 1.96 * 0.15 - 0.01 - 0.6, abs=1e-4) and high == 1
    assert of_this_volume([], np.zeros(0), 0.0) == {}
