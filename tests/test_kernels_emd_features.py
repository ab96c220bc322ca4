"""Distances along a cell against distances taken one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels.emd_features import cell_distances, centred, gap_distance, layer_points, mask_distance
from overseg.kernels.transport import emd, mask_points

boxes = arrays(
    np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 2)
)
some = settings(max_examples=40, deadline=None)


@some
@given(boxes)
def test_layer_points_give_back_the_cell(box):
    layers = layer_points(box, 2, corner=(3, -1))
    again = np.zeros_like(box, dtype=bool)
    for z, points in enumerate(layers):
        again[z, points[:, 0] - 3, points[:, 1] + 1] = True
    assert len(layers) == len(box)
    assert np.array_equal(again, box == 2)


@some
@given(boxes, st.integers(1, 3), st.booleans())
def test_distances_along_a_cell_and_along_its_mirror(box, lag, centre):
    layers = layer_points(box, 1)
    values = cell_distances(layers, lag, (0.3, 0.2), centre)
    mirrored = cell_distances(layers[::-1], lag, (0.3, 0.2), centre)
    assert np.array_equal(values, mirrored[::-1])
    if not centre:
        pairs = [(box[z] == 1, box[z + lag] == 1) for z in range(len(box) - lag)]
        plain = [emd(p, q, (0.3, 0.2)) for p, q in pairs if p.any() and q.any()]
        assert np.array_equal(values, plain)


@some
@given(boxes)
def test_centring_lays_centroids_on_each_other(box):
    p, q = mask_points(box[0] == 0), mask_points(box[-1] == 0, (4, -7))
    if len(p) and len(q):
        left, right = centred(p, q)
        assert np.abs(left.mean(axis=0) - right.mean(axis=0)).max() <= 0.5 + 1e-12
        assert mask_distance(p, q, centre=True) == mask_distance(q, p, centre=True)


def test_distance_through_a_gap():
    box = np.zeros((4, 5, 9), np.int64)
    box[0, 1:4, 1:4] = 7
    box[3, 1:4, 4:7] = 9
    assert gap_distance(box, 7, 9, z=0, gap=2, spacing=(1.0, 0.5)) == pytest.approx(1.5)
    assert gap_distance(box, 7, 9, z=0, gap=2, centre=True) == 0
    assert np.isnan(gap_distance(box, 7, 9, z=1, gap=1))
