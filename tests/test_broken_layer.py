"""A layer that is broken for every cell at once comes back, and `simulate` can make one."""

from __future__ import annotations

import numpy as np
import pytest

import overseg
from overseg.errors import InputError
from overseg.measure import generate_tissue, read_truth, simulate, simulate_splits

LAYER = 16


@pytest.fixture(scope="module")
def tissue():
    return generate_tissue((32, 96, 96), 60, seed=3)


def within(tissue):
    """Cells that go on for at least two layers on both sides of the layer."""
    return [
        cell
        for cell in np.unique(tissue[LAYER])[1:].tolist()
        if min((tissue[LAYER + k] == cell).sum() for k in (-2, -1, 0, 1, 2)) >= 30
    ]


def test_a_layer_with_labels_of_its_own_is_given_back_to_its_cells(tissue):
    broken = tissue.astype(np.uint32)
    own = broken[LAYER] > 0
    broken[LAYER][own] += 1000
    corrected, _ = overseg.correct(broken)
    cells = within(tissue)
    back = [cell for cell in cells if (corrected[LAYER][tissue[LAYER] == cell] == cell).mean() > 0.5]
    assert len(back) >= 0.8 * len(cells) > 5
    changed = corrected[LAYER] < 1000
    assert (corrected[LAYER] == tissue[LAYER])[changed].mean() > 0.99
    rest = np.arange(len(tissue)) != LAYER
    assert np.array_equal(corrected[rest], tissue[rest])


def test_a_blank_layer_is_filled_with_its_cells(tissue):
    broken, truth = simulate_splits(tissue, rate=0, hard=0, layers=1, seed=3)
    corrected, plan = overseg.correct(broken)
    rows = plan.candidates.to_pydict()
    merged = {
        (a, b)
        for a, b, decision in zip(rows["a"], rows["b"], rows["decision"], strict=True)
        if decision == "merge"
    }
    joined = [split for split in truth.splits if (split.upper, split.lower) in merged]
    assert len(joined) >= 0.8 * len(truth.splits) > 5
    z = truth.splits[0].z + 1
    right = [(corrected[z][tissue[z] == s.true] == s.upper).mean() for s in joined]
    assert np.mean(right) > 0.7
    one, two = (truth.true_of(np.array([pair[i] for pair in merged], np.uint64)) for i in (0, 1))
    assert np.mean(one == two) > 0.9


def test_layers_are_passed_on(tissue, tmp_path):
    truth = simulate(tissue, tmp_path / "cells.zarr", rate=0, hard=0, layers=2, seed=3)
    assert truth.splits == simulate_splits(tissue, rate=0, hard=0, layers=2, seed=3)[1].splits
    assert read_truth(tmp_path / "cells.truth").splits == truth.splits
    assert {split.kind for split in truth.splits} == {"missing"}
    with pytest.raises(InputError, match="blanked"):
        simulate_splits(tissue, layers=-1)
