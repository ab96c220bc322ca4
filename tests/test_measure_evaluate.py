"""Agreement with the truth: cases counted by hand, and scikit-image's variation of information."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from skimage.metrics import variation_of_information

from overseg.errors import InputError
from overseg.measure import evaluate, generate_tissue, simulate_splits
from overseg.measure.cutting import Cut, cut_truth
from overseg.measure.evaluation import contingency


def line(*labels: int) -> np.ndarray:
    return np.array(labels, np.uint16).reshape(1, 1, -1)


def test_a_case_counted_by_hand():
    truth = line(1, 1, 1, 1, 2, 2, 2, 2, 0, 0)
    ours = line(5, 5, 5, 6, 7, 7, 7, 7, 7, 0)
    found = evaluate(ours, truth)
    # 5 covers 3 of 4 of cell 1 (IoU .75), 6 covers 1 of 4 (.25), 7 covers cell 2 and one more (.8).
    assert (found.cells, found.true_cells) == (3, 2)
    assert [s.matched for s in found.scores] == [2, 2, 2]
    assert [s.extra for s in found.scores] == [1, 1, 1]
    assert found.scores[0].precision == pytest.approx(2 / 3) and found.scores[0].recall == 1
    assert found.mean_ap == pytest.approx(2 / 3)
    assert found.voi_split == pytest.approx(0.4 * (0.75 * np.log2(4 / 3) + 0.25 * 2) + 0.2)
    assert found.voi_merge == pytest.approx(0.5 * (0.8 * np.log2(5 / 4) + 0.2 * np.log2(5)))


def test_as_many_cells_as_possible_match_at_a_low_threshold():
    # Cell 1 meets 5 and 6, cell 2 meets 6 alone: a greedy choice of (1, 6) would lose one.
    truth = line(1, 1, 1, 1, 1, 1, 2, 2, 2)
    ours = line(5, 5, 6, 6, 6, 6, 6, 6, 6)
    assert evaluate(ours, truth).scores[0].matched == 2


def test_entropies_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 9, (4, 11, 12)), rng.integers(0, 5, (4, 11, 12))
    found = evaluate(one, two)
    over, under = variation_of_information(two, one)
    assert (found.voi_split, found.voi_merge) == pytest.approx((over, under))
    halved = np.repeat(two[:, :, :, None], 2, axis=3) * 2 + np.arange(2)
    split = evaluate(halved.reshape(4, 11, 24), np.repeat(two, 2, axis=2))
    assert split.voi_merge == pytest.approx(0, abs=1e-12) and split.voi_split == pytest.approx(1)


def test_blocks_do_not_change_the_answer(tmp_path):
    rng = np.random.default_rng(1)
    one, two = rng.integers(0, 9, (7, 11, 12)), rng.integers(0, 2**62, 6)[rng.integers(0, 6, (7, 11, 12))]
    stored = zarr.create_array(tmp_path / "one.zarr", shape=one.shape, dtype=one.dtype, chunks=(3, 4, 5))
    stored[:] = one
    whole, blocks = evaluate(one, two), evaluate(tmp_path / "one.zarr", two)
    assert blocks == whole


def test_pairs_are_counted():
    assert contingency(line(1, 1, 2, 0), line(3, 0, 3, 3)) == {(1, 3): 1, (1, 0): 1, (2, 3): 1, (0, 3): 1}


def test_merges_are_counted_as_joins():
    truth = line(1, 1, 1, 2, 2, 3)
    broken = line(1, 8, 9, 2, 7, 3)
    assert evaluate(truth, truth, broken=broken).merges_right == 3
    both = evaluate(line(1, 1, 1, 1, 1, 3), truth, broken=broken)
    assert (both.merges_right, both.merges_wrong) == (3, 1)
    none = evaluate(broken, truth, broken=broken)
    assert (none.merges_right, none.merges_wrong) == (0, 0)


def test_splits_and_gaps_of_a_truth_table_are_judged():
    truth = generate_tissue((32, 96, 96), 60, seed=3)
    broken, table = simulate_splits(truth, seed=1)
    left = evaluate(broken, truth, table=table)
    assert (left.splits, left.splits_repaired) == (len(table.splits), 0)
    assert left.natural_kept == left.natural == len(table.natural)
    everything = evaluate((truth > 0).astype(np.uint8), truth, table=table)
    assert everything.splits_repaired == everything.splits_joined == everything.splits
    joined = table.true_of(broken)
    joined[broken == 0] = 0
    only = evaluate(joined, truth, table=table)
    assert (
        only.splits_repaired < only.splits_joined == only.splits - sum(s.kind == "hole" for s in table.splits)
    )
    assert everything.natural_kept == 0 and everything.hard_kept == 0


def test_cuts_are_joined_when_most_of_both_parts_carries_one_label():
    truth = line(1, 1, 1, 1, 1, 1, 2, 2)
    broken = line(1, 1, 8, 8, 9, 9, 2, 2)
    cuts = Cut(1, 1, 8, 30.0, 0.1, False), Cut(1, 8, 9, 0.0, 0.0, True)
    table = cut_truth(broken, cuts)

    def joined(*labels: int) -> tuple[int | None, int | None]:
        found = evaluate(line(*labels), truth, broken=broken, table=table)
        return found.cuts, found.cuts_joined

    assert joined(1, 1, 8, 8, 9, 9, 2, 2) == (2, 0)
    assert joined(1, 1, 1, 1, 9, 9, 2, 2) == (2, 1)
    assert joined(5, 5, 5, 5, 5, 5, 2, 2) == (2, 2)
    assert joined(0, 0, 0, 0, 0, 0, 2, 2) == (2, 0)
    alone = evaluate(truth, truth, table=table)
    assert (alone.cuts, alone.cuts_joined) == (2, None)
    assert evaluate(truth, truth, broken=broken, table=cut_truth(broken, ())).cuts is None


def test_empty_volumes_have_nothing_to_score():
    nothing = evaluate(np.zeros((2, 3, 4), int), np.zeros((2, 3, 4), int))
    assert nothing.cells == 0 and np.isnan(nothing.mean_ap) and nothing.voi_split == 0


def test_different_shapes_are_refused():
    with pytest.raises(InputError, match="different shapes"):
        evaluate(line(1), line(1, 2))
    with pytest.raises(InputError, match="no label volume"):
        evaluate(np.zeros((2, 2, 2)), line(1))
