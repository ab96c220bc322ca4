"""What users type is checked once, and refusals say what, where and the remedy."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from overseg.errors import InputError, OversegError, VolumeError
from overseg.settings import Settings, build, canonical, digest, parse_region, parse_size, read_config


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("2K", 2048),
        ("4GiB", 4 << 30),
        ("1.5g", 3 << 29),
        (7, 7),
        ("1 MB", 1 << 20),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4 gallons", "-1G", "0", "GiB"])
def test_sizes_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0:3,0:4", "0:3,0:4,5:5", ":3,0:4,0:5", "-1:3,0:4,0:5", "a"])
def test_regions_refused(text):
    with pytest.raises(ValueError, match="region"):
        parse_region(text)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threshold": 1.5}, "--threshold"),
        ({"threshold": float("nan")}, "--threshold"),
        ({"max_gap": 0}, "--max-gap"),
        ({"voxel_size": (0, 1, 1)}, "--voxel-size"),
        ({"voxel_size": (1, 1)}, "--voxel-size"),
        ({"background": (-1,)}, "--background"),
        ({"memory": "lots"}, "--memory"),
        ({"workers": 0}, "--workers"),
        ({"thresold": 0.5}, "--thresold"),
        ({"region": "1:2"}, "--region"),
        ({"preset": "paper", "model": "default-tilted"}, "brings its own model"),
        ({"preset": "paper", "model": "mine.safetensors", "kind": "tilted"}, "judge gaps only"),
        ({"penalty": -1, "preset": "paper", "kind": "tilted"}, "--penalty"),
        ({"emd_mode": "mean", "preset": "paper", "kind": "both"}, "--emd-mode"),
        ({"penalty": 2.0}, "--penalty belongs to --preset paper with --kind tilted"),
        ({"penalty": 2.0, "kind": "tilted"}, "--penalty belongs"),
        ({"emd_mode": "q1q3", "preset": "paper"}, "--emd-mode belongs"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(InputError) as caught:
        build(**options)
    assert named in str(caught.value) and caught.value.remedy
    assert isinstance(caught.value, ValueError)


def test_settings_and_run_settings_are_told_apart():
    semantic, run = build(
        max_gap=1, workers=3, memory="1GiB", region="0:2,0:3,0:4", background=(7, 0, 7), fill=None
    )
    assert (
        semantic.max_gap == 1
        and semantic.background == (0, 7)
        and semantic.region == ((0, 2), (0, 3), (0, 4))
    )
    assert run.workers == 3 and run.memory == 1 << 30
    assert "workers" not in canonical(semantic) and canonical(semantic)["fill"] == "all"


def test_what_decides_nothing_is_no_part_of_the_hash():
    """A plan made before these settings were there has the hash that it had."""
    tilted = ("penalty", "emd_mode")
    for options in ({}, {"preset": "paper"}, {"kind": "tilted"}, {"kind": "both"}):
        plain = canonical(build(**options)[0])
        assert not set(tilted) & set(plain) and build(**plain)[0] == build(**options)[0]
    published = canonical(build(preset="paper", kind="both", penalty=2, emd_mode="q1q3")[0])
    assert (published["penalty"], published["emd_mode"]) == (2.0, "q1q3")
    assert digest(published) != digest({**published, "penalty": 1.3})
    assert digest(canonical(Settings())) == "b1ec3d82a4def514cd5c7f25668df26ce495df43d90423e252b70c76fbfc930e"


def test_config_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("max-gap = 1\nvoxel-size = [2, 1, 1]\nworkers = 2\n")
    semantic, run = build(**read_config(file))
    assert semantic.max_gap == 1 and semantic.voxel_size == (2, 1, 1) and run.workers == 2
    file.write_text("max-gapp = 1")
    with pytest.raises(InputError, match="max_gapp"):
        read_config(file)
    file.write_text("max-gap = = 1")
    with pytest.raises(InputError, match="not TOML"):
        read_config(file)
    with pytest.raises(InputError, match="cannot read"):
        read_config(tmp_path / "none.toml")


def test_errors_say_what_where_remedy_and_survive_pickling():
    error = VolumeError("no such volume", where="/a/b.zarr", remedy="check the path")
    assert str(error).splitlines() == ["no such volume", "  where:  /a/b.zarr", "  remedy: check the path"]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is VolumeError and str(again) == str(error)
    assert isinstance(again, OversegError) and isinstance(again, ValueError)


def test_a_model_may_be_a_path() -> None:
    assert build(model=Path("mine.safetensors"))[0].model == "mine.safetensors"
