"""The fast way of transport against the exact one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels import levels
from overseg.kernels.transport import emd_between, emd_points, mask_points

some = settings(max_examples=40, deadline=None)


def error(one, two, spacing=(1.0, 1.0)):
    """Relative; where the distance is near to nothing, 0.005 voxels count as 1%."""
    exact, (_, low, high) = emd_points(one, two, spacing), emd_between(one, two, spacing)
    fast = emd_points(one, two, spacing, fast=True)
    assert low <= exact <= high
    return abs(fast - exact) / max(exact, 0.5 * spacing[0])


@some
@given(arrays(bool, (6, 8)).filter(np.any), arrays(bool, (6, 8)).filter(np.any))
def test_small_problems_are_exact(a, b):
    one, two = mask_points(a), mask_points(b, (2, 3))
    exact, (value, low, high) = emd_points(one, two, (0.3, 0.1)), emd_between(one, two, (0.3, 0.1))
    assert emd_points(one, two, (0.3, 0.1), fast=True) == value == exact
    assert low <= exact <= high <= low * (1 + 3e-9)


@some
@given(st.floats(8, 14), st.floats(6, 12), st.floats(-9, 9), st.floats(0.8, 1.3), st.integers(-50, 50))
def test_discs_and_ellipses(radius, other, step, stretch, shift):
    y, x = np.mgrid[:60, :60]
    one = mask_points((y - 30) ** 2 + (x - 30) ** 2 < radius**2)
    two = mask_points((y - 30 - step) ** 2 + stretch * (x - 28) ** 2 < other**2)
    assert error(one, two) < 0.03
    value = emd_points(one, two, fast=True)
    assert emd_points(two, one, fast=True) == value
    assert emd_points(two + shift, one + shift, fast=True) == value


@some
@given(arrays(bool, (40, 44), elements=st.booleans()), st.integers(0, 2**32), st.sampled_from([1.0, 3.0]))
def test_bounds_hold_for_ragged_masks(ragged, seed, stretch):
    # Blobs with holes and islands, far enough apart for blocks to be trusted.
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :44]
    masks = [
        ((y - rng.integers(8, 32)) ** 2 + (x - rng.integers(8, 36)) ** 2 < rng.integers(30, 200))
        & (ragged | (rng.random(ragged.shape) < 0.9))
        for _ in range(2)
    ]
    one, two = (mask_points(mask) for mask in masks)
    if len(one) and len(two):
        exact, (fast, low, high) = emd_points(one, two, (1.0, stretch)), emd_between(one, two, (1.0, stretch))
        assert low <= exact <= high and low <= fast <= high


def test_what_does_not_agree_is_exact():
    y, x = np.mgrid[:60, :60]
    one, two = (mask_points((y - 30) ** 2 + (x - c) ** 2 < 250) for c in (26, 31))
    exact = emd_points(one, two)
    assert emd_points(one, two, fast=True) != exact
    comb, shifted = mask_points((x % 4 < 2)[:20]), mask_points((x % 4 < 2)[:20], (0, 1))
    assert emd_points(comb, shifted, fast=True) == emd_points(comb, shifted)


def test_blocks_are_trusted_where_mass_travels_far_and_levels_agree():
    assert levels.settled(100.0, 99.0, 10.0, 4)
    assert not levels.settled(100.0, 90.0, 10.0, 4)
    assert not levels.settled(100.0, 99.0, 80.0, 4)
    assert not levels.settled(100.0, np.nan, 10.0, 4)
    assert not levels.settled(100.0, 99.0, 10.0, 1)


def test_real_cells(real):
    labels = real("plant_ovule_crop/ovule_crop")
    rng = np.random.default_rng(7)
    errors = []
    while len(errors) < 30:
        label, z = int(rng.integers(2, labels.max())), int(rng.integers(len(labels) - 3))
        one, two = mask_points(labels[z] == label), mask_points(labels[z + 1 + len(errors) % 3] == label)
        if min(len(one), len(two)) > 100 and max(len(one), len(two)) < 2000:
            errors.append(error(one, two))
    assert np.quantile(errors, 0.9) < 0.01
    assert max(errors) == pytest.approx(0, abs=0.03)
