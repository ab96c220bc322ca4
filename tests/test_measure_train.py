"""Training: refusals, calibration, and the thresholds that follow from it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from overseg.errors import InputError, MissingPackageError
from overseg.measure import calibrate, generate_tissue, train
from overseg.measure.examples import Examples, make_case, views
from overseg.model.fit import fit_head, temperature_of


def made_up(same, natural, cells=(1000,)):
    n = len(same)
    zeros = np.zeros(n, np.int64)
    return Examples(np.zeros((n, 1)), np.array(same), np.array(natural), zeros, zeros, np.array(cells))


def test_the_threshold_allows_one_false_merge_per_thousand_cells():
    unseen = np.array([0.95, 0.83, 0.71, 0.99, 0.2])
    examples = made_up([False, False, False, True, False], [True, True, True, False, True])
    assert calibrate.choose_threshold(unseen, examples) == 0.84
    assert calibrate.choose_threshold(unseen, made_up(examples.same, examples.natural, (5000,))) == 0.8
    assert calibrate.choose_threshold(unseen, made_up(examples.same, examples.natural, (900,))) == 0.96


def test_a_calibration_curve_counts():
    curve = calibrate.calibration(np.array([0.05, 0.55, 0.57, 1.0]), np.array([False, True, False, True]))
    assert [(row["from"], row["n"], row["one_cell"]) for row in curve] == [
        (0, 1, 0),
        (0.5, 2, 0.5),
        (0.9, 1, 1),
    ]


def test_a_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20000)
    same = rng.random(20000) < 1 / (1 + np.exp(-logits))
    assert temperature_of(logits * 2, same, np.ones(20000)) == pytest.approx(2, rel=0.1)


def test_a_perceptron_learns_a_line_and_says_the_same_without_torch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 2))
    same, held_out = x[:, 0] > x[:, 1], np.arange(800) % 4 == 0
    head = fit_head(x, same, held_out, ("one", "two"), epochs=10)
    again = fit_head(x, same, held_out, ("one", "two"), epochs=10)
    assert ((head.probability(x) > 0.5) == same).mean() > 0.95
    assert all(np.array_equal(p, q) for p, q in zip(head.weights, again.weights, strict=True))


def test_every_axis_and_step_is_seen():
    labels = np.arange(16 * 9 * 33).reshape(16, 9, 33)
    found = [(view.shape, size) for view, size in views(labels, (3.0, 2.0, 1.0))]
    assert found == [
        ((16, 9, 33), (3, 2, 1)),
        ((8, 9, 33), (6, 2, 1)),
        ((9, 16, 33), (2, 3, 1)),
        ((33, 16, 9), (1, 3, 2)),
        ((17, 16, 9), (2, 3, 2)),
        ((11, 16, 9), (3, 3, 2)),
        ((9, 16, 9), (4, 3, 2)),
    ]


def test_a_case_knows_its_truth():
    case = make_case(generate_tissue((24, 64, 64), 30, seed=1), (1.0, 1.0, 1.0), 3, rate=0.6)
    same, natural, certain = case.same_cell(), case.natural(), case.certain()
    assert same.any() and (~same).any()
    assert not (same & natural).any()
    assert certain[~case.candidates.hole].all()


def test_what_cannot_be_trained_is_refused(tmp_path):
    tissue, out = generate_tissue((12, 24, 24), 6), tmp_path / "m.safetensors"
    for volumes, options in (
        ([], {}),
        ([tissue], {"epochs": 0}),
        ([tissue, tissue], {"tissues": ["one"]}),
        ([tissue, tissue], {"tissues": ["one", "one"]}),
        ([tissue], {"voxel_sizes": []}),
        ([tissue.astype(float)], {}),
    ):
        with pytest.raises(InputError):
            train(volumes, out, **options)
    with pytest.raises(InputError, match="safetensors"):
        train([tissue], tmp_path / "m.pkl")
    assert not list(tmp_path.iterdir())


def test_examples_of_one_kind_are_refused():
    with pytest.raises(InputError, match="all of one kind"):
        fit_head(np.zeros((4, 1)), np.ones(4, bool), np.array([False, True, True, False]), ("one",))


def test_torch_is_asked_for_when_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="torch"):
        fit_head(np.zeros((4, 1)), np.ones(4, bool), np.ones(4, bool), ("one",))
