"""Weighted figures and their intervals against plain twins, outcomes of one case, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import clustered, transfer
from benchmarks.accuracy import Sample, count
from benchmarks.transfer_tables import METHODS, page
from overseg.measure import generate_tissue
from overseg.measure.examples import cases, collect
from overseg.measure.training import moments_of
from overseg.model.features import MOMENTS

HERE = Path(transfer.__file__).parent


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truth, weights and clusters."""
    rng = np.random.default_rng(1)
    score = np.round(rng.random(60), 1)
    return score, rng.random(60) < score, rng.integers(0, 4, 60).astype(float), rng.integers(0, 9, 60)


def test_auc_is_that_of_all_pairs(rows: tuple[np.ndarray, ...]) -> None:
    score, same, weight, _ = rows
    won = total = 0.0
    for i in np.flatnonzero(same):
        for k in np.flatnonzero(~same):
            pair = weight[i] * weight[k]
            won += pair * (1.0 if score[i] > score[k] else 0.5 if score[i] == score[k] else 0.0)
            total += pair
    assert clustered.auc(score, same)(weight) == pytest.approx(won / total)
    assert np.isnan(clustered.auc(score, np.ones(60, bool))(weight))


def test_calibration_error_is_that_of_the_bins(rows: tuple[np.ndarray, ...]) -> None:
    score, same, weight, _ = rows
    error = 0.0
    for k in range(clustered.BINS):
        inside = np.minimum((score * clustered.BINS).astype(int), clustered.BINS - 1) == k
        if weight[inside].sum():
            mean = np.average(score[inside], weights=weight[inside])
            came = np.average(same[inside], weights=weight[inside])
            error += weight[inside].sum() / weight.sum() * abs(mean - came)
    assert clustered.calibration_error(score, same)(weight) == pytest.approx(error)
    assert np.isnan(clustered.calibration_error(score, same)(0 * weight))


def test_draws_take_as_many_clusters_as_there_are() -> None:
    times = clustered.draws(7, 40)
    assert times.shape == (40, 7) and (times.sum(axis=1) == 7).all()
    assert (times == clustered.draws(7, 40)).all()


def test_intervals_are_those_of_rows_copied_with_their_cluster(rows: tuple[np.ndarray, ...]) -> None:
    score, same, _, cluster = rows
    names = np.unique(cluster)
    shares, areas = [], []
    for times in clustered.draws(len(names), clustered.RESAMPLES):
        at = np.concatenate(
            [np.tile(np.flatnonzero(cluster == n), t) for n, t in zip(names, times, strict=True)]
        )
        shares.append(same[at].mean())
    for times in clustered.draws(len(names), clustered.FEWER):
        at = np.concatenate(
            [np.tile(np.flatnonzero(cluster == n), t) for n, t in zip(names, times, strict=True)]
        )
        areas.append(clustered.auc(score[at], same[at])(np.ones(len(at))))
    limits = np.percentile(shares, (2.5, 97.5))
    assert clustered.share(cluster, same) == pytest.approx([same.mean(), *limits], abs=1e-5)
    value = clustered.auc(score, same)(np.ones(60))
    found = clustered.resampled(cluster, clustered.auc(score, same))
    assert found == pytest.approx([value, *np.percentile(areas, (2.5, 97.5))], abs=1e-5)
    assert clustered.share(cluster[:0], same[:0]) is None


def test_one_large_cluster_widens_the_interval() -> None:
    right = np.repeat([True, False], 50)
    low, high = clustered.share(np.arange(100), right)[1:]
    together = clustered.share(np.arange(100) // 10, right)[1:]
    assert together[1] - together[0] > 2 * (high - low)


def test_groups_of_columns_are_there_and_leave_something() -> None:
    for group, belongs in transfer.GROUPS.items():
        width = sum(map(belongs, MOMENTS))
        assert width < len(MOMENTS) and (width or group == "of the volume"), group
    assert 0 < len(transfer.GEO) < len(transfer.ALL)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The whole way on small made-up volumes that are called otherwise."""
    one = (1.0, 1.0, 1.0)
    labels = [generate_tissue((32, 64, 64), 60, seed, "mixed") for seed in (1, 2, 3)]
    names = ["meristem", "ovule", "nuclei"]
    examples = collect(cases([[(each, one)] for each in labels], max_gap=2), moments_of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "SEEDS", range(1000, 1002))
        patch.setattr(transfer, "FEW", range(1000, 1001))
        patch.setattr(transfer, "RECIPE", {**transfer.RECIPE, "epochs": 2})
        patch.setattr(transfer, "TREES", {**transfer.TREES, "max_iter": 10})
        patch.setattr(transfer, "GROUPS", {"growth": transfer.GROUPS["growth"]})
        methods, parts = transfer.learn(names, examples)
        chosen = [
            Sample("meristem", "meristem", True, labels[0], one),
            Sample("other", "fly neurites", False, labels[1], one),
        ]
        rows = transfer.rows(chosen, transfer.judge_all(chosen, methods, parts))
    return {
        "rows": rows,
        "seeds": 2, "few": 1, "repeats": 1, "shipped": 4, "groups": {"growth": 9},
        "examples": {"meristem": 9},
        "columns": {"default": len(MOMENTS), "geo-wasserstein": len(transfer.GEO)},
        "thresholds": {name: {"other": 0.5} for name in methods if name in METHODS[:3]},
        "stages": transfer.stages(HERE / "accuracy.json"),
    }  # fmt: skip


def test_every_method_is_judged_in_every_setting_and_place(results: dict[str, Any]) -> None:
    keys = {(row["setting"], row["method"], row["name"]) for row in results["rows"]}
    methods = [*results["thresholds"], *(f"{name}, at 0.5" for name in results["thresholds"]), "IoU"]
    for setting in ("exact", "flawed", "clean"):
        for name in ("plant", "other", "meristem", "fly neurites"):
            assert {(setting, method, name) for method in methods} <= keys
    for row in results["rows"]:
        assert not (row["place"] == "volume" and row["setting"] == "clean" and row["judged"])
        for figure in ("recall", "natural kept", "hard kept", "precision", "AUC", "ECE"):
            values = row[figure]
            assert values is None or 0 <= values[1] <= values[0] + 1e-5 <= values[2] + 2e-5 <= 1 + 3e-5


def test_outcomes_agree_with_the_counts_of_the_accuracy_page() -> None:
    sample = Sample("meristem", "x", True, generate_tissue((32, 64, 64), 60, 4, "mixed"), (1.0, 1.0, 1.0))
    _, case = next(transfer.broken(sample, 0))
    score, verdicts = transfer.judge(case, np.zeros((len(case.candidates), 0)), None)
    found, counts = transfer.outcome(case, score, verdicts), count(case, verdicts)
    assert int(found.events["recall"][1].sum()) == counts["right"] > 0
    assert len(found.events["recall"][1]) == counts["splits"]
    for name in ("natural kept", "hard kept"):
        assert int(found.events[name][1].sum()) == counts[name]


def test_the_page_tells_everything_in_tables_that_hold(results: dict[str, Any]) -> None:
    text = page(json.loads(json.dumps(results)))
    for row in results["rows"]:
        assert row["method"].removeprefix("without ") in text
    assert "fly neurites, EM ·" in text and "| growth | 9 |" in text and "trees" in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block
    assert text.endswith("\n") and "None" not in text and "nan" not in text


def test_without_scikit_learn_the_page_says_so(results: dict[str, Any]) -> None:
    fewer = {
        **results,
        "rows": [row for row in results["rows"] if not row["method"].startswith("trees")],
        "thresholds": {name: {"other": 0.5} for name in ("default", "geo-wasserstein")},
    }
    assert "scikit-learn was not installed" in page(fewer)


def test_the_page_is_made_of_the_figures() -> None:
    if (HERE / "transfer.json").exists():
        results = json.loads((HERE / "transfer.json").read_text(encoding="utf-8"))
        assert page(results) == (HERE / "transfer.md").read_text(encoding="utf-8")
