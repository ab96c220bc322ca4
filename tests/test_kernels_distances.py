"""Curves of signed distances: against plain NumPy, and what they must do whatever the masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import CubicHermiteSpline
from scipy.ndimage import distance_transform_edt, label, shift

from overseg.kernels.contours import interpolate
from overseg.kernels.distances import blend, paths, weights
from overseg.kernels.raster import FINE, perimeter, squared_distance

images = arrays(bool, (7, 8)).filter(np.any)
outer = st.one_of(st.none(), images)
gaps = st.integers(1, 4)
some = settings(max_examples=60, deadline=None)
EIGHT = np.ones((3, 3), int)


def shares(values, gap):
    """Of four values, of which the outer may be None: the curve through the inner ones, by SciPy."""
    before, a, b, after = values
    slopes = [
        (b - a) / (gap + 1) if before is None else (b - before) / (gap + 2),
        (b - a) / (gap + 1) if after is None else (after - a) / (gap + 2),
    ]
    return CubicHermiteSpline([0, gap + 1], [a, b], slopes)(np.arange(1, gap + 1))


def plain(before, a, b, after, gap):
    """The masks between, in floats."""
    masks = [None if mask is None else np.pad(mask, 12) for mask in (before, a, b, after)]
    there = [mask for mask in masks if mask is not None]
    centres = [None if mask is None else np.argwhere(mask).mean(axis=0) for mask in masks]
    ways = shares(centres, gap)
    out = []
    for k in range(gap):
        moved = [
            None
            if mask is None
            else shift(
                np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask)),
                ways[k] - centre,
                order=1,
                mode="nearest",
            )
            for mask, centre in zip(masks, centres, strict=True)
        ]
        out.append(shares(moved, gap)[k])
    assert len(there) >= 2
    return np.stack(out)[:, 12:-12, 12:-12]


@some
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_distances_and_perimeters_are_exact(mask):
    found = squared_distance(mask)
    if mask.any():
        assert np.array_equal(found, np.rint(distance_transform_edt(~mask) ** 2))
    else:
        assert (found >= sum(mask.shape) ** 2).all()
    padded = np.pad(mask, 1)
    edges = sum(np.count_nonzero(np.diff(padded.astype(int), axis=axis)) for axis in (0, 1))
    assert perimeter(mask) == edges


@given(gaps, st.booleans(), st.booleans(), st.lists(st.integers(-50, 50), min_size=4, max_size=4))
def test_weights_are_those_of_a_hermite_curve(gap, before, after, values):
    found = weights(gap, before, after)
    whole = (gap + 1) ** 3 * (gap + 2)
    assert (found.sum(axis=1) == whole).all()
    assert not found[:, 0].any() or before
    assert not found[:, 3].any() or after
    given_ = [values[0] if before else None, *values[1:3], values[3] if after else None]
    assert found @ np.array(values) / whole == pytest.approx(shares(np.array(given_, object), gap))
    assert np.array_equal(weights(gap, after, before), found[::-1, ::-1])


@some
@given(outer, images, images, outer, gaps)
def test_the_field_is_that_of_plain_numpy(before, a, b, after, gap):
    masks = np.stack([np.zeros_like(a) if mask is None else mask for mask in (before, a, b, after)])
    masks = np.pad(masks, ((0, 0), (12, 12), (12, 12)))
    share = weights(gap, before is not None, after is not None)
    field = blend(masks, share, paths(masks, share))[:, 12:-12, 12:-12]
    scale = (gap + 1) ** 3 * (gap + 2) * FINE**3
    assert np.abs(field / scale - plain(before, a, b, after, gap)).max() < 0.1


@some
@given(outer, images, images, outer, gaps)
def test_exchanged_sides_give_the_reverse_and_the_crop_does_not_matter(before, a, b, after, gap):
    masks = interpolate(a, b, gap, before=before, after=after)
    assert np.array_equal(masks, interpolate(b, a, gap, before=after, after=before)[::-1])
    margin = ((15, 14), (13, 16))
    wide = [None if mask is None else np.pad(mask, margin) for mask in (before, a, b, after)]
    whole = interpolate(wide[1], wide[2], gap, before=wide[0], after=wide[3])
    if whole.any(axis=0)[15:-14, 13:-16].sum() == whole.any(axis=0).sum():
        assert np.array_equal(whole[:, 15:-14, 13:-16], masks)
    assert masks.any(axis=(1, 2)).all()


@some
@given(images, gaps, st.booleans(), st.booleans())
def test_equal_masks_come_back_whatever_is_known_of_them(a, gap, before, after):
    masks = interpolate(a, a, gap, before=a if before else None, after=a if after else None)
    assert (masks == a).all()


@some
@given(images, images, gaps)
def test_an_empty_layer_counts_as_none(a, b, gap):
    empty = np.zeros_like(a)
    assert np.array_equal(interpolate(a, b, gap, before=empty, after=empty), interpolate(a, b, gap))


def test_contours_are_taken_where_distances_break_apart():
    a = np.zeros((15, 30), bool)
    a[:, :10] = a[:, 20:] = True
    b = a.copy()
    a[2], b[12] = True, True  # bridges one voxel wide
    (mask,) = interpolate(a, b, 1)
    assert label(mask, EIGHT)[1] == 1
    assert np.array_equal(mask, interpolate(a, b, 1, "contour")[0])


@pytest.mark.parametrize("gap", [1, 2])
def test_a_cone_and_a_sphere_are_followed(gap):
    y, x = np.indices((60, 60))
    discs = [(y - 30) ** 2 + (x - 30) ** 2 <= 20.0**2 - (7 * z) ** 2 for z in (-2, -1, 0, 1, 2)]
    before, a, truth, b, after = discs
    iou = {
        name: (mask & truth).sum() / (mask | truth).sum()
        for name, mask in {
            "four": interpolate(a, b, 1, before=before, after=after)[0],
            "two": interpolate(a, b, 1)[0],
            "contour": interpolate(a, b, 1, "contour")[0],
        }.items()
    }
    assert iou["four"] > iou["two"] + 0.02 and iou["four"] > iou["contour"] + 0.02
    # Straight cones need no curve.
    cone = [(y - 30) ** 2 + (x - 30) ** 2 <= (8 + 2 * z) ** 2 for z in range(gap + 4)]
    masks = interpolate(cone[1], cone[-2], gap, before=cone[0], after=cone[-1])
    for mask, truth in zip(masks, cone[2:-2], strict=True):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.92
