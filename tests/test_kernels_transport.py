"""Distances between masks against the plain truth: POT on whole masks, NumPy covariances."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.errors import InputError, ResourceError
from overseg.kernels import transport
from overseg.kernels.transport import (
    drift_shape,
    emd,
    emd_points,
    lower_bound,
    mask_moments,
    mask_points,
    upper_bound,
)

masks = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(lambda s: arrays(bool, s)).filter(np.any)
offsets = st.tuples(st.integers(-6, 6), st.integers(-6, 6))
spacings = st.sampled_from([(1.0, 1.0), (0.3, 0.15), (2.0, 5.0)])
some = settings(max_examples=60, deadline=None)


def plain_emd(points_a, points_b, spacing=(1.0, 1.0)):
    costs = ot.dist(points_a * np.asarray(spacing), points_b * np.asarray(spacing), metric="euclidean")
    return ot.emd2(np.ones(len(points_a)) / len(points_a), np.ones(len(points_b)) / len(points_b), costs)


@some
@given(masks, masks, spacings, offsets)
def test_emd_equals_pot_on_whole_masks(a, b, spacing, offset):
    value = emd(a, b, spacing, offset)
    assert value == pytest.approx(plain_emd(mask_points(a), mask_points(b, offset), spacing), abs=1e-9)


@some
@given(masks, masks, spacings, offsets, offsets)
def test_emd_has_the_same_bits_for_exchanged_and_shifted_masks(a, b, spacing, offset, shift):
    value = emd(a, b, spacing, offset)
    assert emd(b, a, spacing, (-offset[0], -offset[1])) == value
    padded = np.pad(a, ((3, 1), (0, 5)))
    assert emd(padded, b, spacing, (offset[0] + 3, offset[1])) == value
    points_b = mask_points(b, offset)[::-1]
    assert emd_points(mask_points(a) + np.array(shift), points_b + np.array(shift), spacing) == value


@some
@given(masks, masks, offsets)
def test_emd_does_not_care_for_mirrors(a, b, offset):
    value = emd(a, b, offset=offset)
    assert emd(a.T, b.T, offset=offset[::-1]) == pytest.approx(value, abs=1e-9)
    shift = a.shape[0] - b.shape[0] - offset[0]
    assert emd(a[::-1], b[::-1], offset=(shift, offset[1])) == pytest.approx(value, abs=1e-9)


@some
@given(masks, masks, spacings, offsets)
def test_emd_lies_within_its_bounds(a, b, spacing, offset):
    points = mask_points(a), mask_points(b, offset)
    value = emd_points(*points, spacing)
    assert lower_bound(*points, spacing) - 1e-9 <= value <= upper_bound(*points, spacing) + 1e-9


@some
@given(masks, offsets)
def test_emd_of_a_mask_and_its_copy(a, shift):
    assert emd(a, a) == 0
    assert emd(a, a, offset=shift) == pytest.approx(np.hypot(*shift), abs=1e-9)


def test_emd_of_large_masks_equals_pot():
    y, x = np.mgrid[:60, :60]
    a = (y - 30) ** 2 + (x - 28) ** 2 < 400
    b = (y - 27) ** 2 + 1.4 * (x - 33) ** 2 < 350
    assert emd(a, b) == pytest.approx(plain_emd(mask_points(a), mask_points(b)), abs=1e-9)


def test_emd_refuses_what_it_cannot_do(monkeypatch):
    with pytest.raises(InputError, match="empty"):
        emd(np.zeros((2, 2), bool), np.ones((2, 2), bool))
    with pytest.raises(InputError, match="two axes"):
        emd(np.ones(3, bool), np.ones((2, 2), bool))
    monkeypatch.setattr(transport, "MOST_MASS", 10)
    with pytest.raises(ResourceError, match="too large"):
        emd(np.ones((4, 4), bool), np.ones((4, 4), bool), offset=(0, 9))


def plain_drift_shape(points_1, points_2, spacing):
    from scipy.linalg import sqrtm

    scale = np.asarray(spacing)
    covariances = []
    for points in (points_1, points_2):
        centred = points - points.mean(axis=0)
        covariances.append((centred.T @ centred / len(points) + np.eye(2) / 12) * np.outer(scale, scale))
    drift = (points_1.mean(axis=0) - points_2.mean(axis=0)) * scale
    root = sqrtm(covariances[0])
    cross = sqrtm(root @ covariances[1] @ root)
    return drift @ drift, float(np.real(np.trace(covariances[0] + covariances[1] - 2 * cross)))


@some
@given(masks, masks, spacings, offsets)
def test_drift_and_shape_equal_their_definition(a, b, spacing, offset):
    drift2, shape2 = drift_shape(*mask_moments(a), *mask_moments(b), *offset, *spacing)
    plain = plain_drift_shape(mask_points(a), mask_points(b, offset), spacing)
    assert drift2[0] == pytest.approx(plain[0], abs=1e-9)
    assert shape2[0] == pytest.approx(plain[1], abs=1e-6)
    assert shape2[0] >= 0


@some
@given(masks, masks, offsets)
def test_drift_and_shape_never_exceed_the_squared_transport(a, b, offset):
    # Each voxel is split into 3 x 3 points: their covariance is 1/12 - 1/108 of the voxel's own.
    fine = [np.repeat(np.repeat(mask, 3, 0), 3, 1) for mask in (a, b)]
    points = mask_points(fine[0]), mask_points(fine[1], (3 * offset[0], 3 * offset[1]))
    costs = ot.dist(points[0].astype(float), points[1].astype(float))
    squared = ot.emd2([], [], costs)
    drift2, shape2 = drift_shape(*mask_moments(fine[0]), *mask_moments(fine[1]), 3 * offset[0], 3 * offset[1])
    # The kernel's extra 1/12 makes both shapes rounder, never less alike.
    assert drift2[0] + shape2[0] <= squared + 1e-6


@some
@given(st.lists(st.tuples(masks, masks, offsets), min_size=1, max_size=6), st.integers(-(10**5), 10**5))
def test_rows_do_not_know_each_other_nor_their_corner(rows, far):
    table = np.array([(*mask_moments(a), *mask_moments(b), *o) for a, b, o in rows]).T
    whole = drift_shape(*table, 0.3, 0.15)
    for i in range(len(rows)):
        one = drift_shape(*table[:, i : i + 1], 0.3, 0.15)
        swapped = drift_shape(*table[6:12, i], *table[:6, i], *-table[12:, i], 0.3, 0.15)
        n, sy, sx, syy, sxx, syx = (int(v) for v in table[:6, i])
        # The same mask about a corner at (-far, far / 2): far from cancelling to noise.
        u, v = far, -far // 2
        moved = (n, sy + u * n, sx + v * n, syy + 2 * u * sy + u * u * n, sxx + 2 * v * sx + v * v * n)
        moved += (syx + u * sx + v * sy + u * v * n,)
        shifted = drift_shape(*moved, *table[6:12, i], table[12, i] + u, table[13, i] + v, 0.3, 0.15)
        for k in range(2):
            assert one[k][0] == whole[k][i] == swapped[k][0] == shifted[k][0]


def test_drift_and_shape_of_a_mask_and_its_copy():
    mask = np.tri(9, dtype=bool)
    drift2, shape2 = drift_shape(*mask_moments(mask), *mask_moments(mask), 3, -4)
    assert (drift2[0], shape2[0]) == (25.0, 0.0)
    empty = drift_shape(0, 0, 0, 0, 0, 0, *mask_moments(mask), 0, 0)
    assert np.isnan(empty).all()
