"""The unit of work: what is read, that nothing else matters, and that the sides may be exchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.kernels.resample import grid_shape, plane_axes
from overseg.kernels.solids import touch_array
from overseg.measure import generate_tissue
from overseg.model.across import ACROSS, unseen
from overseg.model.features import PAPER
from overseg.pipeline.across import (
    Across,
    across_box,
    across_task,
    batches,
    measured_across,
    peak_bytes,
)
from overseg.pipeline.closer import sights
from overseg.volume import open_volume

SIZE = (1.0, 1.0, 1.0)
TISSUE = generate_tissue((40, 48, 48), 30, 1, "packed").astype(np.uint64)
WHOLE = (0, 40, 0, 48, 0, 48)


def pair(least: int = 120) -> Across:
    """The first two cells that share enough faces normal to x, seen along x and a little aside."""
    left, right = TISSUE[:, :, :-1], TISSUE[:, :, 1:]
    keys, n = np.unique(np.stack([left, right])[:, (left != right)], axis=1, return_counts=True)
    a, b = (int(each) for each in keys[:, np.argmax(n >= least)])
    z, y, x = np.argwhere((left == a) & (right == b)).mean(axis=0)
    normal = tuple((np.array([0.1, 0.2, 1.0]) / np.sqrt(1.05)).tolist())
    return Across((a,), (b,), WHOLE, (z, y, x + 0.5), normal, 6.0, 14.0)


def measure(look: Across, kind="tilted", volume=TISSUE, size=SIZE) -> np.ndarray:
    return measured_across(lambda box: volume[box], [look], kind, size)[0]


LOOK = pair()


def boxes(look: Across) -> list[tuple[int, ...]]:
    at = [np.argwhere(label == TISSUE) for label in (*look.a, *look.b)]
    return [tuple(np.stack([p.min(0), p.max(0) + 1], axis=1).ravel().tolist()) for p in at]


PLACES = st.tuples(*[st.floats(-5, 60)] * 3)
NORMALS = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda n: np.linalg.norm(n) > 0.1)


@settings(deadline=None)
@given(PLACES, NORMALS, st.floats(0.5, 12), st.floats(0.5, 12), st.sampled_from([SIZE, (3.0, 1.0, 0.5)]))
def test_the_box_holds_what_the_grid_sees(point, normal, depth, radius, size):
    """Plain twin: the voxels around every point of the grid."""
    one, two, shape = (3, 20, 5, 30, 0, 25), (10, 38, 2, 40, 20, 45), (40, 48, 48)
    z0, z1, y0, y1, x0, x1 = across_box(one, two, point, normal, depth, radius, size, shape)
    assert 0 <= z0 < z1 <= 40 and 0 <= y0 < y1 <= 48 and 0 <= x0 < x1 <= 48
    steps = [np.arange(n) - n // 2 for n in grid_shape(depth, radius, min(size))]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) * min(size)
    places = (grid @ plane_axes(normal) + point) / size
    within = (places > [3, 2, 0]) & (places < [37, 39, 44])
    seen = np.concatenate([np.floor(places[within.all(axis=1)]), np.ceil(places[within.all(axis=1)])])
    assert (seen >= [z0, y0, x0]).all() and (seen < [z1, y1, x1]).all()


def test_a_cut_down_box_says_what_the_volume_says():
    box = across_box(*boxes(LOOK), LOOK.point, LOOK.normal, LOOK.depth, LOOK.radius, SIZE, TISSUE.shape)
    cut = replace(LOOK, box=box)
    assert cut.voxels < LOOK.voxels / 2
    np.testing.assert_allclose(measure(cut), measure(LOOK), atol=0.02)


@pytest.mark.parametrize("kind", ["tilted", "paper"])
def test_exchanging_the_sides_changes_no_bit(kind):
    normal = tuple(-part for part in LOOK.normal)
    turned = replace(LOOK, a=LOOK.b, b=LOOK.a, normal=normal)
    np.testing.assert_array_equal(measure(LOOK, kind), measure(turned, kind))


@pytest.mark.parametrize("kind", ["tilted", "paper"])
def test_groups_and_fills_count_as_the_side_that_they_belong_to(kind):
    whole, volume = measure(LOOK, kind), TISSUE.copy()
    of_a = np.argwhere(volume == LOOK.a[0])
    part, hole = of_a[: len(of_a) // 2], of_a[-40:]
    volume[tuple(part.T)] = 999
    volume[tuple(hole.T)] = 0
    fills = tuple((int(z), int(y), int(x), int(x) + 1, 0) for z, y, x in hole)
    beyond = ((-1, 0, 0, 5, 1), (0, 99, 0, 5, 1), (5, 5, -9, 0, 1))
    look = replace(LOOK, a=(LOOK.a[0], 999), fills=fills + beyond)
    np.testing.assert_array_equal(measure(look, kind, volume), whole)


def test_what_cannot_be_seen_is_said():
    gone = replace(LOOK, a=(777,))
    np.testing.assert_array_equal(measure(gone), unseen())
    assert np.isnan(measure(gone, "paper")).all()
    assert measured_across(lambda box: TISSUE[box], [], "tilted", SIZE).shape == (0, len(ACROSS))


def test_the_published_features_are_in_voxels():
    size = np.array([4.0, 1.0, 0.5])
    normal = np.array(LOOK.normal) / size  # so that the plane is the same among the voxels
    normal /= np.linalg.norm(normal)
    physical = replace(LOOK, point=tuple(LOOK.point * size), normal=tuple(normal), depth=1.0, radius=1.0)
    found, expected = measure(physical, "paper", size=tuple(size)), measure(LOOK, "paper")
    assert expected.shape == (len(PAPER),)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_batches_hold_all_in_order():
    many = [replace(LOOK, depth=float(i)) for i in range(150)]
    found = list(batches(many))
    assert [look for batch in found for look in batch] == many
    assert max(map(len, found)) <= 64 and list(batches([])) == []


@pytest.mark.parametrize("kind", ["tilted", "paper"])
def test_the_task_writes_what_is_measured(tmp_path, kind):
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=TISSUE.shape, dtype=TISSUE.dtype, chunks=(9, 20, 33)
    )
    stored[:] = TISSUE
    volume = open_volume(tmp_path / "a.zarr", voxel_size=SIZE)
    cut = replace(LOOK, box=(2, 38, 1, 47, 0, 48))
    done = across_task(volume, [LOOK, cut], kind, str(tmp_path / "out" / "rows.npy"))
    rows = np.load(done["path"], allow_pickle=False)
    np.testing.assert_array_equal(rows, [measure(LOOK, kind), measure(cut, kind)])
    assert peak_bytes(volume, [LOOK, cut], kind) > 14 * LOOK.voxels


def test_the_published_method_looks_at_whole_cells():
    solids, touches = touch_array(TISSUE)
    of_pair = (touches.a == min(LOOK.a + LOOK.b)) & (touches.b == max(LOOK.a + LOOK.b))
    near, whole = (
        sights(touches.take(of_pair), solids, SIZE, TISSUE.shape, whole=whole)[0] for whole in (False, True)
    )
    one, two = (np.array(box) for box in boxes(LOOK))
    assert (whole[:6:2] <= np.minimum(one, two)[::2]).all() and (
        whole[1:6:2] >= np.maximum(one, two)[1::2]
    ).all()
    assert np.prod(near[1:6:2] - near[:6:2]) < np.prod(whole[1:6:2] - whole[:6:2])
    np.testing.assert_array_equal(near[6:12], whole[6:12])
