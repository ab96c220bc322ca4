"""accuracy.md from the counts of accuracy.json."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = ("default", "moments", "paper", "IoU > 0.25")
KINDS = ("missing", "swallowed", "shared", "noise", "half", "stray", "hole")
FEWEST = 30

Row = dict[str, Any]


def wilson(right: int, n: int) -> str:
    """A share with its 95% interval (Wilson, JASA 22:209, 1927)."""
    if not n:
        return "–"
    z, p = 1.959964, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{p:.3f} ({max(0.0, middle - half):.3f}–{min(1.0, middle + half):.3f})"


def rate(events: int, cells: int) -> str:
    """Events per 1,000 cells with an exact-like 95% interval (Byar's approximation to the Poisson limits)."""
    if not cells:
        return "–"
    low = 0.0
    if events:
        low = events * (1 - 1 / (9 * events) - 1.96 / (3 * math.sqrt(events))) ** 3
    more = events + 1
    high = more * (1 - 1 / (9 * more) + 1.96 / (3 * math.sqrt(more))) ** 3
    return f"{1000 * events / cells:.2f} ({1000 * low / cells:.2f}–{1000 * high / cells:.2f})"


def write_tables(results: dict[str, Any], path: Path) -> None:
    """Write the page."""
    rows = results["rows"]
    text = [HEAD.format(seeds=results["seeds"])]
    text += ["## Pooled over tissues left out\n", *_methods(_pooled(rows, "exact")), ""]
    text += [NOTE]
    text += _foretold(_pooled(rows, "exact"))
    text += ["## Untouched volumes\n", UNTOUCHED, *_untouched(rows), ""]
    text += ["## The shipped method by volume\n", *_by(rows, lambda row: row["volume"]), ""]
    text += ["## By kind of split\n", *_kinds(_pooled(rows, "exact")), ""]
    text += ["## Holes that are not exactly the mask\n", HOLES, *_holes(rows), ""]
    text += ["## Restored masks\n", MASKS, *_masks(results["iou"]), ""]
    touching = path.with_name("touching.md")
    if touching.exists():
        text += [touching.read_text(encoding="utf-8").replace("# ", "## ")]
    path.write_text("\n".join(text), encoding="utf-8")


def _pooled(rows: list[Row], holes: str) -> list[Row]:
    return [row for row in rows if row["pooled"] and row["holes"] == holes]


def _sum(rows: list[Row]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    return total


def _shares(n: Counter[str]) -> str:
    return (
        f"{n['splits']} | {wilson(n['right'], n['splits'])} | {n['natural']} | "
        f"{wilson(n['natural kept'], n['natural'])} | {n['hard']} | {wilson(n['hard kept'], n['hard'])} | "
        f"{rate(n['false'], n['cells'])}"
    )


COLUMNS = "splits | recall | natural gaps | kept | hard gaps | kept | false merges per 1,000 cells |"


def _header(first: str, columns: str) -> list[str]:
    return [f"| {first} | {columns}", "|---" * (columns.count("|") + 1) + "|"]


def _methods(rows: list[Row]) -> list[str]:
    lines = _header("method", COLUMNS)
    for method in METHODS:
        lines.append(f"| {method} | {_shares(_sum([row for row in rows if row['method'] == method]))} |")
    return lines


def _foretold(rows: list[Row]) -> list[str]:
    """Whether the precision that plans state is the true one."""
    n = _sum([row for row in rows if row["method"] == "default"])
    if not n["foretold"]:
        return []
    right, expected = n["joins right"] / n["joins"], n["joins expected"] / n["joins"]
    return [
        "The precision that a plan expects of itself, from probabilities alone: "
        f"{expected:.4f} in the mean of {n['joins']} joins, {right:.4f} in truth. In {n['foretold rightly']} "
        f"of {n['foretold']} volumes and seeds the truth lay in the 95% interval stated.\n"
    ]


def _by(rows: list[Row], key: Callable[[Row], str]) -> list[str]:
    lines = _header("volume", COLUMNS)
    rows = [row for row in rows if row["method"] == "default" and row["holes"] == "exact"]
    for name in dict.fromkeys(key(row) for row in rows):
        some = [row for row in rows if key(row) == name]
        total = _sum(some)
        few = "" if total["splits"] / len(some) >= FEWEST else " ·"
        apart = "" if some[0]["pooled"] else " (not pooled)"
        lines.append(f"| {name}{apart}{few} | {_shares(total)} |")
    return [*lines, "", f"· fewer than {FEWEST} splits in one seed: reported, not judged by itself."]


def _kinds(rows: list[Row]) -> list[str]:
    names = [*KINDS, "gap 1", "gap 2", "gap 1, no hole"]
    lines = _header("kind", " | ".join([*METHODS, ""]))
    for kind in names:
        cells = []
        for method in METHODS:
            n = _sum([row for row in rows if row["method"] == method])
            cells.append(wilson(n[f"right {kind}"], n[f"splits {kind}"]))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _holes(rows: list[Row]) -> list[str]:
    lines = _header("holes", COLUMNS)
    for holes in ("exact", "dilated", "jittered"):
        some = [row for row in _pooled(rows, holes) if row["method"] == "default"]
        lines.append(f"| {holes} | {_shares(_sum(some))} |")
    return lines


def _untouched(rows: list[Row]) -> list[str]:
    lines = _header("volumes", "method | cells | merges | per 1,000 cells |")
    rows = [row for row in rows if row["holes"] == "untouched"]
    places = {"pooled": [row for row in rows if row["pooled"]]}
    for row in rows:
        if not row["pooled"]:
            places.setdefault(row["volume"], []).append(row)
    for name, some in places.items():
        for method in METHODS:
            n = _sum([row for row in some if row["method"] == method])
            if not n["cells"]:
                continue
            lines.append(
                f"| {name} | {method} | {n['cells']} | {n['false']} | {rate(n['false'], n['cells'])} |"
            )
    return lines


def _masks(iou: dict[str, list[float]]) -> list[str]:
    lines = _header("splits", "masks | median IoU | mean | worst tenth below |")
    for kind, values in iou.items():
        ordered = sorted(values)
        median, tenth = ordered[len(ordered) // 2], ordered[len(ordered) // 10]
        mean = sum(ordered) / len(ordered)
        lines.append(f"| {kind} | {len(ordered)} | {median:.3f} | {mean:.3f} | {tenth:.3f} |")
    return lines


HEAD = """# Accuracy

Made by `make accuracy`; counts are in `accuracy.json`. Every tissue was left out once: models were trained
on the others and on made-up tissue, their thresholds chosen there, and they were judged on splits made in the
tissue left out, with {seeds} fixed seeds each (three for volumes that are not pooled). In every seed three in
ten cells were broken (all kinds of split in turn, gaps of one and two layers), and gaps were opened between
different, touching cells ("hard"). Intervals are 95% (Wilson for shares, Poisson for rates) over the counts
of all seeds; the same cells come back in several seeds, so they are somewhat too narrow.

A split counts as found when both parts carry one label (for holes: when the gap is filled); a gap counts as
kept when its two cells do not. False merges count every join of different cells, whatever gap it crosses.
"""

NOTE = """`default` is the shipped method with both stages, `moments` its first stage alone, `paper` the
published method (arXiv 2502.01890) with its own candidates, which knows gaps of one layer only and no holes,
trained in the same way; `IoU > 0.25` joins facing masks one to one. Natural gaps are those that were
candidates for `default` before anything was broken; one that is no candidate for `paper` counts as kept.
"""

UNTOUCHED = """Merges in volumes as they are, by models that have not seen the tissue. Labels are never
perfect: some of these may be right. The membrane patch has one layer (z = 31) that is really broken.
"""

HOLES = """Neighbours that stand back from the hole at random (dilated), or also grow into it (jittered);
three seeds. No feature looks at what lies in the gap.
"""

MASKS = """Pooled tissues, three seeds, merges that were found: voxels given back against the true mask, all
layers of a gap together. The hole is visible where the mask is missing, and not where neighbours took it; of
several that share a mask each gives back its part if it has grown by about that much.
"""


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    write_tables(json.loads((here / "accuracy.json").read_text(encoding="utf-8")), here / "accuracy.md")
