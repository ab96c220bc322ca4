"""The tables of benchmarks/README.md, from the JSON files alone: ``python -m benchmarks.speed.page``."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.speed import organ, reach

HERE = Path(__file__).resolve().parents[1]
RESULTS, PAGE = HERE / "results", HERE / "README.md"

#: Benchmarks in the order of the page, with what they are.
TITLES = {
    "scan": "Scan against reading and decoding",
    "emd": "Earth mover's distances",
    "contours": "Contour interpolation",
    "scoring": "All candidates scored",
    "stages": "Who decides",
    "correct": "`correct` from end to end",
    "touching": "Labels that touch",
    "growth": "Growth",
    "workers": "Workers",
    "operations": "Store operations",
    "memory": "Memory, predicted and measured",
    "startup": "Start-up",
    "gpu": "GPU",
}


def results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was measured, by benchmark, in the order of the page."""
    files = {name: folder / f"{name}.json" for name in TITLES}
    return {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()
    }


def figures(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """All figures that there is an aim for."""
    values: dict[str, float] = {}
    for name, result in found.items():
        values |= _module(name).figures(result["data"])
    return values


def tables(found: dict[str, dict[str, Any]]) -> str:
    """The generated part of the page."""
    lines = ["## What is to be reached, and what was", "", *reach.table(figures(found)), ""]
    lines += [*dict.fromkeys(_machine(result) for result in found.values()), ""]
    for name, result in found.items():
        lines += [f"## {TITLES[name]}", "", *_module(name).table(result["data"]), "", _made(result), ""]
    if "growth" in found:
        lines += [
            "## On paper: 10^13 voxels, 10^8 cells, 100 workers",
            "",
            *organ.table(found["growth"]["data"]),
            "",
        ]
    return "\n".join(lines)


def rewrite(page: Path = PAGE, folder: Path = RESULTS) -> None:
    """Put the tables between the page's markers; the prose around them is written by hand."""
    text = page.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- tables -->\n).*(<!-- end of tables -->)", re.DOTALL)
    made = tables(results(folder))
    page.write_text(marked.sub(lambda found: f"{found[1]}\n{made}\n{found[2]}", text), encoding="utf-8")


def _module(name: str) -> Any:
    return import_module(f"benchmarks.speed.{name}")


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{machine['system']}; Python {machine['python']}; {packages}."
    )


def _made(result: dict[str, Any]) -> str:
    machine = result["machine"]
    changed = " with uncommitted changes" if machine["uncommitted"] else ""
    small = "A SMALL RUN, good for nothing but a look. " if result["small"] else ""
    return (
        f"<sub>{small}`{result['command']}`, {result['took']:.0f} s, {machine['date'][:16]}, commit "
        f"{machine['commit']}{changed}, load before {machine['load_before']}</sub>"
    )


if __name__ == "__main__":
    rewrite()
