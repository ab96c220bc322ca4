"""Who brackets distances: a card where there is one, processors elsewhere, and a refusal that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import overseg
from overseg.cluster import open_executor
from overseg.errors import ResourceError
from overseg.measure import generate_tissue, simulate_splits
from overseg.pipeline import device
from overseg.settings import RunSettings


@pytest.fixture
def executor():
    with open_executor(RunSettings()) as found:
        yield found


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    return tmp_path


def test_without_a_driver_nothing_is_loaded(
    monkeypatch: pytest.MonkeyPatch, executor, tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "find_card", None)
    assert device.choose("auto", executor, tmp_path) is None
    assert device.choose("cpu", executor, tmp_path) is None


@pytest.mark.parametrize("wish", ["auto", "cuda"])
def test_a_card_is_taken(monkeypatch: pytest.MonkeyPatch, executor, driver: Path, wish) -> None:
    monkeypatch.setattr(device, "find_card", lambda: {"card": "a card"})
    assert device.choose(wish, executor, driver) == "cuda"
    assert device.choose("cpu", executor, driver) is None


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch, executor, driver: Path) -> None:
    monkeypatch.setattr(device, "find_card", lambda: {"card": None, "why": "it is broken"})
    assert device.choose("auto", executor, driver) is None
    with pytest.raises(ResourceError, match="it is broken") as caught:
        device.choose("cuda", executor, driver)
    assert "leave --device out" in str(caught.value.remedy)


def test_torch_is_asked_for_if_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    found = device.find_card()
    assert found["card"] is None and "overseg[gpu]" in found["why"]


@pytest.mark.parametrize("transport", ["fast", "exact"])
def test_the_plan_is_the_same_with_a_card(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    labels = simulate_splits(generate_tissue((24, 64, 64), 24, seed=2), seed=1, rate=0.6)[0]
    options = {"voxel_size": (2.0, 0.5, 0.75), "emd": "all", "transport": transport, "threshold": 0.9}
    plain = overseg.plan(labels, device="cpu", **options)
    # What a card would do, by the same code: torch and the scan by sorting, both on the processor.
    monkeypatch.setattr("overseg.pipeline.plan.choose", lambda *_: "cpu")
    monkeypatch.setattr("overseg.pipeline.scan.find_cupy", lambda: np)
    card = overseg.plan(labels, device="cuda", **options)
    assert card.hash == plain.hash
    assert plain.summary()["merged"] > 0
