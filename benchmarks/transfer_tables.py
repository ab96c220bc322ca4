"""transfer.md from the figures of transfer.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.tables import FEWEST, rate, wilson

METHODS = ("default", "geo-wasserstein", "trees", "IoU")
HALVED = ("default, at 0.5", "geo-wasserstein, at 0.5", "trees, at 0.5")
SHARES = ("recall", "natural kept", "hard kept")
#: Figure, the aim for plant tissue and for others, and whether more is better.
AIMS: tuple[tuple[str, float, float, bool], ...] = (
    ("recall", 0.98, 0.97, True),
    ("natural kept", 0.99, 0.99, True),
    ("hard kept", 0.97, 0.97, True),
    ("AUC", 0.995, 0.995, True),
    ("ECE", 0.02, 0.02, False),
    ("clean merges", 1.0, 1.0, False),
)
_TOLD = {
    "recall": "recall on splits",
    "natural kept": "natural gaps kept apart",
    "hard kept": "hard gaps kept apart",
    "AUC": "AUC over candidates",
    "ECE": "expected calibration error",
    "clean merges": "merges per 1,000 cells in volumes as they are",
}
_PLACES = {"plant": "plant tissues left out", "other": "others: made up, rough labels, EM"}

Row = dict[str, Any]


def page(results: dict[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    results : dict
        As in ``transfer.json``.

    Returns
    -------
    str
    """
    rows = results["rows"]
    examples = sum(results["examples"].values())
    text = [
        HEAD.format(
            examples=f"{examples:,}", **{k: results[k] for k in ("seeds", "few", "repeats", "shipped")}
        )
    ]
    text += ["## What was to be reached, and what was\n", AIMED, *aims(rows, "default"), ""]
    text += ["The same with the threshold at 0.5:\n", *aims(rows, HALVED[0]), ""]
    text += [
        "## Pooled\n",
        METHOD_NOTE.format(**_widths(results)),
        _missing(results),
        *_pooled(rows, "exact"),
        "",
    ]
    text += ["## Flawed masks\n", FLAWED, *_pooled(rows, "flawed"), ""]
    text += ["## Volumes as they are\n", CLEAN, *_clean(rows), ""]
    text += ["## Without a group of features\n", PARTS, *_parts(results), ""]
    text += ["## Thresholds\n", THRESHOLDS, *_thresholds(results["thresholds"]), ""]
    text += ["## With the second stage\n", STAGES, *_stages(results["stages"]), ""]
    text += ["## By volume\n", VOLUMES, *_by_volume(rows)]
    return "\n".join(text).rstrip("\n") + "\n"


def aims(rows: list[Row], method: str) -> list[str]:
    """The aims beside what one method reached."""
    lines = _header("figure", "aim, plant | reached | | aim, other | reached | |")
    by_place = {place: _row(rows, "exact", method, place) for place in _PLACES}
    clean = {place: _row(rows, "clean", method, place) for place in _PLACES}
    for name, *limits, more in AIMS:
        cells = []
        for place, limit in zip(_PLACES, limits, strict=True):
            told, value = _figure(name, by_place[place], clean[place])
            sign = "≥" if more else "≤"
            verdict = (
                "–" if value is None else "reached" if (value >= limit) == more or value == limit else "short"
            )
            cells.append(f"{sign} {limit:g} | {told} | {verdict}")
        lines.append(f"| {_TOLD[name]} | {' | '.join(cells)} |")
    return lines


def _figure(name: str, row: Row | None, clean: Row | None) -> tuple[str, float | None]:
    """A figure as told, and its value."""
    if name == "clean merges":
        return _clean_rate(clean), 1000 * clean["false"] / clean["cells"] if clean and clean[
            "cells"
        ] else None
    values = row[name] if row else None
    return interval(values, 4 if name in ("AUC", "ECE") else 3), values[0] if values else None


def interval(values: list[float] | None, digits: int = 3) -> str:
    """A figure with its interval."""
    if values is None:
        return "–"
    value, low, high = (f"{each:.{digits}f}" for each in values)
    return f"{value} ({low}–{high})"


def _row(rows: list[Row], setting: str, method: str, name: str) -> Row | None:
    return next((r for r in rows if (r["setting"], r["method"], r["name"]) == (setting, method, name)), None)


def _header(first: str, columns: str) -> list[str]:
    return [f"| {first} | {columns}".rstrip(), "|---" * (columns.count("|") + 1) + "|"]


COLUMNS = (
    "splits | recall | natural gaps | kept | hard gaps | kept | false merges per 1,000 cells | "
    "AUC | precision | ECE |"
)


def _line(first: str, row: Row) -> str:
    parts = [f"{row[f'{name} of']} | {interval(row[name])}" for name in SHARES]
    parts.append(rate(row["false"], row["cells"]))
    parts += [interval(row["AUC"], 4), interval(row["precision"]), interval(row["ECE"], 4)]
    return f"| {first} | {' | '.join(parts)} |"


def _some(rows: Iterable[Row | None], told: Callable[[Row], str]) -> list[str]:
    return [told(row) for row in rows if row is not None]


def _pooled(rows: list[Row], setting: str) -> list[str]:
    lines = []
    for place, title in _PLACES.items():
        found = [_row(rows, setting, method, place) for method in (*METHODS, *HALVED)]
        lines += [f"{title[0].upper()}{title[1:]}:\n", *_header("method", COLUMNS)]
        lines += [*_some(found, lambda row: _line(row["method"], row)), ""]
    return lines[:-1]


def _clean(rows: list[Row]) -> list[str]:
    lines = _header("method", " | ".join([*_PLACES.values(), ""]))
    for method in (*METHODS, *HALVED):
        found = [_row(rows, "clean", method, place) for place in _PLACES]
        if any(found):
            lines.append(f"| {method} | {' | '.join(map(_clean_rate, found))} |")
    return lines


def _clean_rate(row: Row | None) -> str:
    return rate(row["false"], row["cells"]) if row else "–"


def _parts(results: dict[str, Any]) -> list[str]:
    lines = _header("without", "columns | AUC | recall | hard gaps kept | false merges per 1,000 cells |")
    tissues = dict.fromkeys(results.get("tissues", ()), "–")
    for group, columns in {"nothing": 0, **results["groups"], **tissues}.items():
        row = _row(results["rows"], "exact", f"without {group}", "plant")
        if row is None:
            continue
        shares = f"{interval(row['AUC'], 4)} | {interval(row['recall'])} | {interval(row['hard kept'])}"
        lines.append(f"| {group} | {columns} | {shares} | {rate(row['false'], row['cells'])} |")
    return lines


def _thresholds(thresholds: dict[str, dict[str, float]]) -> list[str]:
    tissues = list(dict.fromkeys(tissue for each in thresholds.values() for tissue in each))
    lines = _header("left out", " | ".join([*thresholds, ""]))
    for tissue in tissues:
        cells = [f"{each[tissue]:.2f}" if tissue in each else "–" for each in thresholds.values()]
        lines.append(f"| {'nothing' if tissue == 'other' else tissue} | {' | '.join(cells)} |")
    return lines


def _stages(stages: dict[str, dict[str, int]]) -> list[str]:
    lines = _header("stages", "recall | natural gaps kept | hard gaps kept | false merges per 1,000 cells |")
    for method, title in (("moments", "the first alone"), ("default", "both")):
        n = stages.get(method)
        if n is None:
            continue
        shares = [
            wilson(n["right"], n["splits"]),
            *(wilson(n[f"{gap} kept"], n[gap]) for gap in ("natural", "hard")),
        ]
        lines.append(f"| {title} | {' | '.join(shares)} | {rate(n['false'], n['cells'])} |")
    return lines


def _by_volume(rows: list[Row]) -> list[str]:
    lines = []
    for setting, title in (("exact", "exact masks"), ("flawed", "flawed masks")):
        for method in METHODS:
            found = [
                row
                for row in rows
                if (row["setting"], row["method"], row["place"]) == (setting, method, "volume")
            ]
            if found:
                lines += [f"### {method}, {title}\n", *_header("volume", COLUMNS)]
                lines += [*(_line(_volume(row), row) for row in found), ""]
    return lines


def _volume(row: Row) -> str:
    """The volume's name, and what to beware of."""
    em = ", EM" if "fly" in row["name"] or "mouse" in row["name"] else ""
    return f"{row['name']}{em}{'' if row['judged'] else ' ·'}"


def _widths(results: dict[str, Any]) -> dict[str, int]:
    columns = results["columns"]
    return {"all": columns["default"], "geo": columns["geo-wasserstein"]}


def _missing(results: dict[str, Any]) -> str:
    if "trees" in results["thresholds"]:
        return ""
    return "`trees` is missing: scikit-learn was not installed.\n"


HEAD = """# Transfer

Made by `python -m benchmarks.transfer`; all figures are in `transfer.json`. Every tissue was left out once:
models were trained on the others and on made-up tissue, their thresholds and temperatures chosen there, and
they judged the tissue left out. Only the first stage is looked at here, and all methods get the same
{examples} examples (simulations per view: {repeats}; those of the shipped model: {shipped}) and judge the
same broken volumes, with {seeds} fixed seeds each; {few} for flawed masks, and for volumes that are not plant
tissue with careful labels. In every seed three in ten cells were broken, and gaps were opened between six in
ten pairs of different, touching cells ("hard").

Recall is over splits, kept is over gaps between different cells; AUC, precision (right merges over merges at
the threshold) and expected calibration error (ECE, 15 equal bins) are over candidates whose truth is known.
False merges count every join of different cells. Intervals are 95%. Those of shares, AUC and ECE draw whole
cells again, with all that was found of them in all seeds, since the same cells come back in several seeds;
those of false merges take the counts of all seeds as independent (Poisson) and are somewhat too narrow. Where
no outcome was wrong, drawing again finds none either: an interval of 1.000–1.000 only says that.
"""

AIMED = """The first stage alone (`default` below), with the threshold that was chosen without the tissue; see
*Thresholds*. A figure is called reached by its value, not by its interval.
"""

METHOD_NOTE = """`default` is the shipped first stage ({all} columns, a small perceptron); `geo-wasserstein`
the same with nothing but transport of the mask's moments and the miss of its path ({geo} columns); `trees`
boosted trees on all columns, as a yardstick, not calibrated; `IoU` joins facing masks above 0.25, and is no
probability, so it has no ECE. The EM volume (neurites, not cell-shaped) and the made-up one are among the
others: the first is no tissue of cells, and the second is of the kind that models learn from, though not
itself learned from. Models that judge the membrane patch and EM have seen all the tissues of the training.
Rows "at 0.5" are the same scores with one threshold for all, not chosen: the AUC and ECE are the same.
"""

FLAWED = """The same after the true masks were shrunk, grown, jittered, roughened or robbed of corners in
turn, with gaps of one to three layers.
"""

CLEAN = """False merges per 1,000 cells where nothing was broken. Labels are never perfect: some of these may
be right, and the membrane patch has one layer that is really broken.
"""

PARTS = """The first stage trained anew without some columns, for the three real tissues, exact masks. Each is
calibrated on the other two and merges from 0.5 on, so the first line differs a little from `default, at 0.5`.
That lengths are over the radius cannot be taken away column by column, so it isn't tried. Some columns belong
to two groups. The last lines learn from fewer tissues instead.
"""

THRESHOLDS = """Each is the lowest, from 0.8 on, with at most one false merge of natural neighbours per 1,000
cells in the tissues that were not left out, by models that had not seen them. They are chosen for the first
stage alone here; that of the shipped model is chosen after its second stage has looked again.
"""

STAGES = """Counts of `accuracy.json` (pooled, exact holes), where the second stage looks at what the first is
unsure of with earth mover's distances; intervals are those of that page.
"""

VOLUMES = f"""· fewer than {FEWEST} splits in one seed: reported, not judged by itself. Made-up tissue and EM
are called so.
"""
