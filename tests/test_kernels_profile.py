"""Profiles against NumPy's least squares and percentiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.kernels.profile import fits, five_numbers, shape_index

profiles = st.lists(st.integers(-50, 50).map(lambda v: v / 4), max_size=9)
some = settings(max_examples=80, deadline=None)


def one(function, profile):
    return function(profile, [0, len(profile)])


def plain_r2(profile, degree):
    y, t = np.asarray(profile), np.arange(len(profile))
    fit = np.polynomial.polynomial.polyfit(t, y, degree)
    left = y - np.polynomial.polynomial.polyval(t, fit)
    return 1 - left @ left / ((y - y.mean()) @ (y - y.mean()))


@some
@given(profiles.filter(lambda p: len(p) >= 3 and len(set(p)) > 1))
def test_fits_equal_least_squares(profile):
    linear, quadratic, _ = one(fits, profile)
    assert linear[0] == pytest.approx(plain_r2(profile, 1), abs=1e-9)
    assert quadratic[0] == pytest.approx(plain_r2(profile, 2), abs=1e-9)


@some
@given(st.lists(profiles, min_size=1, max_size=5))
def test_neither_neighbours_nor_a_flip_change_a_bit(many):
    start = np.cumsum([0, *map(len, many)])
    together = [*fits(np.concatenate(many), start), shape_index(np.concatenate(many), start)]
    for i, profile in enumerate(many):
        for way in (profile, profile[::-1]):
            alone = [*one(fits, way), one(shape_index, way)]
            assert all(
                np.array_equal(a, t[i : i + 1], equal_nan=a.dtype != bool)
                for a, t in zip(alone, together, strict=True)
            )


@some
@given(profiles)
def test_five_numbers_equal_percentiles(profile):
    numbers = one(five_numbers, profile)[0]
    if profile:
        assert np.allclose(numbers, np.percentile(profile, [0, 25, 50, 75, 100]), atol=1e-12)
    else:
        assert np.isnan(numbers).all()


@pytest.mark.parametrize(
    ("profile", "smooth"),
    [
        ([1, 2, 4, 9], True),
        ([9, 4, 2, 1], True),
        ([1, 5, 7, 3, 2], True),
        ([7, 1, 2], True),
        ([1, 5, 2, 6], False),
        ([1, 2, 2, 3], False),
        ([3, 3, 3], False),
        ([1, 2], False),
        ([], False),
    ],
)
def test_a_profile_turns_at_most_once(profile, smooth):
    assert one(fits, profile)[2][0] == smooth


def test_shape_index():
    assert one(shape_index, [1.0, 2.0, 9.0])[0] == 1
    assert one(shape_index, [3.0, 3.0, 3.0, 3.0])[0] == 1
    assert np.isnan(one(shape_index, [3.0, 4.0])[0])
    zigzag = [1.0, 4.0, 2.0, 5.0, 1.0]
    assert one(shape_index, zigzag)[0] == pytest.approx(plain_r2(zigzag, 2))
