"""Interpolated masks: what must hold whatever the masks, and what plain shapes must become."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes, label

from overseg.errors import InputError
from overseg.kernels import contours
from overseg.kernels.contours import interpolate
from overseg.kernels.raster import fill_holes, outline

images = arrays(bool, (7, 8)).filter(np.any)
methods = st.sampled_from(["contour", "distance"])
gaps = st.integers(1, 4)
some = settings(max_examples=60, deadline=None)
EIGHT = np.ones((3, 3), int)


def disc(radius, centre=(20, 20), shape=(40, 40), stretch=1.0):
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + ((x - centre[1]) / stretch) ** 2 <= radius**2


@some
@given(images)
def test_outlines_hold_the_mask_without_holes(mask):
    corners, start = outline(mask)
    plain = binary_fill_holes(mask, structure=[[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    assert np.array_equal(fill_holes(mask), plain)
    for i, j in pairwise(start):
        loop = corners[i:j]
        assert (np.abs(loop - np.roll(loop, 1, axis=0)).sum(axis=1) == 1).all()


@some
@given(images, images, gaps, methods)
def test_exchanged_masks_give_the_reverse(a, b, gap, method):
    assert np.array_equal(interpolate(a, b, gap, method), interpolate(b, a, gap, method)[::-1])


@some
@given(images, images, gaps, methods)
def test_the_crop_does_not_matter(a, b, gap, method):
    margin = ((5, 0), (2, 9))
    wide = interpolate(np.pad(a, margin), np.pad(b, margin), gap, method)
    assert np.array_equal(wide[:, 5:, 2:-9], interpolate(a, b, gap, method))
    assert wide.sum() == wide[:, 5:, 2:-9].sum()


@some
@given(images, images, gaps, methods)
def test_no_layer_is_empty_and_none_leaves_the_common_box(a, b, gap, method):
    masks = interpolate(a, b, gap, method)
    assert masks.any(axis=(1, 2)).all()
    for axis in (0, 1):
        assert not (masks.any(axis=0).any(axis=1 - axis) & ~_span((a | b).any(axis=1 - axis))).any()


def _span(line):
    at = np.flatnonzero(line)
    return (np.arange(len(line)) >= at[0]) & (np.arange(len(line)) <= at[-1])


@some
@given(images, images, gaps)
def test_one_piece_stays_one_piece(a, b, gap):
    if label(fill_holes(a), EIGHT)[1] == label(fill_holes(b), EIGHT)[1] == 1:
        a, b = fill_holes(a), fill_holes(b)
        assert all(label(mask, EIGHT)[1] == 1 for mask in interpolate(a, b, gap))


@some
@given(images, gaps)
def test_equal_masks_come_back_as_they_are(a, gap):
    assert (interpolate(a, a, gap) == a).all()


@some
@given(images, st.integers(1, 3), st.integers(-2, 2), st.integers(-2, 2))
def test_a_moved_mask_moves_along(a, gap, dy, dx):
    a = np.pad(fill_holes(a), 9)
    masks = interpolate(a, np.roll(a, (dy * (gap + 1), dx * (gap + 1)), (0, 1)), gap)
    for k in range(gap):
        assert np.array_equal(masks[k], np.roll(a, (dy * (k + 1), dx * (k + 1)), (0, 1)))


@pytest.mark.parametrize("method", ["contour", "distance"])
@pytest.mark.parametrize("gap", [1, 2, 3])
def test_discs_become_the_disc_between(method, gap):
    a, b = disc(5, (12, 12)), disc(11, (24, 26), stretch=1.2)
    for k, mask in enumerate(interpolate(a, b, gap, method), 1):
        t = k / (gap + 1)
        centre = (12 + 12 * t, 12 + 14 * t)
        # Half axes of the outline are those of the discs, mixed.
        y, x = np.indices(mask.shape)
        plain = ((y - centre[0]) / (5 + 6 * t)) ** 2 + ((x - centre[1]) / (5 + 8.2 * t)) ** 2 <= 1
        assert (mask & plain).sum() / (mask | plain).sum() > 0.85


def test_masks_far_apart_travel():
    a, b = disc(3, (5, 5)), disc(3, (34, 34))
    masks = interpolate(a, b, 2)
    assert np.abs(np.argwhere(masks[0]).mean(axis=0) - 5 - 29 / 3).max() < 0.5
    assert masks.sum(axis=(1, 2)) == pytest.approx(a.sum(), rel=0.15)


def test_one_voxel_grows_into_a_disc():
    a, b = np.zeros((40, 40), bool), disc(12)
    a[20, 20] = True
    areas = interpolate(a, b, 3).sum(axis=(1, 2))
    assert (np.diff(areas) > 0).all()
    assert areas[1] == pytest.approx(np.pi * 6.2**2, rel=0.2)


def test_one_voxel_wide_lines_keep_together():
    a, b = np.eye(12, dtype=bool), np.eye(12, dtype=bool)[::-1]
    for mask in interpolate(a, b, 3):
        assert label(mask, EIGHT)[1] == 1


def test_a_ring_keeps_its_hole_where_both_have_one():
    ring_a, ring_b = disc(12) & ~disc(6), disc(13) & ~disc(5)
    mask = interpolate(ring_a, ring_b, 1)[0]
    assert not mask[20, 20]
    assert 4.5**2 * np.pi < (fill_holes(mask) & ~mask).sum() < 7**2 * np.pi
    assert interpolate(ring_a, disc(13), 1)[0][20, 20]


def test_long_outlines_are_sampled(monkeypatch):
    a, b = disc(14), disc(11, (18, 22))
    exact = interpolate(a, b, 2)
    monkeypatch.setattr(contours, "MAX_SAMPLES", 30)
    coarse = interpolate(a, b, 2)
    assert (exact & coarse).sum() / (exact | coarse).sum() > 0.95
    assert (interpolate(a, a, 2) == a).all()
    assert np.array_equal(coarse, interpolate(b, a, 2)[::-1])


def test_what_cannot_be_interpolated_is_refused():
    one = np.ones((3, 3), bool)
    with pytest.raises(InputError, match="one shape"):
        interpolate(one, one[:2], 1)
    with pytest.raises(InputError, match="nothing to interpolate"):
        interpolate(one, ~one, 1)
    with pytest.raises(InputError, match="nothing to interpolate"):
        interpolate(one, one, 0)


@pytest.mark.parametrize("method", ["contour", "distance"])
def test_a_layer_taken_from_real_nuclei_comes_back(real, method):
    volume = real("plant_ovule_nuclei/nuclei_1135")
    scores = []
    for cell in np.unique(volume)[1:]:
        layers = np.flatnonzero((volume == cell).any(axis=(1, 2)))
        z = layers[len(layers) // 2]
        around = [volume[min(z + d, len(volume) - 1)] == cell for d in (-1, 0, 1)]
        if len(layers) >= 5 and all(mask.sum() > 15 for mask in around):
            mask = interpolate(around[0], around[2], 1, method)[0]
            scores.append((mask & around[1]).sum() / (mask | around[1]).sum())
    assert len(scores) > 20
    assert np.mean(scores) > 0.9
