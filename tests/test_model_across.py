"""What is measured across a contact: scale-free, symmetric, always numbers; the published ones by a twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels.emd_features import cell_distances, centred, mask_distance
from overseg.kernels.resample import Sections, reslice
from overseg.kernels.transport import emd_points, mask_points
from overseg.model import across
from overseg.model.across import (
    ACROSS,
    across_features,
    published_across,
    solidity,
    unseen,
    with_penalty,
)
from overseg.model.features import PAPER, paper_features

FIELDS = arrays(np.float32, (9, 6, 7), elements=st.floats(-3, 3, width=32))
SECTIONS = st.builds(Sections, FIELDS, FIELDS, st.sampled_from([1.0, 0.5]), st.floats(0, 8))
NORMAL = (0.6, 0.0, 0.8)


def solid(outline, scale: float = 1.0, voxel: float = 1.0) -> dict[str, float]:
    """Features of a solid of revolution about a tilted axis, split at right angles to it."""
    n = round(30 * scale)
    z, y, x = np.indices((2 * n + 1,) * 3) - n
    height, beside = z * 0.6 + x * 0.8, np.hypot(x * 0.6 - z * 0.8, y)
    box = np.where(beside < outline(height / scale) * scale, np.where(height < 0, 1, 2), 0)
    box[np.abs(height) > 20 * scale] = 0
    size = (voxel,) * 3
    found = reslice(box, 1, 2, size, (n * voxel,) * 3, NORMAL, 13 * scale * voxel, 24 * scale * voxel)
    return dict(zip(ACROSS, across_features(found), strict=True))


def cylinder(height):
    return np.full(height.shape, 14.0)


def dumbbell(height):
    return 10 + 0.5 * np.abs(height)


@settings(deadline=None)
@given(SECTIONS)
def test_every_feature_is_a_number(sections):
    row = across_features(sections)
    assert row.shape == (len(ACROSS),) == (len(set(ACROSS)),)
    assert np.isfinite(row).all()


def test_a_contact_that_cannot_be_seen_says_so():
    nothing = np.full((5, 4, 4), -1, np.float32)
    np.testing.assert_array_equal(across_features(Sections(nothing, nothing, 1.0, 2.0)), unseen())


@pytest.mark.parametrize("outline", [cylinder, dumbbell, lambda height: 14 + 0.3 * height])
def test_the_sides_may_be_exchanged_and_units_and_sizes_do_not_matter(outline):
    here, turned = solid(outline), solid(lambda height: outline(-height))
    assert turned == pytest.approx(here, abs=0.02)
    assert solid(outline, voxel=0.25) == pytest.approx(here, abs=1e-5)
    twice = solid(outline, scale=2)
    for (
        name
    ) in ACROSS:  # what is no groove is grooved by chance; an excess is of one small change over another
        near = 0.25 if name.startswith("grooved") or name.endswith("excess") else 0.08
        assert twice[name] == pytest.approx(here[name], abs=near), name


@pytest.mark.parametrize("seed", range(20))
def test_sections_seen_from_behind_say_the_same(seed):
    rng = np.random.default_rng(seed)  # not by hypothesis: what is exactly zero is on one side or the other
    inside, side = rng.normal(0.5, 1, (2, 9, 12, 13)).astype(np.float32)
    side += np.linspace(2, -2, 9, dtype=np.float32)[:, None, None]
    sections = Sections(inside, side, 0.5, float(rng.uniform(2, 6)))
    mirror = Sections(
        sections.inside[::-1, :, ::-1].copy(),
        -sections.side[::-1, :, ::-1],
        sections.spacing,
        len(sections.inside) - 1 - sections.zero,
    )
    same = ("rim", "linear", "missing", "neck", "contact", "loss")
    at = [i for i, name in enumerate(ACROSS) if name.startswith(same)]
    found, back = across_features(sections)[at], across_features(mirror)[at]
    np.testing.assert_allclose(found, back, rtol=1e-4, atol=1e-4)


def test_a_waist_is_told_from_a_cut():
    cut, waist = solid(cylinder), solid(dumbbell)
    for name, least in {"rim_50": 0.1, "solid_gain": 0.03}.items():
        assert waist[name] - cut[name] > least, name
    assert abs(cut["rim_50"]) < 0.02 and abs(cut["solid_gain"]) < 0.03
    assert cut["neck_low"] == pytest.approx(0, abs=0.03) and waist["neck_low"] < -0.2
    assert cut["contact_share"] == pytest.approx(1, abs=0.05)


def test_changes_are_those_of_the_sections():
    """Plain twin: the section is a square, from the plane on a rectangle that is as large."""
    inside = np.full((31, 41, 41), -1.0, np.float32)
    side = np.repeat(15.5 - np.arange(31, dtype=np.float32), 41 * 41).reshape(inside.shape)
    inside[:16, 12:28, 12:28] = 1
    inside[16:, 16:24, 4:36] = 1
    row = dict(zip(ACROSS, across_features(Sections(inside, side, 1.0, 15.5)), strict=True))
    radius = np.sqrt(128 / np.pi)  # that of what they share
    square, rectangle = (mask_points(inside[layer] > 0) for layer in (0, 30))
    change = emd_points(*centred(square, rectangle)) / radius
    assert row["shape_through"] == pytest.approx(change, rel=0.02)
    assert row["shape_excess"] == pytest.approx(np.log((change + 0.05) / 0.05), rel=0.02)
    assert row["loss_through"] == pytest.approx(1 - 128 / 384, abs=1e-6)
    assert row["short_one"] == row["short_both"] == 0
    short = dict(zip(ACROSS, across_features(Sections(inside[14:], side[14:], 1.0, 1.5)), strict=True))
    assert short["short_one"] == 1 and short["loss_through"] == row["loss_through"]


def test_thinned_sections_differ_by_about_as_much(monkeypatch):
    y, x = np.indices((90, 90)) - 45
    one, two = (
        (30.0 - np.hypot(y, x)).astype(np.float32),
        (24.0 - np.hypot(y, x * 1.5 - 4)).astype(np.float32),
    )
    thinned = across._changed(one, two)
    monkeypatch.setattr(across, "_MOST_POINTS", 10_000)
    assert thinned == pytest.approx(across._changed(one, two), rel=0.06)


def test_a_section_that_the_thinner_grid_misses_still_counts():
    whole, dot = np.ones((2, 80, 80), np.float32)
    dot[:] = -1
    dot[41, 41] = 1
    assert across._changed(whole, dot) > 20


def test_solidity_is_the_filled_share_of_the_hull():
    z, y, x = np.indices((24, 24, 24)) - 11.5
    ball = z**2 + y**2 + x**2 < 110
    assert solidity(ball) == pytest.approx(0.95, abs=0.04)
    assert solidity(np.ones((5, 6, 7), bool)) == pytest.approx(1, abs=0.1)
    assert solidity(ball & (np.abs(z) > 3)) < 0.75
    assert solidity(ball) == pytest.approx(solidity(ball.transpose(2, 0, 1)), abs=1e-9)
    for flat in (np.ones((1, 5, 5), bool), np.zeros((3, 3, 3), bool)):
        assert np.isnan(solidity(flat))


# ------------------------------------------------------------------ as published


@settings(deadline=None, max_examples=40)
@given(arrays(bool, (7, 4, 5)), st.integers(1, 5))
def test_the_published_twelve_are_those_of_the_layers(mask, plane):
    """Plain twin: parallel to the volume's layers, sections are these."""
    mask[plane - 1, 1, 1] = mask[plane + 1, 2, 2] = True
    box = np.where(mask, np.where(np.arange(7) < plane, 1, 2)[:, None, None], 0)
    reach = max(plane, 6 - plane) + 1
    row = published_across(reslice(box, 1, 2, (1, 1, 1), (plane, 1, 2), (1, 0, 0), reach, 4))
    one = [mask_points(each) for each in mask[:plane] if each.any()]
    two = [mask_points(each) for each in mask[plane + 1 :] if each.any()]
    expected = paper_features(
        mask_distance(one[-1], two[0]),
        cell_distances(one),
        cell_distances(two),
        np.array([len(each) for each in one + two], float),
    )
    np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-9)


def test_strips_beside_the_plane_do_not_matter_to_the_published_features():
    whole = np.zeros((12, 9, 9), np.uint8)
    whole[1:6, 2:7, 2:7], whole[6:11, 1:7, 2:8] = 1, 2
    strips = whole.copy()
    strips[7, 2:4, 3:7] = 1
    strips[5, 5:7, 3:7] = 2
    rows = [
        published_across(reslice(box, 1, 2, (1, 1, 1), (5.5, 4, 4), (1, 0, 0), 8, 8))
        for box in (whole, strips)
    ]
    np.testing.assert_array_equal(*rows)


def test_a_side_without_sections_has_no_published_features():
    box = np.zeros((5, 5, 5), np.uint8)
    box[1:4, 1:4, 1:4] = 1
    box[3] *= 2
    only = reslice(box, 1, 2, (1, 1, 1), (3, 2, 2), (1, 0, 0), 4, 4)
    assert np.isfinite(published_across(only)).all()  # B is but the layer at the plane, which is kept
    assert np.isnan(published_across(replace(only, inside=np.full_like(only.inside, -1)))).all()


def test_the_penalty_is_in_z_scores_and_quartiles_take_the_place_of_extremes():
    rows, scale = np.arange(24, dtype=float).reshape(2, 12), np.linspace(1, 0.5, 12)
    given_, plain = rows.copy(), with_penalty(rows, scale, 0)
    np.testing.assert_array_equal(plain, rows)
    less = with_penalty(rows, scale, 1.3)
    np.testing.assert_allclose((rows - less)[:, PAPER.index("shape_index")], 1.3 * 0.5)
    np.testing.assert_array_equal(less[:, :-1], rows[:, :-1])
    quartiles = with_penalty(rows, scale, 0, "q1q3")
    np.testing.assert_array_equal(quartiles[0, :10], [1, 1, 2, 3, 3, 6, 6, 7, 8, 8])
    np.testing.assert_array_equal(quartiles[:, 10:], rows[:, 10:])
    np.testing.assert_array_equal(rows, given_)
