"""Cells that were cut: what the parts are, that nothing else changed, and that cuts are as asked for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from overseg.errors import InputError
from overseg.measure import generate_tissue
from overseg.measure.cutting import Cut, cut_cells, cut_truth

SIZE = (2.5, 1.0, 1.2)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return generate_tissue((32, 80, 80), 60, seed=3)


@pytest.fixture(scope="module")
def cut(tissue: np.ndarray) -> tuple[np.ndarray, tuple[Cut, ...]]:
    return cut_cells(tissue, SIZE, rate=0.5, seed=1, flat=0.2, thirds=0.4)


def balls(radius: float, size: tuple[float, float, float], n: int = 6) -> np.ndarray:
    """A row of balls of a radius in physical space."""
    half = [int(radius / step) + 2 for step in size]
    grid = np.meshgrid(
        *(np.arange(-h, h + 1) * step for h, step in zip(half, size, strict=True)), indexing="ij"
    )
    ball = sum(axis**2 for axis in grid) <= radius**2
    return np.concatenate([ball * np.uint8(i) for i in range(1, n + 1)], axis=2)


def tilt_of(broken: np.ndarray, found: Cut, size: tuple[float, float, float]) -> float:
    """Degrees between z and the vector area of the contact of two parts."""
    kept, new = broken == found.kept, broken == found.new
    signed = np.zeros(3)
    for axis in range(3):
        before, after = (np.moveaxis(mask, axis, 0) for mask in (kept, new))
        signed[axis] = (before[:-1] & after[1:]).sum() - (after[:-1] & before[1:]).sum()
    area = signed * np.prod(size) / np.array(size)
    return float(np.degrees(np.arccos(area[0] / np.linalg.norm(area))))


def test_parts_make_up_the_cell_and_nothing_else_changes(tissue, cut):
    broken, cuts = cut
    truth = cut_truth(broken, cuts, 1)
    assert np.array_equal(truth.true_of(broken), tissue)
    assert truth.label.tolist() == np.unique(broken).tolist()
    touched = np.isin(tissue, [one.true for one in cuts])
    assert np.array_equal(broken[~touched], tissue[~touched])


def test_every_part_is_one_component_of_some_size(tissue, cut):
    broken, cuts = cut
    for label in {name for one in cuts for name in (one.kept, one.new)}:
        mask = broken == label
        assert ndimage.label(mask)[1] == 1 and mask.sum() >= 12


def test_as_many_cells_are_cut_as_was_asked_for_and_some_in_three(tissue, cut):
    broken, cuts = cut
    names, counts = np.unique([one.true for one in cuts], return_counts=True)
    n = sum((tissue == name).sum() >= 60 for name in np.unique(tissue)[1:])
    assert 0.4 * n <= len(names) <= 0.5 * n + 1
    assert set(counts) == {1, 2}
    pieces = [len(np.unique(broken[tissue == name])) for name in names]
    assert (np.array(pieces) == counts + 1).all()
    assert len({one.new for one in cuts}) == len(cuts)


def test_the_part_behind_is_new_and_was_touching(tissue, cut):
    broken, cuts = cut
    for one in cuts:
        if sum(other.true == one.true for other in cuts) == 1:
            kept, new = (broken == label for label in (one.kept, one.new))
            assert (ndimage.binary_dilation(kept) & new).any()
            if one.tilt < 45:
                assert np.nonzero(kept)[0].mean() < np.nonzero(new)[0].mean()


def test_flat_cuts_share_no_layer(tissue):
    broken, cuts = cut_cells(tissue, SIZE, rate=1, flat=1, tilts=(80, 90), thirds=0.3)
    assert len(cuts) > 20
    for one in cuts:
        assert (one.flat, one.tilt, one.roughness) == (True, 0.0, 0.0)
        layers = [set(np.nonzero(broken == label)[0].tolist()) for label in (one.kept, one.new)]
        assert not layers[0] & layers[1]
        if sum(other.true == one.true for other in cuts) == 1:
            assert max(layers[0]) + 1 == min(layers[1])


@pytest.mark.parametrize("tilt", [0, 20, 45, 70, 90])
@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.8)])
def test_a_cut_has_the_tilt_that_was_asked_for(tilt, size):
    broken, cuts = cut_cells(
        balls(14, size), size, rate=1, tilts=(tilt, tilt), roughness=(0,), flat=0, thirds=0
    )
    assert len(cuts) == 6
    for one in cuts:
        assert one.tilt == tilt and not one.flat
        assert abs(tilt_of(broken, one, size) - tilt) < 4


def test_rough_cuts_keep_their_tilt_and_get_larger():
    def faces(roughness: float) -> tuple[float, float]:
        volume = balls(14, (1, 1, 1), 12)
        broken, cuts = cut_cells(volume, rate=1, tilts=(0, 0), roughness=(roughness,), flat=0, thirds=0)
        touching = sum(
            (ndimage.binary_dilation(broken == one.kept) & (broken == one.new)).sum() for one in cuts
        )
        return float(np.mean([tilt_of(broken, one, (1, 1, 1)) for one in cuts])), touching

    smooth, rough = faces(0), faces(0.2)
    assert rough[0] < 25 and rough[1] > 1.15 * smooth[1]


def test_the_seed_decides(tissue):
    one, two, other = (cut_cells(tissue, SIZE, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(one[0], two[0]) and one[1] == two[1]
    assert one[1] != other[1]


def test_cells_too_small_thin_large_or_broken_stay_whole():
    labels = np.zeros((12, 40, 40), np.uint16)
    labels[:3, :9, :9] = 1
    labels[4:8, :3, :3] = 2
    labels[:, 11:, :] = 3
    labels[:5, :9, 20:29] = labels[7:, :9, 20:29] = 4
    broken, cuts = cut_cells(labels, rate=1)
    assert cuts == () and np.array_equal(broken, labels)


def test_nothing_is_cut_at_rate_zero_nor_in_the_background(tissue):
    assert cut_cells(tissue, rate=0)[1] == ()
    cells = np.unique(tissue).tolist()
    assert cut_cells(tissue, rate=1, background=cells)[1] == ()
    few = cut_cells(tissue, rate=1, background=cells[:-5])[1]
    assert few and {one.true for one in few} <= set(cells[-5:])


def test_a_narrow_type_is_widened_for_fresh_labels():
    labels = np.where(balls(6, (1, 1, 1)) > 0, balls(6, (1, 1, 1)) + np.uint8(249), np.uint8(0))
    broken, cuts = cut_cells(labels.astype(np.uint8), rate=1)
    assert broken.dtype == np.uint16 and cuts[0].new == 256
    assert labels.max() == 255


@pytest.mark.parametrize(
    "options",
    [
        {"rate": -0.1},
        {"rate": 1.1},
        {"flat": 2},
        {"thirds": -1},
        {"seed": -1},
        {"tilts": (50, 40)},
        {"tilts": (0, 91)},
        {"tilts": (float("nan"), 3)},
        {"roughness": ()},
        {"roughness": (-0.1,)},
        {"voxel_size": (1, 1)},
        {"voxel_size": (1, 0, 1)},
        {"voxel_size": (1, float("nan"), 1)},
    ],
)
def test_options_that_cannot_be_are_refused(tissue, options):
    with pytest.raises(InputError):
        cut_cells(tissue, **options)


@pytest.mark.parametrize("bad", [np.zeros((3, 3), int), np.zeros((3, 3, 3)), np.full((3, 3, 3), -1)])
def test_arrays_that_are_no_labels_are_refused(bad):
    with pytest.raises(InputError):
        cut_cells(bad)
