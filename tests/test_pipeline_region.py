"""A region: nothing outside it changes, whatever shares a chunk or a label with it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import zarr

import overseg
from overseg.kernels.scan import scan_block
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.decide import decide
from overseg.pipeline.fills import wanted_fills
from overseg.pipeline.reconcile import from_tables

SHAPE = (24, 40, 80)
REGION = ((0, 24), (0, 40), (0, 36))


def ball(volume: np.ndarray, centre: tuple[int, int, int], radius: int, label: int) -> None:
    offsets = np.ogrid[tuple(slice(-c, n - c) for c, n in zip(centre, volume.shape, strict=True))]
    volume[sum(offset**2 for offset in offsets) < radius**2] = label


@pytest.fixture
def volume() -> np.ndarray:
    """A cell that is split into 3 and 7 inside the region, and a far piece of 7 outside it."""
    volume = np.zeros(SHAPE, np.uint16)
    ball(volume, (12, 20, 18), 10, 3)
    volume[13:][volume[13:] == 3] = 7
    volume[12] = 0
    ball(volume, (12, 20, 60), 6, 7)
    return volume


@pytest.mark.parametrize("chunks", [SHAPE, (24, 40, 40), (5, 7, 50)])
def test_nothing_outside_the_region_changes(volume, tmp_path, chunks):
    path = tmp_path / "v.zarr"
    stored = zarr.create_array(path, shape=SHAPE, dtype=volume.dtype, chunks=chunks)
    stored[:] = volume
    plan = overseg.correct(path, workers=1, region=REGION, threshold=0.0)
    assert plan.data.merges.old.tolist() == [7]
    corrected = zarr.open_array(path, mode="r")[:]
    assert not (corrected[..., :36] == 7).any()
    np.testing.assert_array_equal(corrected[..., 36:], volume[..., 36:])
    assert overseg.verify(plan, workers=1).ok
    overseg.undo(plan, workers=1)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], volume)


def test_a_label_cut_by_the_region_is_no_noise(volume):
    volume[12, 18:21, 16:36] = 9  # looks like noise in the gap, but who knows what it is beyond the border
    inside = np.ascontiguousarray(volume[..., :36])
    found = from_tables(scan_block(inside, 0, (0, 0, 0), 1), 0, REGION, SHAPE)
    candidates = find_candidates(found.layers, found.pairs, found.stacked, 1)
    verdicts = decide(
        candidates,
        found.layers,
        np.ones(len(candidates)),
        threshold=0.5,
        review_from=0.5,
        out_of_range=np.zeros(len(candidates), bool),
        cut=found.cut,
    )
    assert candidates.noise == ((9,),)
    assert verdicts.decision.tolist() == ["merge"]
    assert found.cut.tolist() == [9]
    assert [each.noise for each in wanted_fills(candidates, verdicts, found.layers)] == [(9,)]
    assert [each.noise for each in wanted_fills(candidates, verdicts, found.layers, cut=[9])] == [()]


def test_a_tight_region_is_no_hole_in_the_tissue(volume, tmp_path):
    path = tmp_path / "v.zarr"
    stored = zarr.create_array(path, shape=SHAPE, dtype=volume.dtype, chunks=SHAPE)
    stored[:] = volume
    fills = []
    for margin in (2, 8):
        region = ((0, 24), (11 - margin, 30 + margin), (9 - margin, 28 + margin))
        plan = overseg.plan(path, workers=1, region=region, threshold=0.0, out=tmp_path / str(margin))
        found = plan.data.fills
        fills.append(
            list(zip(found.z.tolist(), found.y.tolist(), found.x0.tolist(), found.x1.tolist(), strict=True))
        )
    assert fills[0] == fills[1]
    assert 200 < sum(x1 - x0 for _, _, x0, x1 in fills[0]) < 320  # a disc, not the square around it


def test_regions_next_to_each_other_share_no_voxel(volume, tmp_path):
    path = tmp_path / "v.zarr"
    stored = zarr.create_array(path, shape=SHAPE, dtype=volume.dtype, chunks=SHAPE)
    stored[:] = volume
    expected = volume.copy()
    for start, stop in pairwise((0, 36, 80)):
        region = (*REGION[:2], (start, stop))
        overseg.correct(path, workers=1, region=region, threshold=0.0)
        now = zarr.open_array(path, mode="r")[:]
        outside = np.delete(now, np.s_[start:stop], axis=2)
        np.testing.assert_array_equal(outside, np.delete(expected, np.s_[start:stop], axis=2))
        expected = now
