"""Numbers that the pages tell are those of the code."""

from __future__ import annotations

from pathlib import Path

from overseg.pipeline.decide import Guard
from overseg.pipeline.score import MARGIN
from overseg.settings import Settings

METHODS = (Path(__file__).resolve().parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_methods_page_tells_the_limits_in_force():
    assert f"by {MARGIN} or more, and of every rival" in METHODS
    assert Settings().transport == "fast"
    guard = Guard()
    assert f"({guard.members} labels; three times the volume of the 99th percentile label" in METHODS
    assert guard.volume_ratio == 3 and guard.volume_quantile == 0.99
