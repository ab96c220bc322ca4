"""Features: plain truth for the gap's values, the same bits for flips and batches, nothing from the gap."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from overseg.kernels.scan import scan_array
from overseg.kernels.tables import Candidates
from overseg.measure import generate_tissue, simulate_splits
from overseg.model.features import (
    FULL,
    MOMENTS,
    PAPER,
    PAPER_CLASSES,
    distance_features,
    moments_features,
    paper_features,
)
from overseg.model.usual import USUAL
from overseg.pipeline.candidates import find_candidates

SIZE = (2.0, 0.5, 0.75)


def measured(labels, size=SIZE):
    tables = scan_array(labels, 2)
    found = find_candidates(*tables, 2)
    return found, tables[0], moments_features(found, tables[0], size)


def keys(found):
    return list(zip(found.a.tolist(), found.b.tolist(), found.z.tolist(), found.gap.tolist(), strict=True))


@pytest.fixture(scope="module")
def broken():
    return simulate_splits(generate_tissue((40, 96, 96), 70, seed=3), seed=1, rate=0.5)[0]


def column(values, name):
    return values[:, MOMENTS.index(name)]


def test_values_are_finite_and_named_once(broken):
    found, _, values = measured(broken)
    assert values.shape == (len(found), len(MOMENTS)) and len(set(FULL)) == len(FULL)
    assert {0, 1, 2} <= set(found.gap.tolist()) and found.hole.any()
    assert np.isfinite(values).all()


def test_the_gap_itself_by_hand(broken):
    found, _, values = measured(broken)
    for i, (a, b, z, gap) in enumerate(keys(found)):
        one, two = broken[z] == a, broken[z + gap + 1] == b
        radius = np.sqrt((one.sum() + two.sum()) / 2 * SIZE[1] * SIZE[2] / np.pi)
        step = (np.argwhere(one).mean(0) - np.argwhere(two).mean(0)) * SIZE[1:]
        assert column(values, "drift_gap")[i] == pytest.approx(np.hypot(*step) / radius)
        assert column(values, "growth_gap")[i] == pytest.approx(abs(np.log(one.sum() / two.sum())))
        union = one.sum() + two.sum() - found.overlap[i]
        assert column(values, "loss_gap")[i] == pytest.approx(1 - found.overlap[i] / union)
        assert column(values, "gap_layers")[i] == gap


def test_a_column_that_never_changes_has_no_change_anywhere():
    labels = np.zeros((20, 12, 12), np.uint8)
    labels[:9, 3:9, 3:9], labels[11:, 3:9, 3:9] = 1, 2
    _, _, values = measured(labels)
    assert len(values) == 1
    for name in (
        "drift_gap",
        "shape_worst_high",
        "loss_gap",
        "growth_gap",
        "taper_low",
        "path_miss_high",
        "apart",
    ):
        assert column(values, name)[0] == pytest.approx(0, abs=1e-12)
    assert column(values, "loss_rank")[0] == 0.5
    assert column(values, "area_linear")[0] == 1


def test_a_cell_that_drifts_is_continued_to_the_other_face():
    labels = np.zeros((20, 12, 60), np.uint8)
    for z in range(20):
        if z not in (9, 10):
            labels[z, 3:9, 2 * z : 2 * z + 8] = 1 if z < 9 else 2
    _, _, values = measured(labels)
    assert column(values, "drift_gap")[0] > 0.5
    assert column(values, "path_miss_high")[0] == pytest.approx(0, abs=1e-12)


def test_a_flipped_volume_gives_the_same_bits(broken):
    found, _, values = measured(broken)
    flipped, _, again = measured(np.ascontiguousarray(broken[::-1]))
    rows = dict(zip(keys(found), values, strict=True))
    for (a, b, z, gap), row in zip(keys(flipped), again, strict=True):
        assert np.array_equal(rows[b, a, len(broken) - 2 - z - gap, gap], row)


def test_rows_do_not_depend_on_their_batch(broken):
    found, layers, values = measured(broken)
    order = np.random.default_rng(0).permutation(len(found))[:20]
    part = {
        f.name: [found.noise[i] for i in order] if f.name == "noise" else getattr(found, f.name)[order]
        for f in fields(Candidates)
    }
    assert np.array_equal(moments_features(Candidates(**part), layers, SIZE), values[order])


def test_what_lies_in_the_gap_does_not_matter():
    labels = generate_tissue((24, 64, 64), 12, seed=1, style="packed").astype(np.int64)
    split = labels.copy()
    cell = int(split[12, 32, 32])
    lower = (labels == cell) & (np.arange(24)[:, None, None] > 12)
    split[lower] = 900
    missing, noisy = split.copy(), split.copy()
    hole = labels[12] == cell
    missing[12][hole] = 0
    noisy[12][hole] = labels[12][np.roll(hole, 40, axis=1)][:1]
    rows = []
    for volume in (missing, noisy):
        found, _, values = measured(volume)
        # What is usual in the volume counts the other masks there.
        rows.append(values[keys(found).index((cell, 900, 11, 1)), : -len(USUAL)])
    assert np.array_equal(*rows)


def test_uniform_scale_does_not_matter(broken):
    _, _, values = measured(broken, (1.0, 1.0, 1.0))
    _, _, scaled = measured(broken, (7.0, 8.0, 8.0))
    assert np.allclose(values, scaled, rtol=1e-9, atol=1e-9)


def test_no_candidates_no_rows(broken):
    found, layers, _ = measured(broken)
    none = {f.name: getattr(found, f.name)[:0] for f in fields(Candidates)}
    assert moments_features(replace(found, **none), layers).shape == (0, len(MOMENTS))


def test_distances_enter_symmetrically():
    rng = np.random.default_rng(0)
    through, one, two = rng.random(2), rng.random((2, 5)), rng.random((2, 3))
    row = distance_features(through, one, two)
    assert row.shape == (len(FULL) - len(MOMENTS),)
    assert np.array_equal(row, distance_features(through, two, one))
    assert row[0] == through[0]
    assert row[1] == min(one[0].max(), two[0].max())
    assert np.isfinite(distance_features(through, one[:, :0], two[:, :0])).all()


def test_the_published_twelve():
    row = paper_features(3.0, np.array([1.0, 2.0, 5.0]), np.array([]), np.array([1.0, 4.0, 5.0, 2.0]))
    assert row.tolist() == [1, 1.5, 2, 3.5, 5, 0, 0, 0, 0, 0, 3, 1]
    assert len(PAPER) == len(row) == sum(map(len, PAPER_CLASSES))
