"""How unusual a candidate is: equal to NumPy's way, the same bits in any batch, kept, deciding nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.errors import ModelError
from overseg.model import Head, load, save
from overseg.model.fit import fit_head
from overseg.model.measured import on_unseen
from overseg.model.unusual import LEVELS, Usual, learn_usual

COLUMNS = 6


def examples(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs that depend on each other, one 0 or 1, one always the same; weights; who is held out."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, COLUMNS)) @ rng.normal(size=(COLUMNS, COLUMNS))
    inputs[:, 4], inputs[:, 5] = rng.random(n) < 0.1, 0.0
    return inputs, rng.uniform(0.1, 1, n), np.arange(n) % 3 == 0


def learned(seed: int = 0) -> Usual:
    usual = learn_usual(*examples(seed=seed))
    assert usual is not None
    return usual


def with_usual(usual: Usual | None) -> Head:
    rng = np.random.default_rng(3)
    numbers = np.zeros(COLUMNS), np.ones(COLUMNS), np.full(COLUMNS, -9.0), np.full(COLUMNS, 9.0)
    weights = rng.normal(size=(COLUMNS, 1)), rng.normal(size=1)
    names = tuple(f"f{i}" for i in range(COLUMNS))
    return Head(names, *numbers, 6.0, 1.0, 0.0, 1.0, weights[:1], weights[1:], usual)


def test_distances_are_those_of_numpy() -> None:
    inputs, weight, held_out = examples()
    usual = learned()
    rows, w = inputs[~held_out], weight[~held_out]
    centre = np.average(rows, axis=0, weights=w)
    covariance = np.cov(rows.T, aweights=w, ddof=0)
    covariance = 0.98 * covariance + 0.02 * np.trace(covariance) / COLUMNS * np.eye(COLUMNS)
    apart = inputs - centre
    expected = np.einsum("ij,jk,ik->i", apart, np.linalg.inv(covariance), apart)
    assert np.allclose(usual.squared_distances(inputs), expected, rtol=1e-9)
    far = expected[held_out].max()
    assert usual.distances[-1] == pytest.approx(far)
    told = np.sort(expected[held_out])
    passed = np.array(
        [(weight[held_out] * (expected[held_out] <= d * (1 + 1e-9))).sum() for d in usual.distances]
    )
    assert (passed >= np.array(LEVELS) * weight[held_out].sum() - 1e-9).all()
    assert usual.distances[0] == pytest.approx(told[0])


@given(st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_any_batch_gives_the_same_bits_and_farther_is_never_less_unusual(size: int, seed: int) -> None:
    head, rng = with_usual(learned()), np.random.default_rng(seed)
    rows = rng.normal(size=(90, COLUMNS)) * rng.uniform(0, 4)
    order = rng.permutation(90)
    parts = [head.unusual(rows[order[i : i + size]]) for i in range(0, 90, size)]
    found = head.unusual(rows)
    assert np.array_equal(np.concatenate(parts), found[order])
    assert found.min() >= 0 and found.max() <= 1
    far = learned().squared_distances(np.clip(rows, -6, 6))
    assert (np.diff(found[np.argsort(far)]) >= 0).all()


def test_the_share_is_that_of_held_out_examples_and_ends_at_one() -> None:
    inputs, _, held_out = examples(6000)
    usual = learn_usual(inputs, np.ones(len(inputs)), held_out)
    assert usual is not None
    for level in (0.5, 0.9, 0.99):
        assert (usual.share(inputs[held_out]) <= level).mean() == pytest.approx(level, abs=0.02)
    assert usual.share(np.full((1, COLUMNS), 60.0)) == 1
    assert usual.share(usual.centre[None]) == 0
    assert np.isnan(usual.share(np.full((1, COLUMNS), np.nan))).all()


def test_too_few_examples_tell_nothing() -> None:
    inputs, weight, _ = examples(30)
    assert learn_usual(inputs, weight, np.arange(30) < 19) is None
    assert learn_usual(inputs, weight, np.arange(30) < 29) is None
    assert np.isnan(with_usual(None).unusual(inputs)).all()


def test_it_comes_back_from_the_files_and_enters_no_digest(tmp_path) -> None:
    card = {"threshold": 0.6, "review_from": 0.2}
    one, two = learned(0), learned(1)
    models = [
        save(tmp_path / f"{i}.safetensors", {"moments": with_usual(usual)}, card)
        for i, usual in enumerate((None, one, two))
    ]
    assert len({model.digest for model in models}) == 1
    assert len({model.card["weights_sha256"] for model in models}) == 3
    rows = examples()[0]
    assert models[0].heads["moments"].usual is None
    assert np.array_equal(models[1].heads["moments"].unusual(rows), with_usual(one).unusual(rows))
    assert all(
        np.array_equal(m.probability(rows, "moments"), models[0].probability(rows, "moments")) for m in models
    )


@pytest.mark.parametrize(
    "harm",
    [
        {"centre": np.zeros(COLUMNS - 1)},
        {"distances": np.linspace(1, 0, len(LEVELS))},
        {"factor": np.zeros((COLUMNS, COLUMNS))},
        {"centre": np.full(COLUMNS, np.nan)},
    ],
)
def test_a_damaged_one_is_refused(tmp_path, harm) -> None:
    with pytest.raises(ModelError, match="do not fit"):
        save(
            tmp_path / "m.safetensors",
            {"moments": with_usual(replace(learned(), **harm))},
            {"threshold": 0.6, "review_from": 0.2},
        )


def test_training_learns_it_and_foreign_rows_are_called_so() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 3))
    x[:, 2] = 1.0
    head = fit_head(x, x[:, 0] > x[:, 1], np.arange(800) % 4 == 0, ("one", "two", "three"), epochs=2)
    assert (head.unusual(x) >= 0.95).mean() < 0.1
    assert head.unusual(np.array([[5.0, -5.0, 1.0], [0.1, 0.0, 1.0]])).tolist()[0] == 1
    assert np.isfinite(head.unusual(x + np.array([0, 0, 3]))).all()


def test_shipped_models_are_loaded_with_the_digest_they_had() -> None:
    for name in ("default", "default-tilted", "paper"):
        model = load(name)
        for head in model.heads.values():
            share = head.unusual(head.mean[None])
            assert np.isnan(share).all() if head.usual is None else (share < 1).all()


def test_only_what_the_card_tells_is_told() -> None:
    assert on_unseen({}) == {}
    row = {"cells": 1000, "one_cell": 100, "recall": 0.9, "natural_false_merges_per_1000_cells": 2.0}
    more = {"cells": 3000, "one_cell": 300, "recall": None, "natural_false_merges_per_1000_cells": 0.0}
    curve = [{"n": 30, "mean_p": 0.1, "one_cell": 0.2}, {"n": 10, "mean_p": 0.9, "one_cell": 0.9}]
    card = {"threshold": 0.6, "left_out_tissue": [row, more], "calibration": curve}
    assert on_unseen(json.loads(json.dumps(card))) == {
        "splits": 100,
        "recall": 0.9,
        "threshold": 0.6,
        "cells": 4000,
        "false_merges_per_1000_cells": 0.5,
        "calibration_error": 0.075,
    }
