"""Which voxels a restored mask takes: one small tissue per rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels.contours import interpolate
from overseg.kernels.fill import FREE, NOISE, SWALLOWED, restore, runs

A, B, N, W, X = 1, 2, 3, 4, 5
FACE = (slice(4, 12), slice(4, 12))


def tissue(gap=1, wall=W):
    """A above B with `gap` empty layers between, in a frame of one wall cell."""
    box = np.full((gap + 2, 16, 24), wall, np.uint64)
    box[0][FACE], box[-1][FACE] = A, B
    box[1:-1][(slice(None), *FACE)] = 0
    return box


def filled(box, **options):
    """The gap layers after the fill, A and B as one cell."""
    restored = restore(box, A, B, **options)
    after = box[1:-1].copy()
    after[restored.take > 0] = A
    return after, restored


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_a_missing_mask_is_put_back(gap):
    after, restored = filled(tissue(gap))
    assert (after[(slice(None), *FACE)] == A).all()
    assert (restored.take > 0).sum() == gap * 64
    assert set(np.unique(restored.take)) == {0, FREE}


def test_the_outline_of_a_hole_wins_over_the_contour():
    box = tissue()
    box[1, 3, 4:12] = 0  # the hole is one row higher than both faces
    box[1, 11, 4:12] = W
    after, _ = filled(box)
    assert np.array_equal(after[0] == A, box[1] == 0)


def test_thin_seams_do_not_hide_a_hole():
    box = tissue()
    box[1, 3, 4:12] = 0
    box[1, 7, :] = 0  # a seam of background, from edge to edge
    after, _ = filled(box)
    assert (after[0, 4:12, 4:12] == A).all()
    assert (after[0, 7, :4] == 0).all() and (after[0, 7, 12:] == 0).all()


def test_seams_around_a_hole_stay_free():
    box = tissue()
    box[1] = box[0] = np.where((np.indices((16, 24)) % 9 == 3).any(axis=0), 0, W)  # cells of 8 x 8
    box[0][FACE], box[1][FACE] = A, 0
    box[1, 4, 4] = W
    after, _ = filled(box)
    assert (after[0] == A).sum() == 63
    assert np.array_equal(after[0] == A, (box[0] == A) & (box[1] == 0))


def test_without_a_hole_the_contour_takes_free_voxels_only():
    box = tissue(wall=0)
    box[:, :, 9:] = np.where(box[:, :, 9:] == 0, N, box[:, :, 9:])
    box[1, :, 9:] = N  # the neighbour has grown over a part of the mask, less than half
    after, restored = filled(box)
    assert (after[0, 4:12, 4:9] == A).all()
    assert (after[0][:, 9:] == N).all()
    assert restored.mask[0, 5, 10]


def test_nothing_but_the_mask_is_filled_in_the_open():
    after, _ = filled(tissue(wall=0))
    assert np.array_equal(after[0] == A, _columns())


def _columns():
    mask = np.zeros((16, 24), bool)
    mask[FACE] = True
    return mask


def swallowed(gap=1):
    box = tissue(gap)
    box[:, 2:14, 12:20] = N
    box[1:-1, 4:12, 4:12] = N
    return box


@pytest.mark.parametrize("gap", [1, 2])
def test_a_swallowed_mask_is_taken_back(gap):
    box = swallowed(gap)
    after, restored = filled(box)
    assert (after[(slice(None), *FACE)] == A).all()
    assert (after[:, 2:14, 12:20] == N).all()
    assert (restored.take == SWALLOWED).sum() == gap * 64


def test_a_swallowed_mask_has_the_outline_that_other_cells_leave():
    box = swallowed()
    box[1, 3, 4:12] = N  # one row more than the faces have
    after, _ = filled(box)
    assert (after[0, 4:12, 4:12] == A).all() and (after[0, 3, 4:11] == A).all()
    assert (after[0, 2:14, 12:20] == N).all()  # and the voxel beside it, as near to both, stays


def test_a_neighbour_that_has_not_grown_keeps_its_voxels():
    box = swallowed()
    box[1, 2:14, 12:20] = W  # it moves over the faces' place and leaves its own: no bigger than before
    box[:, :, 20:] = N
    box[1, 2:14, 20:] = W
    after, restored = filled(box)
    assert not restored.take.any()
    assert np.array_equal(after, box[1:-1])


def test_a_neighbour_that_is_only_in_the_gap_is_not_swallowed():
    box = tissue()
    box[1][FACE] = X
    after, restored = filled(box)
    assert not restored.take.any()
    assert (after[0][FACE] == X).all()


def test_a_neighbour_that_starts_in_the_gap_gives_what_it_has_more():
    box = swallowed()
    box[0][box[0] == N] = W
    after, _ = filled(box)
    assert (after[0][FACE] == A).all()
    assert (after[0, 2:14, 12:20] == N).all()


def shared():
    """N and X, of which each has taken less than half of the mask."""
    box = tissue()
    box[:, :, 12:], box[:, :, :4] = N, X
    box[1, 4:12, 8:], box[1, 4:12, :8] = N, X
    box[1, 4:12, 7:9] = 0
    return box


def test_several_neighbours_give_back_what_each_has_taken():
    after, restored = filled(shared())
    assert (after[0][FACE] == A).all() and (after[0] == A).sum() == 64
    assert (after[0, :, 12:] == N).all() and (after[0, :, :4] == X).all()
    assert np.bincount(restored.take.ravel(), minlength=4)[1:].tolist() == [16, 0, 48]


def test_of_several_neighbours_one_that_has_not_grown_loses_nothing():
    box = shared()
    box[[0, 2], 4:8, 4:7] = X  # it had these before: four rows less of the cell
    box[1, 8:12, :3] = W
    after, _ = filled(box)
    assert np.array_equal(after[0] == X, box[1] == X)


def test_neighbours_that_have_less_than_half_together_lose_nothing():
    box = shared()
    box[1, 4:12, 5:11] = 0
    after, restored = filled(box)
    assert (after[0, 4:12, 5:11] == A).all()
    assert set(np.unique(restored.take)) == {0, FREE}


def test_a_rough_hole_loses_what_sticks_out_of_it():
    box = tissue()
    box[1, 3, 4:12:2] = box[1, 12, 5:12:2] = 0
    box[1, 4:12:2, 3] = box[1, 5:12:2, 12] = 0
    after, _ = filled(box)
    assert np.array_equal(after[0] == A, _columns())


def test_layers_beyond_the_faces_are_followed():
    y, x = np.indices((40, 40))
    radii = (16, 10, 7, 10, 16)  # a waist that the faces alone do not show
    box = np.full((5, 40, 40), W, np.uint64)
    for layer, radius in enumerate(radii):
        box[layer][(y - 20) ** 2 + (x - 20) ** 2 <= radius**2] = A if layer < 2 else 0 if layer == 2 else B
    box[2] = 0
    near, far = restore(box[1:-1], A, B), restore(box, A, B, beyond=(True, True))
    assert (far.take > 0).sum() < (near.take > 0).sum()
    assert np.array_equal(near.take, restore(box[1:-1], A, B, method="contour").take)
    for beyond, layers in (((True, False), slice(0, 4)), ((False, True), slice(1, 5))):
        one = restore(box[layers], A, B, beyond=beyond)
        assert one.mask.shape == (1, 40, 40)
        assert (far.take > 0).sum() < (one.take > 0).sum() < (near.take > 0).sum()


def test_noise_is_absorbed_whole():
    box = tissue()
    box[1, 6:8, 6:9] = X
    box[1, 1, 20] = X  # a crumb of it elsewhere
    after, restored = filled(box, noise=(X,))
    assert not (after == X).any()
    assert (restored.take == NOISE).sum() == 7
    kept, _ = filled(box)
    assert (kept == X).sum() == 7


def test_own_voxels_stay_and_the_rest_of_the_mask_is_filled():
    box = tissue()
    box[1, 4:8, 4:12] = A
    after, restored = filled(box)
    assert (after[0][FACE] == A).all()
    assert (restored.take > 0).sum() == 32
    box[1, 4:8, 4:12] = X
    after, restored = filled(box, own=(X,))
    assert (restored.take > 0).sum() == 32
    assert (after[0, 4:8, 4:12] == X).all()


def test_modes():
    box = swallowed()
    box[1, 4:6, 4:12] = 0
    box[1, 6, 4:12] = X
    taken = {
        mode: np.bincount(restore(box, A, B, noise=(X,), fill=mode).take.ravel(), minlength=4)
        for mode in ("all", "free", "none")
    }
    assert taken["all"][1:].tolist() == [16, 8, 40]
    assert taken["free"][1:].tolist() == [16, 8, 0]
    assert taken["none"][1:].tolist() == [0, 0, 0]


def test_other_backgrounds():
    box = tissue()
    box[1][FACE] = 9
    assert not restore(box, A, B).take.any()
    assert (restore(box, A, B, background=(0, 9)).take == FREE).sum() == 64


def test_a_hole_may_end_with_the_volume():
    box = tissue()[:, 4:]
    box[1, 8, 4:12] = 0  # one row beyond the faces
    ends = restore(box, A, B, open_edges=(True, False, False, False))
    goes_on = restore(box, A, B)
    assert (ends.take > 0).sum() == 72
    assert (goes_on.take > 0).sum() == 64


def test_a_hole_of_one_label_is_filled():
    box = tissue()
    box[-1][box[-1] == B] = A
    assert (restore(box, A, A).take == FREE).sum() == 64


def test_depth_is_the_squared_distance_to_the_outside():
    depth = restore(tissue(), A, B).depth[0]
    assert depth[4, 4] == 1 and depth[7, 7] == 16
    assert not depth[~_columns()].any()


labels = st.integers(0, 5).map(np.uint64)
boxes, tissues = (arrays(np.uint64, (layers, 6, 7), elements=labels) for layers in (3, 5))
sides = st.tuples(st.booleans(), st.booleans())
ways = st.sampled_from(["distance", "contour"])


@settings(max_examples=120, deadline=None)
@given(tissues, st.sampled_from(["all", "free", "none"]), sides, ways)
def test_whatever_the_tissue(whole, mode, beyond, method):
    whole[1, 2, 2], whole[-2, 3, 3] = A, B
    box = whole[1 - beyond[0] : 4 + beyond[1]]
    options = {"noise": (N,), "background": (0,), "fill": mode, "method": method}
    restored = restore(box, A, B, beyond=beyond, **options)
    take, inner = restored.take, whole[2:3]
    assert not take[np.isin(inner, [A, B])].any()
    assert (inner[take == FREE] == 0).all()
    assert (inner[take == NOISE] == N).all()
    if mode == "none":
        assert not take.any()
    # What is taken from a neighbour is less than all of it.
    for label in np.unique(inner[take == SWALLOWED]):
        assert mode == "all" and (whole[[1, -2]] == label).any()
        assert not ((take[0] == SWALLOWED) & (whole[1] == label) & (whole[-2] == label)).any()
    assert (restored.mask | (take == NOISE))[take > 0].all()
    assert np.array_equal(restored.depth > 0, restored.mask)
    # A flipped z axis exchanges the faces and nothing else.
    flipped = restore(box[::-1], B, A, beyond=beyond[::-1], **options)
    for name in ("mask", "take", "depth"):
        assert np.array_equal(getattr(flipped, name), getattr(restored, name)[::-1])


@settings(max_examples=80, deadline=None)
@given(boxes)
def test_runs_hold_every_voxel_once(box):
    take = (box % 4).astype(np.uint8)
    again = np.zeros(box.shape, np.int64)
    for layer, y, x0, x1 in runs(box, take):
        assert len(np.unique(box[layer, y, x0:x1])) == len(np.unique(take[layer, y, x0:x1])) == 1
        again[layer, y, x0:x1] += 1
    assert np.array_equal(again, take > 0)
    order = runs(box, take)
    assert np.array_equal(order, order[np.lexsort(order[:, :3].T[::-1])])


def test_real_cells_come_back(real):
    volume = real("plant_ovule_nuclei/nuclei_1136")
    z = 50
    scores = []
    for cell in np.unique(volume[z])[1:]:
        box = volume[z - 1 : z + 2].astype(np.uint64)
        truth = box[1] == cell
        if min((box[0] == cell).sum(), truth.sum(), (box[2] == cell).sum()) > 20:
            box[1][truth] = 0
            mask = restore(box, int(cell), int(cell)).take[0] > 0
            scores.append((mask & truth).sum() / (mask | truth).sum())
            plain = interpolate(box[0] == cell, box[2] == cell, 1)[0]
            assert not (mask & ~plain & (box[1] > 0)).any()
    assert len(scores) > 3
    assert np.mean(scores) > 0.85
