"""The counts of touching fragments that were joined, by hand and on real fragments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import neurites
from overseg.measure.evaluation import contingency, most

TRUTH = [1, 1, 1, 1, 2, 2, 2, 0, 0]
FRAGMENTS = [1, 1, 2, 3, 3, 4, 5, 6, 6]  # 3 lies half in either neurite, 6 in none


def line(labels: list[int]) -> np.ndarray:
    return np.array(labels, np.uint16).reshape(1, 1, -1)


def test_pairs_that_touch_are_found_once():
    assert list(neurites.touching(line([2, 1, 1, 0, 1, 3, 1]))) == [(1, 2), (1, 3)]


def test_a_case_counted_by_hand():
    # Touching: 1-2 and 2-3 of neurite 1 (of equals the smaller counts), 3-4 across, 4-5 of neurite 2;
    # 5-6 is not known.
    row = neurites.judged(line(FRAGMENTS), line([1, 1, 1, 3, 3, 3, 5, 6, 6]), line(TRUTH))
    assert [row[name] for name in ("fragments", "pairs", "same", "joined", "right")] == [6, 4, 3, 2, 1]
    assert (row["precision"], row["recall"]) == (1 / 2, pytest.approx(1 / 3))
    assert row["before"][1] < row["after"][1] and row["before"][0] > row["after"][0]
    assert row["after"][2] == sum(row["after"][:2])


def test_nothing_joined_has_no_precision():
    row = neurites.judged(line(FRAGMENTS), line(FRAGMENTS), line(TRUTH))
    assert np.isnan(row["precision"]) and row["recall"] == 0 and row["before"] == row["after"]


def test_the_truth_joins_everything_and_nothing_wrong(real: Callable[..., np.ndarray], tmp_path: Path):
    truth, fragments = (real("fly_em_tiny/test", key) for key in ("labels", "overseg"))
    np.savez(tmp_path / "tiny.npz", labels=truth, overseg=fragments)
    neurite = most(contingency(fragments, truth))

    def correct(given: np.ndarray, model: str) -> np.ndarray:
        assert model == "mine"
        names = np.zeros(given.max() + 1, np.int64)
        names[list(neurite)] = list(neurite.values())
        return names[given]

    (row,) = neurites.rows({"tiny": "mine"}, tmp_path, correct)
    assert (row["precision"], row["recall"]) == (1, 1) and row["same"] > 100
    assert row["after"][0] < row["before"][0]
    lines = neurites.table([row, row])
    assert len(lines) == 5 and len({text.count("|") for text in lines}) == 1
    assert f"{2 * row['same']} of {2 * row['pairs']}" in lines[-1]
