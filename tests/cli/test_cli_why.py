"""show --why, and what a plan tells of unusual candidates and of its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import overseg
from overseg.cli import app
from overseg.errors import InputError
from overseg.measure import generate_tissue, simulate_splits
from overseg.model import Head, load, save
from overseg.model.unusual import LEVELS, Usual

SIZE = (1.0, 1.0, 1.0)


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result


def with_usual(head: Head, reach: float) -> Head:
    """To which anything farther than a reach from the mean of training is beyond all examples."""
    n = len(head.features)
    distances = np.linspace(0, reach**2, len(LEVELS))
    return replace(head, usual=Usual(np.zeros(n), np.eye(n), distances))


def model_at(path: Path, reach: float | None, **card: Any) -> Path:
    """The shipped model under another name, with or without what it finds usual."""
    shipped = load("default")
    heads = {
        name: replace(head, usual=None) if reach is None else with_usual(head, reach)
        for name, head in shipped.heads.items()
    }
    save(path, heads, {**shipped.card, **card})
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("why") / "broken.zarr"
    labels = simulate_splits(generate_tissue((32, 96, 96), n_cells=70, seed=3), rate=0.5, hard=0.5, seed=1)[0]
    zarr.create_array(path, data=labels.astype(np.uint32), chunks=(16, 48, 48))
    return path


@pytest.fixture(scope="module")
def plan(broken: Path) -> overseg.Plan:
    model = model_at(broken.with_name("plain.safetensors"), None)
    return overseg.plan(
        broken, out=broken.with_name("plain.overseg"), model=model, voxel_size=SIZE, workers=1
    )


def test_show_says_what_moved_each_example(plan: overseg.Plan) -> None:
    said = overseg.show(plan)
    examples = [each for each in said["merges"] if not each["candidate"].startswith("and ")]
    assert examples and all("typical for one cell: " in each["why"] for each in examples)
    page = run("show", plan.path).stdout.splitlines()
    at = next(i for i, line in enumerate(page) if line.startswith("merges, the least certain first"))
    assert page[at + 1] == f"  {examples[0]['candidate']}" and page[at + 2] == f"      {examples[0]['why']}"
    assert any(line.startswith("  roughly: ") for line in page)
    facts = said["measured"]["gap"]
    line = next(line for line in page if line.startswith("model for gaps, on tissue it had not seen: "))
    assert f"{100 * facts['recall']:.0f} of 100 splits joined at a threshold of" in line
    assert "false merges per 1,000 cells" in line and "probabilities off by" in line


def test_why_tells_all_of_a_label_and_of_a_pair(plan: overseg.Plan) -> None:
    rows = plan.candidates.to_pylist()
    merged = next(row for row in rows if row["decision"] == "merge" and row["kind"] == "split")
    a, b = merged["a"], merged["b"]
    found = plan.why(a)
    assert len(found) == sum(a in (row["a"], row["b"]) for row in rows)
    assert [(why.a, why.b) for why in plan.why(b, a)] == [(a, b)]
    page = run("show", plan.path, "--why", b, a).stdout
    layers = f"layers {merged['z']} and {merged['z'] + merged['gap'] + 1}"
    assert f"{a} and {b}: gap between two labels, {layers}" in page
    assert f"{merged['p']:.3f}  that both are one cell, by " in page
    assert "merge  one cell: p reaches the threshold" in page
    assert f"label {max(a, b)} becomes " in page
    pushes = plan.why(a, b)[0].pushes
    assert all(f"{push.push:+.2f}  {push.words}; {push.verdict}" in page for push in pushes)
    said = json.loads(run("show", plan.path, "--why", a, "--json").stdout)
    assert [(each["a"], each["b"]) for each in said["why"]] == [(why.a, why.b) for why in found]
    assert said["why"][0]["unusual"] is None
    assert said["why"][0]["pushes"][0].keys() >= {"group", "push", "words", "unseen", "verdict"}


def test_what_is_no_candidate_is_refused(plan: overseg.Plan, broken: Path) -> None:
    a = plan.candidates.to_pylist()[0]["a"]
    with pytest.raises(InputError, match="label 999999 is in no candidate"):
        plan.why(999999)
    with pytest.raises(InputError, match=r"no candidate: they do not face(.|\n)*was judged with \d"):
        plan.why(a, 999999)
    assert "one label or two, not 3" in run("show", plan.path, "--why", 1, 2, 3, code=1).stderr
    assert "only a plan can say why" in run("show", broken, "--why", 1, code=1).stderr


def test_a_model_that_changed_or_is_gone_explains_nothing(broken: Path) -> None:
    model = model_at(broken.with_name("passing.safetensors"), None)
    made = overseg.plan(
        broken, out=broken.with_name("passing.overseg"), model=model, voxel_size=SIZE, workers=1
    )
    a = made.candidates.to_pylist()[0]["a"]
    model_at(model, None, threshold=0.9)
    why = made.why(a)[0]
    assert not why.pushes and "is not the one any more that made this plan" in str(why.note)
    assert str(why.note) in run("show", made.path, "--why", a).stdout
    model.unlink()
    assert "not explained: cannot read the model" in run("show", made.path, "--why", a).stdout
    page = run("show", made.path).stdout
    assert "not explained: cannot read the model" in page and "typical for" not in page


def test_unusual_candidates_are_told_and_change_no_plan(plan: overseg.Plan, broken: Path) -> None:
    near = model_at(broken.with_name("near.safetensors"), 1.0)
    made = overseg.plan(broken, out=broken.with_name("near.overseg"), model=near, voxel_size=SIZE, workers=1)
    assert made.hash == plan.hash
    assert np.isnan(plan.data.candidates["unusual"].to_numpy()).all() and "unusual" not in plan.summary()
    shares = made.data.candidates["unusual"].to_numpy()
    assert (shares == 1).mean() > 0.9 and made.summary()["unusual"] == (shares >= 0.95).sum()
    told = [line for line in made.warnings if "unlike what the model was trained on" in line]
    assert len(told) == 1 and "95%" in told[0] and "overseg train" in told[0] and "review" in told[0]
    page = run("show", made.path).stdout
    assert page.splitlines()[0] == f"warning: {told[0]}"
    assert "more so than 95% of the examples the model learned from" in page
    far = model_at(broken.with_name("far.safetensors"), 1e3)
    made = overseg.plan(broken, out=broken.with_name("far.overseg"), model=far, voxel_size=SIZE, workers=1)
    assert made.hash == plan.hash and made.summary()["unusual"] == 0
    assert not [line for line in made.warnings if "unlike" in line]
    why = made.why(made.candidates.to_pylist()[0]["a"])[0]
    assert why.unusual is not None and 0 <= why.unusual < 0.95 and why.note is None


@pytest.mark.parametrize("preset", [None, "paper"])
def test_contacts_are_explained_too(broken: Path, preset: str | None) -> None:
    place = broken.with_name(f"both-{preset}.overseg")
    made = overseg.plan(broken, out=place, kind="both", preset=preset, voxel_size=SIZE, workers=1)
    stages = {row["stage"]: row for row in made.data.candidates.to_pylist() if row["kind"] == "touch"}
    assert stages.keys() >= ({"paper"} if preset else {"contacts"})
    for row in stages.values():
        why = next(why for why in made.why(row["a"], row["b"]) if why.kind == "touch")
        assert why.pushes or "too thin" in str(why.note)
    assert f"{row['a']} and {row['b']}: contact, about layer" in run("show", place, "--why", row["a"]).stdout
