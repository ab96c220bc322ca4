"""The authors' weights: read apart, and run as their code does. None of theirs is here: all are made up."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import ot
import pytest
import torch
import zarr
from typer.testing import CliRunner

import overseg
from overseg.cli import app
from overseg.errors import InputError, MissingPackageError, ModelError
from overseg.kernels import sliced
from overseg.kernels.scan import scan_array
from overseg.kernels.sliced import sliced_distance
from overseg.measure import geoseg, import_geoseg, tensors
from overseg.model import load, save
from overseg.model.geoseg import GEOSEG, R2_MEAN, R2_SCALE, TENSORS, geoseg_features, geoseg_head
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.distances import ALL, looks, measured
from tests.twins import geoseg_twin as twin


class Net(torch.nn.Module):
    """Their network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = torch.nn.Linear(12, 128)
        self.layer2 = torch.nn.Linear(128, 64)
        self.layer3 = torch.nn.Linear(64, 32)
        self.output_layer = torch.nn.Linear(32, 1)
        self.dropout = torch.nn.Dropout(0.3)

    def forward(self, x):
        x = self.dropout(torch.relu(self.layer1(x)))
        x = self.dropout(torch.relu(self.layer2(x)))
        return torch.sigmoid(self.output_layer(torch.relu(self.layer3(x))))


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        made = Net().eval()
    with torch.no_grad():
        made.output_layer.weight *= 40  # some pairs above one half, some below
    return made


@pytest.fixture(scope="module")
def broken():
    """Sixteen crowded columns of two labels with a layer missing between; one is short, one has a hole."""
    rng = np.random.default_rng(5)
    labels = np.zeros((13, 72, 72), np.uint16)
    for k in range(16):
        place, radius = np.array([9.0, 9.0]) + 18 * np.array(divmod(k, 4)), rng.uniform(5, 9)
        for z in range(13):
            place, radius = place + rng.uniform(-1.5, 1.5, 2), radius + rng.uniform(-0.8, 0.8)
            free = disc(*place, radius, labels.shape[1:]) & (labels[z] == 0)
            labels[z][free] = 0 if z == 6 else 1 + k if z < 6 else 21 + k
    labels[:4][labels[:4] == 7] = 0
    labels[9][labels[9] == 31] = 0
    return labels


@pytest.fixture(scope="module")
def judged(broken):
    """Their candidates and inputs by the twin, which is slow."""
    pairs, extent = twin.candidates(broken)
    return {(a, b): twin.inputs(broken, a, b, extent, directions=200) for a, b in pairs}


@pytest.fixture
def few(monkeypatch):
    """Fewer directions, so that the twin can keep up."""
    monkeypatch.setattr(sliced, "DIRECTIONS", 200)
    sliced._running_sums.cache_clear()
    yield
    sliced._running_sums.cache_clear()


@pytest.fixture
def imported(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pth")
    return import_geoseg(tmp_path / "w.pth", tmp_path / "theirs.safetensors")


def disc(y, x, r, shape=(48, 52)):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return (yy - y) ** 2 + (xx - x) ** 2 < r * r


def apart(one, two):
    return sliced_distance(np.argwhere(one), np.argwhere(two))


def pot(one, two):
    y, x = np.nonzero(one | two)
    box = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
    a, b = one[box] / one.sum(), two[box] / two.sum()
    return ot.sliced_wasserstein_distance(a, b, None, None, sliced.DIRECTIONS, seed=sliced.SEED)


RING = disc(20, 20, 9) & ~disc(21, 19, 4)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (disc(20, 20, 9), disc(23, 18, 7)),
        (RING, disc(20, 20, 9)),
        (disc(5, 5, 3), disc(40, 44, 4)),
        (disc(5, 5, 1.1), disc(5, 6, 0.5)),
        (disc(24, 60, 30, (50, 130)), disc(24, 66, 60, (50, 130))),  # wider than the first table
    ],
)
def test_the_distance_is_pots(one, two):
    assert apart(one, two) == pytest.approx(pot(one, two), rel=1e-11)
    assert apart(two, one) == pytest.approx(apart(one, two), rel=1e-13)
    moved = np.roll(one, (2, 1), (0, 1)), np.roll(two, (2, 1), (0, 1))
    if not any(mask[:2].any() or mask[:, :1].any() for mask in moved):
        assert apart(*moved) == apart(one, two)


def test_the_twins_distance_is_pots():
    pair = disc(20, 20, 4), disc(22, 19, 3)
    assert twin.distance(*pair) == pytest.approx(pot(*pair), rel=1e-11)


def test_rows_in_another_order_are_no_distance_apart():
    assert apart(RING, np.roll(RING, 3, axis=0)) == 0.0
    assert apart(RING, np.roll(RING, 3, axis=1)) > 0


def test_parts_do_not_matter(monkeypatch):
    whole = apart(RING, disc(20, 20, 9))
    monkeypatch.setattr(sliced, "_AT_ONCE", 77)
    assert apart(RING, disc(20, 20, 9)) == pytest.approx(whole, rel=1e-14)


def rows_of(labels):
    found = scan_array(labels, 1)
    pairs = find_candidates(*found, 1, rule="paper")
    wanted = looks(pairs, found[0], np.arange(len(pairs)), ALL)
    values = measured(labels.__getitem__, wanted, "geoseg", (0.3, 0.4))
    assert np.array_equal(values[0], values[1], equal_nan=True)
    assert np.array_equal(values[0], values[2], equal_nan=True)
    return {(look.a, look.b): row for look, row in zip(wanted, values[0], strict=True)}


@pytest.mark.usefixtures("few")
def test_inputs_are_those_of_the_twin(broken, judged):
    rows = rows_of(broken)
    assert set(judged) <= set(rows)
    seen = 0
    for pair, expected in judged.items():
        if expected is None:
            assert np.isnan(rows[pair]).all()
            continue
        row = rows[pair].copy()
        row[-1] = (row[-1] - R2_MEAN) / R2_SCALE
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-9)
        seen += 1
    assert seen >= 10 and seen < len(judged)


@pytest.mark.usefixtures("few")
def test_short_parts_and_parts_with_a_hole_are_passed_over():
    labels = np.zeros((11, 30, 30), np.uint8)
    for z in range(5):
        labels[z][disc(15, 15, 6 + z, (30, 30))] = 1
    for z in range(6, 11):
        labels[z][disc(15, 14, 14 - z, (30, 30))] = 2
    assert np.isfinite(rows_of(labels)[1, 2]).all()
    holed = labels.copy()
    holed[2] = 0
    short = labels.copy()
    short[8:] = 0
    for odd in (holed, short):
        assert np.isnan(rows_of(odd)[1, 2]).all()
        pairs, extent = twin.candidates(odd)
        assert pairs == [(1, 2)] and twin.inputs(odd, 1, 2, extent, 50) is None


def test_features_by_hand():
    row = geoseg_features(7.0, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [6.0], [3, 3, 3, 3])
    assert row.tolist() == [2.0, 3.0, 4.0, 1.0, 5.0, *[6.0] * 5, 7.0, 1.0]
    assert geoseg_features(7.0, [1.0], [6.0], [1, 4, 9, 16])[-1] == pytest.approx(1.0, abs=1e-9)
    assert np.isnan(geoseg_features(7.0, [0.0], [6.0], [3, 3, 3])).all()
    assert np.isnan(geoseg_features(7.0, [], [6.0], [3, 3, 3])).all()
    assert len(GEOSEG) == 12 == TENSORS["layer1.weight"][1]


def test_the_network_says_what_torch_says(net, imported):
    rng = np.random.default_rng(0)
    rows = np.abs(rng.normal(0, 0.05, (500, 12)))
    rows[:, -1] = 1 - rows[:, -1] * 4
    given = rows.copy()
    given[:, -1] = (given[:, -1] - R2_MEAN) / R2_SCALE
    with torch.no_grad():
        expected = net(torch.tensor(given, dtype=torch.float32))[:, 0].numpy()
    head = imported.head("geoseg")
    np.testing.assert_allclose(head.probability(rows), expected, atol=1e-6, rtol=0)
    assert not head.out_of_range(rows).any()


@pytest.mark.usefixtures("few")
def test_a_plan_merges_what_their_code_would(net, broken, judged, tmp_path):
    given = [row for row in judged.values() if row is not None]
    with torch.no_grad():
        outside = torch.logit(net(torch.tensor(given, dtype=torch.float32)))
        state = {name: value.clone() for name, value in net.state_dict().items()}
        state["output_layer.bias"] -= outside.median() + 1e-3
        changed = Net().eval()
        changed.load_state_dict(state)
        said = changed(torch.tensor(given, dtype=torch.float32))[:, 0].numpy()
    torch.save(state, tmp_path / "w.pth")
    import_geoseg(tmp_path / "w.pth", tmp_path / "theirs.safetensors")
    pairs = [pair for pair, row in judged.items() if row is not None]
    expected = {pair for pair, p in zip(pairs, said, strict=True) if p > 0.5}
    assert 0 < len(expected) < len(pairs)

    options = {"preset": "paper", "model": tmp_path / "theirs.safetensors", "workers": 1}
    made = overseg.plan(broken, out=tmp_path / "p", **options)
    table = made.candidates.to_pylist()
    assert {(row["a"], row["b"]) for row in table if row["decision"] == "merge"} == expected
    assert {row["stage"] for row in table} == {"geoseg"}
    over = [row for row in table if judged.get((row["a"], row["b"]), 0) is None]
    assert over and all(row["p"] == 0 and row["decision"] == "keep" for row in over)

    chunks = zarr.create_array(tmp_path / "c.zarr", shape=broken.shape, dtype="u4", chunks=(5, 23, 31))
    chunks[:] = broken
    assert overseg.plan(tmp_path / "c.zarr", **options).hash == made.hash
    (note,) = {why.note for why in made.why(int(made.data.candidates["a"][0].as_py()))}
    assert note is not None and "no words for what the authors' code measures" in note
    assert overseg.show(made)["explained"] in (None, note)


def test_the_card_tells_where_it_comes_from(imported, tmp_path):
    card = json.loads((tmp_path / "theirs.json").read_text())
    assert card["candidate_rule"] == "paper" and card["threshold"] == card["review_from"] == 0.5
    assert list(card["heads"]) == ["geoseg"] and card["heads"]["geoseg"]["features"] == list(GEOSEG)
    assert card["origin"]["file"] == "w.pth" and len(card["origin"]["sha256"]) == 64
    assert "authors" in card["licence"] and "comparison" in card["note"]


def test_the_model_goes_with_the_preset_and_gaps_alone(imported, tmp_path):
    file = tmp_path / "theirs.safetensors"
    labels = np.ones((4, 4, 4), np.uint8)
    with pytest.raises(ModelError, match="need candidates and features") as caught:
        overseg.plan(labels, model=file)
    assert "--preset paper" in str(caught.value)
    for kind in ("tilted", "both"):
        with pytest.raises(InputError, match="judge gaps only"):
            overseg.plan(labels, preset="paper", model=file, kind=kind)
    with pytest.raises(InputError, match="brings its own model"):
        overseg.plan(labels, preset="paper", model="default-tilted")
    shipped = load()
    save(tmp_path / "m.safetensors", shipped.heads, shipped.card)
    with pytest.raises(ModelError, match="takes no other model"):
        overseg.plan(labels, preset="paper", model=tmp_path / "m.safetensors")


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def state(**changed):
    found = {name: torch.zeros(shape) for name, shape in TENSORS.items()}
    found.update({name.replace("_", ".", 1): value for name, value in changed.items()})
    return {name: value for name, value in found.items() if value is not None}


def refused(tmp_path, match):
    out = tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match=match) as caught:
        import_geoseg(tmp_path / "w.pth", out)
    assert str(tmp_path / "w.pth") in str(caught.value) and caught.value.remedy
    assert not out.exists() and not out.with_suffix(".json").exists()


@pytest.mark.parametrize("way", ["pickle", "zip", "legacy", "beside", "protocol 5"])
def test_code_in_the_file_is_refused_and_never_run(tmp_path, way):
    mark, file = tmp_path / "ran", tmp_path / "w.pth"
    bad = Payload(mark)
    if way.startswith("p"):
        file.write_bytes(pickle.dumps(bad, protocol=5 if way == "protocol 5" else 2))
    else:
        content = {**state(), "extra": bad} if way == "beside" else bad
        torch.save(content, file, _use_new_zipfile_serialization=way != "legacy")
    refused(tmp_path, "reads nothing but tensors")
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(file, weights_only=False)
    assert mark.exists()  # the trap is a real one


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"model": state(), "epoch": 50}, "'model' is a dict and not a tensor"),
        ({**state(), "epoch": 50}, "'epoch' is a int and not a tensor"),
        ({**state(), 3: torch.zeros(1)}, "'3' is a Tensor"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "is missing"),
        (state(layer1_bias=None), "'layer1.bias' is missing"),
        ({**state(), "more": torch.zeros(1)}, "'more' is one tensor too many"),
        (state(layer2_weight=torch.zeros(64, 127)), r"shape \(64, 127\), not \(64, 128\)"),
        (state(layer1_weight=torch.zeros(128, 12).half()), "not a plain tensor"),
        (state(layer1_weight=torch.zeros(128, 12).to_sparse()), "not a plain tensor"),
        (state(layer1_weight=torch.zeros(1).expand(1 << 40)), "more than 1,000,000 numbers"),
        (state(layer3_bias=torch.full((32,), torch.nan)), "NaN or infinite"),
        (state(layer3_bias=torch.full((32,), torch.inf)), "NaN or infinite"),
    ],
)
def test_anything_but_these_tensors_is_refused(content, match):
    with pytest.raises(ModelError, match=match):
        found = tensors._tensors(content, torch)
        if isinstance(found, str):
            raise ModelError(found)
        geoseg_head(found, "w.pth")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"model": state(), "epoch": 50}, "'model' is a dict and not a tensor"),
        (state(layer2_weight=torch.zeros(64, 127)), r"shape \(64, 127\), not \(64, 128\)"),
        (Net(), "reads nothing but tensors"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, match):
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path, match)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip"])
def test_what_is_no_torch_file_is_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    refused(tmp_path, "reads nothing but tensors")


def test_what_cannot_be_read_or_written_is_refused(tmp_path, monkeypatch):
    refused(tmp_path, "cannot read the weights")
    (tmp_path / "w.pth").write_bytes(b"0" * 100)
    with pytest.raises(InputError, match=r"a model is a \.safetensors file"):
        import_geoseg(tmp_path / "w.pth", tmp_path / "out.pth")
    monkeypatch.setattr(geoseg, "LARGEST", 50)
    refused(tmp_path, "100 bytes")
    monkeypatch.setattr(geoseg, "LARGEST", 200)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="needs torch"):
        import_geoseg(tmp_path / "w.pth", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("program", "match"),
    [
        ("raise SystemExit('no room')", "ended with 1 .no room"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9 .no word"),
        ("print('nonsense')", "answered nonsense"),
        ("import time; time.sleep(60)", "not read within 0.4 s"),
    ],
)
def test_a_reader_that_fails_is_told(tmp_path, monkeypatch, program, match):
    (tmp_path / "w.pth").write_bytes(b"0")
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(tensors, "__file__", str(tmp_path / "program.py"))
    monkeypatch.setattr(geoseg, "SECONDS", 0.2)
    refused(tmp_path, match)


@pytest.mark.parametrize(
    "deed",
    [
        "open('/etc/hostname')",
        "__import__('socket').socket()",
        "__import__('os').pipe()",
        "__import__('subprocess').run(['true'])",
        "bytearray(1 << 30)",
    ],
)
def test_the_reader_gives_up_what_it_does_not_need(deed):
    program = (
        "import socket, subprocess\n"
        "from overseg.measure.tensors import give_up\n"
        "give_up(5, 64 << 20)\n"
        f"try:\n    {deed}\nexcept (OSError, MemoryError):\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n"


def test_both_of_torchs_formats_are_read(net, tmp_path):
    made = []
    for new in (True, False):
        kept = io.BytesIO()
        torch.save(net.state_dict(), kept, _use_new_zipfile_serialization=new)
        (tmp_path / "w.pth").write_bytes(kept.getvalue())
        made.append(import_geoseg(tmp_path / "w.pth", tmp_path / "out.safetensors"))
    assert made[0].digest == made[1].digest == load(tmp_path / "out.safetensors").digest


def test_the_command(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pth")
    weights, out = str(tmp_path / "w.pth"), str(tmp_path / "o.safetensors")

    def run(*words):
        return CliRunner().invoke(app, ["train", *words, "--out", out])

    done = run("--import-geoseg", weights, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["digest"] == load(out).digest
    assert f"overseg plan VOLUME --preset paper --model {out}" in run("--import-geoseg", weights).stdout
    for words, match in (
        (("cells.zarr",), "learn from no volumes"),
        (("--voxel-size", "1", "1", "1"), "learn from no volumes"),
        (("--kind", "tilted"), "judge gaps only"),
    ):
        wrong = run("--import-geoseg", weights, *words)
        assert wrong.exit_code == 1 and match in wrong.stderr
    assert run().exit_code == 1 and "nothing to train on" in run().stderr
