"""Explanations: groups without gaps, pushes that add up, signs and sentences that a person expects."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from overseg.errors import ModelError
from overseg.measure import generate_tissue
from overseg.measure.examples import make_case
from overseg.model import Head, load
from overseg.model.across import ACROSS, unseen
from overseg.model.explain import NEITHER, ONE, TWO, Group, Push, explain, sentence
from overseg.model.features import FULL, MOMENTS, PAPER, moments_features
from overseg.model.fit import fit_head
from overseg.model.touching import TOUCHING
from overseg.model.unusual import learn_usual
from overseg.model.wording import GROUPS

FEATURES = {
    "moments": MOMENTS,
    "full": FULL,
    "paper": PAPER,
    "touching": TOUCHING,
    "across": TOUCHING + ACROSS,
}


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_is_in_one_group(name: str) -> None:
    assert sorted(column for group in GROUPS[name] for column in group.columns) == sorted(FEATURES[name])
    assert len({group.name for group in GROUPS[name]}) == len(GROUPS[name])


@pytest.fixture(scope="module")
def learned() -> tuple[Head, np.ndarray, np.ndarray]:
    """A small head, examples in their order, and which are one cell."""
    rows, same = [], []
    for seed in range(3):
        case = make_case(generate_tissue((48, 96, 96), 110, seed), (1.0, 1.0, 1.0), seed, rate=0.4, hard=0.6)
        rows.append(moments_features(case.candidates, case.layers)[case.certain()])
        same.append(case.same_cell()[case.certain()])
    x, y = np.concatenate(rows), np.concatenate(same)
    return fit_head(x, y, np.arange(len(x)) % 5 == 0, MOMENTS, epochs=12), x, y


def test_pushes_add_up_to_the_candidates_less_the_average_examples(learned) -> None:
    head, x, _ = learned
    found = explain(head, x[:5], GROUPS["moments"])
    average = head.logit((head.mean + head.scale * head.usual.centre)[None])[0]
    for row, pushes in zip(x[:5], found, strict=True):
        total = (head.logit(row[None])[0] - average) / head.temperature
        assert sum(push.push for push in pushes) == pytest.approx(total, abs=1e-9)
        assert [abs(push.push) for push in pushes] == sorted(
            (abs(push.push) for push in pushes), reverse=True
        )


def test_a_push_is_the_mean_over_all_orders() -> None:
    rng = np.random.default_rng(0)
    names = ("a", "b", "c", "d")
    x = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))
    usual = learn_usual(x, np.ones(300), np.arange(300) % 2 == 0)
    far = np.full(4, 9.0)
    weights = (rng.normal(size=(4, 5)), rng.normal(size=(5, 1)))
    biases = (rng.normal(size=5), rng.normal(size=1))
    head = Head(names, np.zeros(4), np.ones(4), -far, far, 99.0, 2.0, 0.0, 1.0, weights, biases, usual)
    groups = [
        Group("p", ("a", "c"), lambda v: ""),
        Group("q", ("b",), lambda v: ""),
        Group("r", ("d",), lambda v: ""),
    ]
    covariance = usual.factor @ usual.factor.T

    def value(known: set[str]) -> float:
        told = [names.index(name) for group in groups if group.name in known for name in group.columns]
        rest = [i for i in range(4) if i not in told]
        row = x[0].copy()
        slope = covariance[np.ix_(rest, told)] @ np.linalg.inv(covariance[np.ix_(told, told)])
        row[rest] = usual.centre[rest] + slope @ (x[0] - usual.centre)[told]
        return float(head.logit(row[None])[0]) / 2.0

    expected = dict.fromkeys("pqr", 0.0)
    for order in permutations("pqr"):
        for at, name in enumerate(order):
            expected[name] += (value(set(order[: at + 1])) - value(set(order[:at]))) / 6
    found = {push.group: push.push for push in explain(head, x[:1], groups)[0]}
    assert found == pytest.approx(expected)


def test_what_changes_far_more_through_the_gap_is_typical_for_two_cells(learned) -> None:
    head, x, y = learned
    found = explain(head, x, GROUPS["moments"])
    for name in ("loss", "drift", "shape"):
        group = {"loss": "overlap", "shape": "outline"}.get(name, name)
        pushes = np.array([next(p.push for p in each if p.group == group) for each in found])
        excess = x[:, MOMENTS.index(f"{name}_excess")]
        assert (
            pushes[excess > np.quantile(excess, 0.9)].mean()
            < pushes[excess < np.quantile(excess, 0.1)].mean()
        )
    drift = [next(p for p in each if p.group == "drift") for each in found]
    worst = int(np.argmin([told.push for told in drift]))
    assert drift[worst].verdict == TWO and not y[worst]
    assert x[worst, MOMENTS.index("drift_gap")] > np.median(x[:, MOMENTS.index("drift_gap")])


def test_a_head_without_usual_is_explained_too_and_other_features_are_refused(learned) -> None:
    head, x, _ = learned
    plain = replace(head, usual=None)
    pushes = explain(plain, x[:1], GROUPS["moments"])[0]
    total = (head.logit(x[:1]) - head.logit(head.mean[None]))[0] / head.temperature
    assert sum(push.push for push in pushes) == pytest.approx(total, abs=1e-9)
    with pytest.raises(ModelError, match="no words"):
        explain(head, x[:1], GROUPS["paper"])
    far = x[:1].copy()
    far[0, MOMENTS.index("drift_gap")] = 1e3
    assert [push.group for push in explain(head, far, GROUPS["moments"])[0] if push.unseen] == ["drift"]


def gap(**known: float) -> dict[str, float]:
    """A gap of one layer between two parts of ten, in which nothing changes."""
    usual = dict.fromkeys(FULL, 0.0) | {
        "gap_layers": 1.0,
        "layers_low": np.log(10),
        "layers_high": np.log(10),
    }
    return usual | {"face_low": 1.0, "face_high": 1.0, "area_smooth": 1.0} | known


def words(head: str, values: dict[str, float]) -> dict[str, str]:
    return {group.name: group.say(values) for group in GROUPS[head]}


def test_sentences_of_gaps() -> None:
    said = words("full", gap())
    assert said["overlap"] == "the facing masks overlap by 100% (layers as far apart within the cells: 100%)"
    rare = words("full", gap(loss_gap=0.4, loss_usual_rank=0.96))["overlap"]
    assert rare.endswith(
        "within the cells: 100%; only 4% of such layers in this volume's cells overlap less)"
    )
    assert said["drift"] == "the centre moves by 0.00 radii through the gap, as much as within the cells"
    assert said["ends"] == "both parts end at their full width"
    assert said["lengths"] == "the parts are both 10 layers long, 1 layer missing between them"
    assert said["change"] == "the mask through the gap changes as much as within the cells"
    said = words(
        "full",
        gap(emd_excess=np.log(1.2), face_low=0.45, growth_gap=np.log(2), gap_layers=2.0, area_smooth=0),
    )
    assert said["change"] == "the mask through the gap changes 1.2x as much as within the cells"
    assert said["ends"] == "the facing masks are 45% and 100% as large as their part's largest layer"
    assert said["area"] == "one facing mask has 2.0x the area of the other (within the cells: 1.00x)"
    assert said["lengths"].endswith("2 layers missing between them")
    assert "goes up and down" in said["course"]


def test_sentences_where_there_is_nothing_to_compare_with() -> None:
    short = gap(
        layers_low=0.0, layers_high=0.0, short_both=1.0, short_profile=1.0, drift_gap=0.3, gap_layers=0.0
    )
    said = words("full", short)
    assert said["overlap"] == "the facing masks overlap by 100% (the parts are too short to compare with)"
    assert said["drift"] == "the centre moves by 0.30 radii from one part to the other"
    assert said["lengths"] == "the parts are both 1 layer long, none missing between them"
    assert said["course"] == "the joined cell has too few layers to see how its area runs"
    assert not any("within" in text for text in said.values())
    mixed = words("moments", gap(layers_low=0.0, short_one=1.0))
    assert mixed["lengths"] == "the parts are 1 and 10 layers long, 1 layer missing between them"


def test_sentences_of_contacts() -> None:
    nothing = dict.fromkeys(TOUCHING, 0.0) | dict(zip(ACROSS, unseen().tolist(), strict=True))
    said = words("across", nothing | {"along_line": 1.0 + 1e-15})
    assert said["ring"] == "no neighbour touches both parts"
    assert said["place"] == "the contact is tilted by 0 degrees against the line between the two centres"
    assert said["groove"] == "too little is seen around the contact to look for a groove"
    assert said["sections"] == "the parts are too short to compare their cross-sections"
    assert "not seen" in said["neck"] and "too flat" in said["convexity"]
    seen = nothing | {"missing_15": 0.0, "missing_30": 0.0, "rim_30": 0.08, "ring": 20.0, "ring_cosine": 0.5}
    said = words("across", seen | {"edges_high": 2.0, "short_both": 0.0, "contact_share": 1.0})
    assert said["groove"] == "a groove 8% of the contact's radius deep runs around it"
    assert (
        said["ring"].startswith("the surface towards the 20 or more neighbours")
        and "60 degrees" in said["ring"]
    )
    assert said["volumes"].endswith("one cut by the border")
    assert said["neck"] == "the cross-section at the contact is 100% each of those on either side"


def test_sentences_of_the_published_twelve() -> None:
    said = words("paper", dict.fromkeys(PAPER, 0.0) | {"w1_gap": 2.0})
    assert said["gap"] == "the mask changes by 2.0 pixels from one part to the other"
    said = words("paper", dict.fromkeys(PAPER, 1.0) | {"w1_gap": 2.0})
    assert said["gap"].endswith("2.0x as much as within the cells")


def test_every_row_that_a_shipped_head_may_get_has_words() -> None:
    for name in ("default", "default-tilted", "paper"):
        for kind, head in load(name).heads.items():
            for row in (head.low, head.high, head.mean):
                values = dict(zip(head.features, row.tolist(), strict=True))
                assert all(text and "nan" not in text for text in words(kind, values).values())


def test_the_line_tells_the_winning_side_first_and_leaves_out_what_hardly_matters() -> None:
    def push(value: float, text: str) -> Push:
        return Push(text, value, text, False)

    assert push(0.1, "x").verdict == NEITHER and push(1, "x").verdict == ONE and push(-1, "x").verdict == TWO
    pushes = [push(-3, "a"), push(2.5, "b"), push(2.0, "c"), push(1.9, "d")]
    assert sentence(pushes) == "typical for one cell: b; c. But typical for two cells: a"
    assert sentence([push(5, "a"), push(-1, "b")]) == "typical for one cell: a"
    assert sentence([push(0.1, "a")]) == "" and sentence([]) == ""
