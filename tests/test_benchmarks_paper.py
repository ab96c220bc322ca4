"""The page beside the paper is made of the committed results, whatever methods they hold."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import paper

NAMES = ("paper_numbers", "accuracy", "touching")


def read() -> list[dict[str, Any]]:
    return [json.loads((paper.HERE / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES]


def test_the_page_is_that_of_the_results() -> None:
    assert paper.PAGE.read_text(encoding="utf-8") == paper.build(*read()), "run python -m benchmarks.paper"


def test_what_is_not_known_is_said_and_what_is_known_names_its_version() -> None:
    numbers = read()[0]
    for part in ("table 2", "table 5", "figure 5"):
        for each in numbers[part]["values"]:
            assert (each["value"] is None) == (each["version"] is None), each
            line = f"| {each['row']} | {each['column']} | {each['value'] or paper.UNKNOWN} |"
            assert line in paper.build(*read())


def test_methods_are_those_that_are_there() -> None:
    numbers, gaps, touching = read()
    rows = [row for row in gaps["rows"] if row["method"] == "default"]
    more = {"method": "another", "counts": {**rows[0]["counts"], "auc": 0.9}}
    page = paper.build(numbers, {"rows": [*rows, {**rows[0], **more}]}, touching)
    assert "| another |" in page and "| moments |" not in page
