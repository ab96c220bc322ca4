"""Small compiled images against SciPy's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from overseg.kernels import fill
from overseg.kernels.raster import pieces, squared_depth

some = settings(max_examples=80, deadline=None)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 11))
masks = sizes.flatmap(lambda size: arrays(bool, size))
edges = st.tuples(*[st.booleans()] * 4)


@some
@given(masks, st.booleans())
def test_pieces_are_numbered_as_scipy_does(mask, diagonal):
    plain, n = ndimage.label(mask, np.ones((3, 3)) if diagonal else None)
    ours, ours_n = pieces(mask, diagonal)
    assert ours_n == n
    assert np.array_equal(ours, plain)


@some
@given(masks)
def test_depth_is_scipys_distance_squared(mask):
    plain = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert np.array_equal(squared_depth(mask), np.rint(plain**2))


def test_depth_of_a_large_disc():
    y, x = np.indices((301, 260))
    mask = ((y - 150) ** 2 + (x - 130) ** 2 < 125**2) & ((y - 90) ** 2 + (x - 170) ** 2 > 30)
    plain = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert np.array_equal(squared_depth(mask), np.rint(plain**2))


@some
@given(masks, edges)
def test_cores_are_erosions_in_a_frame(room, open_edges):
    framed = np.pad(room, 1)
    framed[0], framed[-1] = not open_edges[0], not open_edges[1]
    framed[1:-1, 0], framed[1:-1, -1] = not open_edges[2], not open_edges[3]
    assert np.array_equal(fill._core(room, open_edges), ndimage.binary_erosion(framed)[1:-1, 1:-1])


@some
@given(masks)
def test_dilation(mask):
    assert np.array_equal(fill._dilated(mask), ndimage.binary_dilation(mask, np.ones((3, 3))))
