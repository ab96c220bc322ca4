"""The command line over stand-ins of the public functions: options, output, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner, Result

from overseg import api
from overseg.cli import app, pages
from overseg.cli.options import RUNNING, SEMANTIC
from overseg.errors import LockedError
from overseg.settings import PUBLISHED_TILTED, RunSettings, Settings

COMMANDS = (
    "plan",
    "apply",
    "correct",
    "verify",
    "again",
    "undo",
    "show",
    "convert",
    "simulate",
    "train",
    "evaluate",
)
SUMMARY: dict[str, Any] = {
    "volume": "/data/cells.zarr",
    "plan": "/data/cells.overseg",
    "plan_hash": "0123456789abcdef",
    "cells": 1234,
    "candidates": 56,
    "decided_by_stage": {"moments": 50, "full": 6},
    "merged": 12,
    "kept": 43,
    "review": 1,
    "touching_not_judged": 7,
    "voxels_filled": 98765,
    "units_total": 64,
    "units_rewritten": 0,
    "seconds": {"scan": 61.5, "score": 0.5},
    "peak_rss_bytes": 300 << 20,
    "warnings": ["the voxel size is unknown: 1 1 1 is used"],
}


class Recorded:
    """Stands in for a public function: notes its arguments, gives a plan."""

    def __init__(self, phase: str = "planned", fails: BaseException | None = None) -> None:
        self.phase, self.fails = phase, fails
        self.given: dict[str, Any] = {}

    def __call__(self, target: str, **given: Any) -> Any:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.given.pop("progress", None)
        self.given["target"] = target
        if self.fails:
            raise self.fails
        path = Path("/data/cells.overseg")
        return SimpleNamespace(path=path, phase=self.phase, unread=[], summary=lambda: SUMMARY)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorded]]:
    def replace(name: str, **options: Any) -> Recorded:
        recorded = Recorded(**options)
        monkeypatch.setattr(api, name, recorded)
        return recorded

    yield replace


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_and_json(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"overseg {name} " in result.stdout.split("Example")[1]
    assert "--json" in result.stdout


def test_version_and_no_command() -> None:
    assert run("--version").stdout.startswith("overseg 0")
    assert "correct" in run().output


def test_shared_options_are_those_of_the_settings() -> None:
    assert SEMANTIC.keys() == Settings.model_fields.keys()
    assert {*RUNNING, "cluster"} == RunSettings.model_fields.keys()  # a table has no option
    for name, kind in SEMANTIC.items():
        for choice in get_args(get_args(get_args(kind)[0])[0]):
            if isinstance(choice, str):
                published = {"preset": "paper", "kind": "both"} if name in PUBLISHED_TILTED else {}
                assert Settings(**published, **{name: choice})


def test_options_reach_the_function_typed(stand_in: Callable[..., Recorded]) -> None:
    planned = stand_in("plan")
    words = "--voxel-size 1 0.5 0.25 --background 0 --background 9 --max-gap 1 --threshold .8 --emd all"
    result = run(
        "plan", "cells.zarr", *words.split(), "--memory", "2GiB", "--break-lock", "--out", "x.overseg"
    )
    assert result.exit_code == 0, result.output
    assert planned.given == {
        "target": "cells.zarr",
        "out": "x.overseg",
        "voxel_size": (1.0, 0.5, 0.25),
        "background": [0, 9],
        "max_gap": 1,
        "threshold": 0.8,
        "emd": "all",
        "memory": "2GiB",
        "break_lock": True,
    }


def test_several_ids_follow_one_background_option(stand_in: Callable[..., Recorded]) -> None:
    planned = stand_in("plan")
    assert run("plan", "--background", "0", "5", "17", "cells.zarr", "--max-gap", "1").exit_code == 0
    assert planned.given == {"target": "cells.zarr", "background": [0, 5, 17], "max_gap": 1}


def test_numbers_may_be_set_apart_by_commas(stand_in: Callable[..., Recorded]) -> None:
    planned = stand_in("plan")
    words = ("--voxel-size", "1,0.25,0.5", "--background", "0,5", "a,b.zarr", "--region", "0:2,0:9,1:3")
    assert run("plan", *words).exit_code == 0
    size, region = (1.0, 0.25, 0.5), "0:2,0:9,1:3"
    expected = {"target": "a,b.zarr", "voxel_size": size, "background": [0, 5], "region": region}
    assert planned.given == expected


def test_config_file_is_overruled_by_the_command_line(
    stand_in: Callable[..., Recorded], tmp_path: Path
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("max-gap = 3\nthreshold = 0.5\nworkers = 2\nvoxel-size = [1, 1, 1]\n")
    planned, applied = stand_in("plan"), stand_in("apply", phase="applied")
    assert run("plan", "v.zarr", "--config", str(config), "--threshold", "0.9").exit_code == 0
    assert planned.given == {
        "target": "v.zarr",
        "max_gap": 3,
        "threshold": 0.9,
        "workers": 2,
        "voxel_size": [1, 1, 1],
    }
    assert run("apply", "v.overseg", "--config", str(config)).exit_code == 0
    assert applied.given == {"target": "v.overseg", "workers": 2, "finish": False, "allow_partial": False}


def test_a_table_of_the_config_file_reaches_commands_that_run_units(
    stand_in: Callable[..., Recorded], tmp_path: Path
) -> None:
    config = tmp_path / "slurm.toml"
    config.write_text('[cluster]\nkind = "slurm"\nmaximum-jobs = 3\n')
    planned = stand_in("plan")
    assert run("plan", "v.zarr", "--config", str(config)).exit_code == 0
    assert planned.given["cluster"] == {"kind": "slurm", "maximum_jobs": 3}
    assert run("plan", "v.zarr", "--config", str(config), "--scheduler", "tcp://a:1").exit_code == 0
    assert "cluster" not in planned.given


def test_unknown_option_in_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("max_gaps = 3\n")
    result = run("plan", "v.zarr", "--config", str(tmp_path / "bad.toml"), "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert "max_gaps" in error["what"]
    assert error["where"].endswith("bad.toml")
    assert "max_gap" in error["remedy"]


def test_plan_says_what_to_do_next(stand_in: Callable[..., Recorded]) -> None:
    stand_in("plan")
    lines = run("plan", "cells.zarr").stdout.splitlines()
    assert lines[0] == "warning: the voxel size is unknown: 1 1 1 is used"
    assert "  candidates                   56  decided by moments 50, full 6" in lines
    assert "  voxels to fill           98,765" in lines
    assert "  time                  1 min 2 s  scan 1 min 2 s, score 0.5 s" in lines
    assert lines[-1].endswith("overseg apply /data/cells.overseg")
    assert lines[-2].endswith("overseg show /data/cells.overseg")


def test_correct_ends_with_the_line_that_undoes_it(stand_in: Callable[..., Recorded]) -> None:
    corrected = stand_in("correct", phase="applied")
    result = run("correct", "cells.zarr", "--output", "copy.zarr")
    assert result.exit_code == 0
    assert corrected.given == {"target": "cells.zarr", "output": "copy.zarr"}
    assert result.stdout.splitlines()[-1].endswith("overseg undo /data/cells.overseg")


def test_without_a_terminal_nobody_is_asked(stand_in: Callable[..., Recorded]) -> None:
    corrected = stand_in("correct", phase="applied")
    assert run("correct", "cells.zarr").exit_code == 0
    assert "confirm" not in corrected.given


def test_json_is_one_object_and_nothing_else(stand_in: Callable[..., Recorded]) -> None:
    stand_in("correct", phase="applied")
    result = run("correct", "cells.zarr", "--json")
    assert json.loads(result.stdout) == SUMMARY


def test_json_has_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUMMARY, "odd", [float("nan"), 1.5])
    monkeypatch.setattr(api, "apply", Recorded("applied"))
    assert json.loads(run("apply", "p", "--json").stdout)["odd"] == [None, 1.5]


def test_refusals_say_what_where_and_the_remedy(stand_in: Callable[..., Recorded]) -> None:
    stand_in("apply", fails=LockedError("another run holds it", where="v.zarr", remedy="wait for it"))
    plain = run("apply", "v.overseg")
    assert (plain.exit_code, plain.stdout) == (1, "")
    assert plain.stderr.splitlines() == [
        "error: another run holds it",
        "  where:  v.zarr",
        "  remedy: wait for it",
    ]
    machine = run("apply", "v.overseg", "--json")
    assert machine.exit_code == 1
    assert json.loads(machine.stdout) == {
        "error": {"what": "another run holds it", "where": "v.zarr", "remedy": "wait for it"}
    }


def test_the_unexpected_is_one_line_and_a_place(
    stand_in: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("plan", fails=ZeroDivisionError("oh"))
    result = run("plan", "v.zarr")
    assert result.exit_code == 1
    assert "ZeroDivisionError: oh" in result.stderr
    assert "test_cli_commands.py:" in result.stderr
    assert "please report" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("OVERSEG_DEBUG", "1")
    assert isinstance(run("plan", "v.zarr").exception, ZeroDivisionError)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), typer.Abort()])
def test_stopped_says_how_to_go_on(stop: BaseException, stand_in: Callable[..., Recorded]) -> None:
    stand_in("plan", fails=stop)
    result = run("plan", "v.zarr")
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["plan", "v.zarr", "--max-gap", "two"],
        ["plan", "v.zarr", "--fill", "some"],
        ["plan", "v.zarr", "--voxel-size", "1", "1"],
        ["plan", "v.zarr", "--nonsense"],
        ["improve", "v.zarr"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_values_out_of_range_are_refused_with_the_option_named(tmp_path: Path) -> None:
    for words in (["--max-gap", "0"], ["--threshold", "1.5"], ["--voxel-size", "0", "1", "1"]):
        result = run("plan", str(tmp_path / "v.zarr"), *words)
        assert result.exit_code == 1
        assert words[0] in result.stderr


def test_settings_are_shown_as_they_are_typed() -> None:
    said = {**Settings(background=(0, 70000), region="2:20,4:60,4:60").model_dump(), "region": None}
    assert pages._as_typed(said)["background"] == "0 70000" and pages._as_typed(said)["region"] is None
    said["region"] = [[2, 20], [4, 60], [4, 60]]
    assert pages._as_typed(said)["region"] == "2:20,4:60,4:60"
