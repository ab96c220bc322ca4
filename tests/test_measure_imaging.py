"""Flaws of masks: what each does, and that cells stay what they are."""

from __future__ import annotations

import numpy as np
import pytest

from overseg.errors import InputError
from overseg.measure import generate_tissue
from overseg.measure.imaging import FLAWS, flawed


@pytest.fixture(scope="module")
def tissue():
    return generate_tissue((12, 60, 60), 40, seed=3)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_repeatable_and_makes_no_labels(tissue, flaw):
    before = tissue.copy()
    one, two = flawed(tissue, flaw, 1), flawed(tissue, flaw, 1)
    assert np.array_equal(one, two) and np.array_equal(tissue, before)
    assert one.shape == tissue.shape and one.dtype == tissue.dtype
    assert set(np.unique(one)) <= set(np.unique(tissue))
    assert not np.array_equal(one, tissue)
    # Most of every layer stays as it was.
    assert (one == tissue).mean(axis=(1, 2)).min() > 0.5


def test_shrunk_masks_are_part_of_what_they_were(tissue):
    out = flawed(tissue, "shrunk", 1)
    assert ((out == tissue) | (out == 0)).all()
    # What is left touches no other cell.
    for axis in (1, 2):
        one, two = np.moveaxis(out, axis, 0)[:-1], np.moveaxis(out, axis, 0)[1:]
        assert not ((one != two) & (one > 0) & (two > 0)).any()


def test_grown_masks_take_background_alone(tissue):
    out = flawed(tissue, "grown", 1)
    assert (out[tissue > 0] == tissue[tissue > 0]).all()
    assert (out > 0).sum() > (tissue > 0).sum()


def test_jittered_layers_are_moved_as_a_whole(tissue):
    out = flawed(tissue, "jittered", 1)
    for before, after in zip(tissue, out, strict=True):
        found = [
            np.array_equal(after[1:-1, 1:-1], before[1 - dy : 59 - dy, 1 - dx : 59 - dx])
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        assert any(found)


def test_corners_are_missing_at_the_border_of_some_masks(tissue):
    out = flawed(tissue, "cornered", 1)
    gone = out != tissue
    assert (out[gone] == 0).all()
    lost = [len(np.unique(tissue[z][gone[z]])) / (len(np.unique(tissue[z])) - 1) for z in range(12)]
    assert 0.1 < np.mean(lost) < 0.5


def test_rugged_borders_stay_near(tissue):
    out = flawed(tissue, "rugged", 1)
    changed = np.argwhere(out != tissue)
    for z, y, x in changed[:: max(1, len(changed) // 200)].tolist():
        near = tissue[z, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        assert out[z, y, x] in near


def test_an_unknown_flaw_is_refused(tissue):
    with pytest.raises(InputError, match="unknown flaw"):
        flawed(tissue, "torn")
