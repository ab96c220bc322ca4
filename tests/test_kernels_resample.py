"""A pair sliced parallel to its contact: distances, sampling, and the plane's place."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import distance_transform_edt

from overseg.errors import InputError
from overseg.kernels.resample import (
    CLOSED,
    crossings,
    grid_shape,
    pair_fields,
    peak_bytes,
    plane_axes,
    reslice,
    signed_distance,
)

OPEN = ((True, True),) * 3
SHAPES = st.tuples(*[st.integers(1, 7)] * 3)
SIZES = st.sampled_from([(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (0.5, 0.3, 0.7), (1.0, 2.0, 5.0)])
NORMALS = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda n: np.linalg.norm(n) > 0.1)


# ------------------------------------------------------------------ the twin


def to_border(mask: np.ndarray, size: tuple[float, ...]) -> np.ndarray:
    """Distance to a mask less half a voxel; the diagonal stands for "none"."""
    far = np.linalg.norm(np.array(mask.shape) * size)
    distance = distance_transform_edt(~mask, sampling=size) if mask.any() else np.full(mask.shape, far)
    return np.maximum(distance - min(size) / 2, 0)


def wall_twin(places: np.ndarray, shape: tuple[int, ...], size: tuple[float, ...], goes_on) -> np.ndarray:
    """Signed distance of places (n, 3), in voxels, to the box's faces."""
    depth = np.stack([places + 0.5, np.array(shape) - 0.5 - places], -1) * np.array(size)[:, None]
    beyond = np.sqrt((np.minimum(depth, 0) ** 2).sum((1, 2)))
    near = np.where(np.array(goes_on), np.inf, depth).min((1, 2))
    return np.where(beyond > 0, -beyond, near)


def signed_twin(mask: np.ndarray, size: tuple[float, ...], goes_on=CLOSED) -> np.ndarray:
    places = np.argwhere(np.ones(mask.shape, bool)).astype(float)
    walls = wall_twin(places, mask.shape, size, goes_on).reshape(mask.shape)
    return np.minimum(to_border(~mask, size) - to_border(mask, size), walls)


def reslice_twin(box, a, b, size, point, normal, depth, radius, goes_on=CLOSED):
    spacing, shape = min(size), grid_shape(depth, radius, min(size))
    steps = (np.argwhere(np.ones(shape, bool)) - np.array(shape) // 2) * spacing
    places = (np.array(point) + steps @ plane_axes(normal)) / size
    inside = signed_twin((box == a) | (box == b), size, goes_on)
    side = to_border(box == b, size) - to_border(box == a, size)
    return (
        np.minimum(at(inside, places), wall_twin(places, box.shape, size, goes_on)).reshape(shape),
        at(side, places).reshape(shape),
    )


def at(field: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Trilinear, beyond the last voxels as there."""
    axes = [np.arange(max(n, 2)) for n in field.shape]
    field = np.pad(field, [(0, max(2 - n, 0)) for n in field.shape], mode="edge")
    top = np.array(field.shape) - 1
    return RegularGridInterpolator(axes, field)(np.clip(places, 0, top))


# ------------------------------------------------------------------ properties


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)), SIZES, st.sampled_from([CLOSED, OPEN]))
def test_signed_distance_is_that_of_the_twin(mask, size, goes_on):
    np.testing.assert_allclose(
        signed_distance(mask, size, goes_on), signed_twin(mask, size, goes_on), atol=1e-5
    )


@st.composite
def cuts(draw):
    shape = draw(SHAPES.filter(lambda s: np.prod(s) >= 2))
    box = draw(arrays(np.uint16, shape, elements=st.integers(0, 3)))
    box.flat[0], box.flat[-1] = 1, 2
    size = draw(SIZES)
    point = tuple(draw(st.floats(-1, 8)) * s for s in size)
    return (
        box,
        1,
        2,
        size,
        point,
        draw(NORMALS),
        draw(st.floats(0, 4)),
        draw(st.floats(0, 4)),
        draw(st.sampled_from([CLOSED, OPEN, ((True, False), (False, False), (False, True))])),
    )


@settings(deadline=None)
@given(cuts())
def test_reslice_is_that_of_the_twin(cut):
    found, (inside, side) = reslice(*cut), reslice_twin(*cut)
    np.testing.assert_allclose(found.inside, inside, atol=1e-4)
    np.testing.assert_allclose(found.side, side, atol=1e-4)
    assert 0 <= found.zero <= found.inside.shape[0] - 1


@settings(deadline=None)
@given(cuts())
def test_from_behind_the_sections_are_mirrored_to_the_bit(cut):
    box, a, b, size, point, normal, *rest = cut
    there, back = reslice(*cut), reslice(box, b, a, size, point, tuple(-n for n in normal), *rest)
    assert (there.inside == back.inside[::-1, :, ::-1]).all()
    assert (there.side == -back.side[::-1, :, ::-1]).all()


@given(NORMALS)
def test_axes_are_orthonormal(normal):
    axes = plane_axes(normal)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert axes[0] @ np.array(normal) > 0


# ------------------------------------------------------------------ cases


def slab(shape=(9, 20, 20)) -> np.ndarray:
    box = np.zeros(shape, np.uint8)
    box[1:-1, 3:-3, 3:-3] = 1
    return box


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_a_flat_contact_across_any_axis_lies_midway_between_voxels(axis, sign):
    size = (4.0, 1.0, 1.0)
    box = slab()
    middle = box.shape[axis] // 2
    np.moveaxis(box, axis, 0)[middle:][np.moveaxis(box, axis, 0)[middle:] == 1] = 2
    a, b = (1, 2) if sign > 0 else (2, 1)
    normal = sign * np.eye(3)[axis]
    point = (np.array(box.shape) - 1) / 2 * size
    point[axis] = middle * size[axis]  # half a voxel behind the contact
    found = reslice(box, a, b, size, point, normal, 6, 6)
    assert found.zero == pytest.approx(6 - sign * size[axis] / 2, abs=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_tilted_plane_in_a_ball_is_found_where_it_is(factor):
    z, y, x = np.ogrid[:60:factor, :60, :60]
    normal = np.array([0.6, 0.0, 0.8])
    height = (z - 30) * normal[0] + (x - 30) * normal[2]
    ball = (z - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 < 24**2
    box = np.where(ball, np.where(height < 3.25, 1, 2), 0)
    found = reslice(box, 1, 2, (float(factor), 1.0, 1.0), (30, 30, 30), normal, 10, 30)
    assert found.zero == pytest.approx(10 + 3.25, abs=0.1 * factor)
    layer = found.inside[13]
    radius = np.sqrt((np.clip(layer + 0.5, 0, 1)).sum() / np.pi)
    assert radius == pytest.approx(np.sqrt(24**2 - 3**2), abs=0.15 * factor)
    # No strips: the border between the cells is flat to a fraction of a coarse voxel.
    column = found.side[:, 30 - 12 : 30 + 13, 30 - 12 : 30 + 13]
    first = (column > 0).sum(0) - 1
    low, high = (
        np.take_along_axis(column, first[None], 0)[0],
        np.take_along_axis(column, first[None] + 1, 0)[0],
    )
    assert np.std(first + low / (low - high)) < 0.1 + 0.15 * factor


def test_pairs_of_single_voxels_and_thin_cells_work():
    box = np.zeros((1, 3, 4), np.int32)
    box[0, 1, 1], box[0, 1, 2] = 7, 9
    for normal in (*np.eye(3), (1.0, 1.0, 1.0)):
        found = reslice(box, 7, 9, (4.0, 1.0, 1.0), (0, 1, 1.5), normal, 2, 3)
        assert np.isfinite(found.inside).all() and np.isfinite(found.side).all()
    found = reslice(box, 7, 9, (4.0, 1.0, 1.0), (0, 1, 1.5), (0, 0, 1), 2, 3)
    assert found.zero == 2


def test_a_box_full_of_the_pair_ends_at_its_faces_unless_it_goes_on():
    box = np.ones((4, 4, 4), np.uint8)
    box[:, :, 2:] = 2
    args = (box, 1, 2, (1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (0, 0, 1), 4, 4)
    closed, opened = reslice(*args), reslice(*args, goes_on=OPEN)
    assert closed.inside[4, 4, 4] == pytest.approx(1.5)
    assert opened.inside[4, 4, 4] > 4
    for found in (closed, opened):
        assert found.inside[4, 4, 4 + 3] < 0 and found.inside[0, 4, 4] < 0


def test_contact_that_turns_back_counts_net():
    inside = np.ones((8, 1, 2), np.float32)
    side = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1], [1, -1], [-1, -1], [-1, -1], [-1, -1]], np.float32)
    columns, place = crossings(inside, side[:, None])
    assert columns == 2
    assert place == pytest.approx(((1.5 - 3.5 + 4.5) + (0.5 - 2.5 + 3.5)) / 2)
    assert crossings(-inside, side[:, None]) == (0, 3.5)


def test_refuses_what_is_no_pair_and_no_plane():
    with pytest.raises(InputError, match="both labels"):
        reslice(slab(), 1, 2, (1.0, 1.0, 1.0), (0, 0, 0), (0, 0, 1), 1, 1)
    for normal in ((0, 0, 0), (np.nan, 0, 1), (np.inf, 0, 0)):
        with pytest.raises(InputError, match="normal"):
            plane_axes(normal)


@pytest.mark.parametrize(("depth", "radius"), [(3, 3), (30, 40)])
def test_memory_is_within_what_is_said(depth, radius):
    box = slab((30, 40, 50))
    box[15:][box[15:] == 1] = 2
    args = (box, 1, 2, (4.0, 1.0, 1.0), (60, 20, 25), (1, 0, 0.5), depth, radius)
    reslice(*args)
    tracemalloc.start()
    reslice(*args)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = peak_bytes(box.shape, depth, radius, 1.0)
    assert 0.8 * said < peak <= said


def test_fields_agree_with_single_masks():
    box = slab()
    box[:, :, 11:][box[:, :, 11:] == 1] = 2
    inside, side = pair_fields(box, 1, 2, (4.0, 1.0, 1.0))
    assert (inside == signed_distance(box > 0, (4.0, 1.0, 1.0))).all()
    assert (np.sign(side)[box > 0] == np.where(box == 1, 1, -1)[box > 0]).all()
