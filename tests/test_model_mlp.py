"""Models: the same bits in any batch, and refusals of what is damaged."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.errors import ModelError
from overseg.model import Head, load, save
from overseg.model.features import MOMENTS


def made_up(features=("one", "two", "three"), seed=0):
    rng = np.random.default_rng(seed)
    widths = [len(features), 8, 4, 1]
    weights = tuple(rng.normal(size=pair) for pair in pairwise(widths))
    biases = tuple(rng.normal(size=n) for n in widths[1:])
    n = len(features)
    scale, low, high = rng.uniform(0.5, 2, n), np.full(n, -1.0), np.ones(n)
    return Head(features, rng.normal(size=n), scale, low, high, 6.0, 1.3, 0.1, 0.9, weights, biases)


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "m.safetensors", {"moments": made_up()}, {"threshold": 0.6, "review_from": 0.2})
    return tmp_path / "m.safetensors"


def test_values_are_those_of_numpy():
    head = made_up()
    x = np.random.default_rng(1).normal(size=(50, 3)) * 3
    y = np.clip((x - head.mean) / head.scale, -6, 6)
    for weight, bias in zip(head.weights[:-1], head.biases[:-1], strict=True):
        y = np.maximum(y @ weight + bias, 0)
    y = (y @ head.weights[-1] + head.biases[-1])[:, 0]
    assert np.allclose(head.logit(x), y, rtol=1e-12)
    assert np.allclose(head.probability(x), 1 / (1 + np.exp(-y / 1.3)), rtol=1e-12)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_any_batch_gives_the_same_bits(size, seed):
    head = load("default").head("moments")
    rng = np.random.default_rng(seed)
    x = rng.normal(head.mean, head.scale * 2, (60, len(MOMENTS)))
    order = rng.permutation(60)
    parts = [head.probability(x[order[i : i + size]]) for i in range(0, 60, size)]
    assert np.array_equal(np.concatenate(parts), head.probability(x)[order])


def test_a_model_comes_back_from_its_files(path):
    model, head = load(path), made_up()
    assert model.threshold == 0.6 and model.review_from == 0.2
    x = np.random.default_rng(1).normal(size=(5, 3))
    assert np.array_equal(model.probability(x, "moments"), head.probability(x))
    assert load(str(path)).digest == model.digest


def test_the_digest_follows_what_decides(path):
    before = load(path).digest
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"remark": "hello"}))
    assert load(path).digest == before
    path.with_suffix(".json").write_text(json.dumps(card | {"threshold": 0.7}))
    assert load(path).digest != before


def test_far_outside_is_half_a_range_beyond():
    rows = np.array([[0, 0, 0], [1.9, 0, 0], [2.1, 0, 0], [0, -2.1, 0]], float)
    assert made_up().out_of_range(rows).tolist() == [False, False, True, True]


def test_shipped_models_are_whole():
    default = load()
    assert default.heads["moments"].features == MOMENTS
    assert 0 < default.review_from <= default.threshold < 1
    assert default.card["trained_on"] and default.card["calibration"] and default.card["left_out_tissue"]
    assert all("licence" in volume for volume in default.card["trained_on"])


def test_wrong_features_are_refused(path):
    with pytest.raises(ModelError, match="takes 3 features"):
        load(path).probability(np.zeros((2, 4)), "moments")
    with pytest.raises(ModelError, match="no head 'full'"):
        load(path).probability(np.zeros((2, 3)), "full")


def test_missing_files_are_refused(path):
    with pytest.raises(ModelError, match="neither a shipped model"):
        load("nothing")
    with pytest.raises(ModelError, match=r"never loaded"):
        load("model.pkl")
    with pytest.raises(ModelError, match="cannot read"):
        load(path.with_name("other.safetensors"))
    path.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match="cannot read"):
        load(path)


def test_damaged_weights_are_refused(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="not those the card was written for"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"version": None},
        {"threshold": "high"},
        {"heads": {}},
        {"heads": {"moments": {}}},
        {"heads": 3},
        {"weights_sha256": "0"},
        {"threshold": 2.0},
    ],
)
def test_damaged_cards_are_refused(path, change):
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | change))
    with pytest.raises(ModelError):
        load(path)


def test_a_card_with_other_features_is_refused(path):
    card = json.loads(path.with_suffix(".json").read_text())
    card["heads"]["moments"]["features"].append("four")
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="do not fit"):
        load(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        load(path)
