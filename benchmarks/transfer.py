"""How the first stage does on tissue it has not seen, beside other learners: transfer.md and transfer.json.

    python -m benchmarks.transfer [DATA]

DATA is the folder of labelled volumes, by default that of the tests. Every tissue is left out once. Examples
are made once and shared by all methods; all methods judge the same broken volumes.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import FEW, HERE, NOTHING, SEEDS, Sample, count, plainly, samples
from benchmarks.clustered import Bool, Float, Int, auc, calibration_error, resampled, share
from benchmarks.tissues import MADE_UP, MORE_SHAPES, RECIPE, data_folder, grouped, volumes
from benchmarks.transfer_tables import FEWEST, page
from overseg.measure import calibrate
from overseg.measure.examples import Case, Examples, cases, collect, make_case
from overseg.measure.imaging import FLAWS, flawed
from overseg.measure.training import fit_left_out, moments_of
from overseg.model.features import MOMENTS
from overseg.model.fit import fit_head, temperature_of
from overseg.model.mlp import Head
from overseg.pipeline.decide import FILL, MERGE, Guard, Verdicts, decide

#: Simulations per view for the training: fewer than the shipped model has, so that all methods fit the time.
REPEATS = 2
HALF = 0.5
REAL = ("meristem", "ovule", "nuclei")
BROKEN: dict[str, Any] = {"rate": 0.3, "hard": 0.6, "holes": "exact"}
WHOLE: dict[str, Any] = {"rate": 0.0, "hard": 0.0}
TREES: dict[str, Any] = {
    "max_iter": 300,
    "learning_rate": 0.06,
    "max_leaf_nodes": 31,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
PROFILES = {name for name in MOMENTS if name.endswith(("_linear", "_quadratic", "_smooth", "short_profile"))}
#: Groups of columns, by name; a column may belong to several.
GROUPS: dict[str, Callable[[str], bool]] = {
    "same lag": lambda name: (
        any(part in name for part in ("_near_", "_worst_", "_median_"))
        or (name.endswith(("_rank", "_excess")) and "usual" not in name)
    ),
    "overlap": lambda name: (name.startswith("loss_") and name not in PROFILES) or name == "apart",
    "profiles": lambda name: name in PROFILES,
    "moment transport": lambda name: name.startswith(("drift_", "shape_")),
    "trend": lambda name: name.startswith(("path_miss", "taper", "tip", "area_miss")),
    "of the volume": lambda name: "usual" in name,
    "growth": lambda name: name.startswith("growth_"),
}
#: Tissues of the training that are made up.
UNREAD: dict[str, tuple[str, ...]] = {
    "palisades, dividing cells and sheets": tuple(dict.fromkeys(name for name, *_ in MORE_SHAPES)),
    "made-up tissue": tuple(dict.fromkeys(name for name, *_ in MADE_UP + MORE_SHAPES)),
}
ALL: Int = np.arange(len(MOMENTS))
GEO: Int = np.array(
    [k for k, name in enumerate(MOMENTS) if name.startswith(("drift_", "shape_", "path_miss"))]
)


@dataclass(frozen=True)
class Scorer:
    """What judges one tissue: probabilities and warnings from columns; a threshold chosen without it."""

    columns: Int
    score: Callable[[Float], Float]
    strange: Callable[[Float], Bool]
    threshold: float


#: A scorer for each tissue; None for the overlap, which learns nothing.
Method = dict[str, Scorer] | None


@dataclass(frozen=True)
class Outcome:
    """What one method made of one case.

    Attributes
    ----------
    events : dict of str to (ndarray of int64, ndarray of bool)
        For each share the true cells its outcomes belong to, and which of them are right.
    cell, score, same : ndarray
        Candidates of known truth: true cell of the upper label, score, and whether both faces are one cell.
    false, cells : int
    """

    events: dict[str, tuple[Int, Bool]]
    cell: Int
    score: Float
    same: Bool
    false: int
    cells: int


Found = dict[tuple[str, str], dict[str, list[Outcome]]]


def perceptron(names: list[str], examples: Examples, columns: Int) -> dict[str, Scorer]:
    """The shipped first stage, on some columns: for each tissue a head that has not seen it."""
    some = replace(examples, features=examples.features[:, columns])
    head, folds, unseen = fit_left_out(some, _named(columns), seed=RECIPE["seed"], epochs=RECIPE["epochs"])
    return _scorers(names, examples, unseen, [_scorer(each, columns) for each in (*folds, head)])


def trees(names: list[str], examples: Examples) -> dict[str, Scorer] | None:
    """Boosted trees on the same columns; None without scikit-learn."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        return None
    weight = calibrate.group_weight(examples.group)

    def fitted(rows: Bool) -> Scorer:
        model = HistGradientBoostingClassifier(**TREES)
        model.fit(examples.features[rows], examples.same[rows], sample_weight=weight[rows])
        return Scorer(ALL, lambda x: model.predict_proba(x)[:, 1] if len(x) else np.zeros(0), _never, HALF)

    unseen, found = np.empty(len(examples.same)), []
    for group in range(len(names)):
        out = examples.group == group
        found.append(fitted(~out))
        unseen[out] = found[-1].score(examples.features[out])
    return _scorers(names, examples, unseen, [*found, fitted(np.ones(len(unseen), bool))])


def three_folds(
    names: list[str], examples: Examples, columns: Int, unread: tuple[str, ...] = ()
) -> dict[str, Scorer]:
    """Heads for the real tissues alone, each calibrated on the other two; their threshold is one half.

    Tissues that are `unread` nobody learns from.
    """
    features, weight = examples.features[:, columns], calibrate.group_weight(examples.group)
    groups, heads = [names.index(name) for name in REAL], []
    logits = np.zeros(len(features))
    for group in groups:
        rest = ~np.isin(examples.group, [group, *map(names.index, unread)])
        held_out = examples.case[rest] % 10 == 9
        x, y, w = features[rest], examples.same[rest], weight[rest]
        heads.append(
            fit_head(x, y, held_out, _named(columns), weight=w, seed=RECIPE["seed"], epochs=RECIPE["epochs"])
        )
        out = examples.group == group
        logits[out] = heads[-1].logit(features[out])
    found = {}
    for group, head in zip(groups, heads, strict=True):
        rows = np.isin(examples.group, [each for each in groups if each != group])
        heat = temperature_of(logits[rows], examples.same[rows], weight[rows])
        found[names[group]] = _scorer(replace(head, temperature=heat), columns)
    return found


def at_half(method: dict[str, Scorer]) -> dict[str, Scorer]:
    """The same with one threshold for all, so that methods can be told apart from their thresholds."""
    return {tissue: replace(scorer, threshold=HALF) for tissue, scorer in method.items()}


def _named(columns: Int) -> tuple[str, ...]:
    return tuple(MOMENTS[k] for k in columns.tolist())


def _never(features: Float) -> Bool:
    return np.zeros(len(features), bool)


def _scorer(head: Head, columns: Int) -> Scorer:
    return Scorer(columns, head.probability, head.out_of_range, HALF)


def _scorers(names: list[str], examples: Examples, unseen: Float, found: list[Scorer]) -> dict[str, Scorer]:
    """Scorers with the thresholds that are chosen without their tissue; the last has seen everything."""
    result = {"other": replace(found[-1], threshold=calibrate.choose_threshold(unseen, examples))}
    for group, name in enumerate(names):
        others, part = examples.without(group)
        threshold = calibrate.choose_threshold(unseen[others], part)
        result[name] = replace(found[group], threshold=threshold)
    return result


def broken(sample: Sample, number: int) -> Iterator[tuple[str, Case]]:
    """Cases of one volume: split, split after its masks were flawed, and as it is."""
    for seed in SEEDS if sample.pooled else FEW:
        yield "exact", make_case(sample.labels, sample.voxel_size, seed, **BROKEN)
    for k, seed in enumerate(FEW):
        masks = flawed(sample.labels, FLAWS[(number * len(FEW) + k) % len(FLAWS)], seed)
        yield "flawed", make_case(masks, sample.voxel_size, seed, max_gap=3, **BROKEN)
    yield "clean", make_case(sample.labels, sample.voxel_size, 0, **WHOLE)


def judge(case: Case, values: Float, scorer: Scorer | None) -> tuple[Float, Verdicts]:
    """Scores of all candidates, and what is decided; the overlap decides without review and guard."""
    c = case.candidates
    if scorer is None:
        iou = c.overlap / (c.area_a + c.area_b - c.overlap)
        return iou, plainly(case, iou, np.nextafter(0.25, 1), False)[1]
    mine = values[:, scorer.columns]
    p = scorer.score(mine)
    return p, decide(
        c, case.layers, p, threshold=scorer.threshold,
        review_from=min(calibrate.REVIEW_FROM, scorer.threshold),
        out_of_range=scorer.strange(mine), cut=NOTHING, guard=Guard(),
    )  # fmt: skip


def outcome(case: Case, score: Float, verdicts: Verdicts) -> Outcome:
    """What became of splits, gaps and candidates."""
    c, truth = case.candidates, case.truth
    known, same, cell = case.certain(), case.same_cell(), _cells(case, c.a)
    merged = known & np.isin(verdicts.decision, (MERGE, FILL))
    events = {"recall": _splits(case, verdicts), "precision": (cell[merged], same[merged])}
    for name, gaps in (("natural kept", truth.natural), ("hard kept", truth.hard)):
        ends = np.array([(gap.upper, gap.lower) for gap in gaps], np.uint64).reshape(-1, 2)
        kept = verdicts.root(ends[:, 0]) != verdicts.root(ends[:, 1])
        events[name] = _cells(case, ends[:, 0]), kept
    counts = count(case, verdicts)
    return Outcome(events, cell[known], score[known], same[known], counts["false"], counts["cells"])


def _splits(case: Case, verdicts: Verdicts) -> tuple[Int, Bool]:
    """The cell of each split, and whether it was found; as in `benchmarks.accuracy.count`."""
    splits = case.truth.splits
    ends = np.array([(each.upper, each.lower) for each in splits], np.uint64).reshape(-1, 2)
    right = verdicts.root(ends[:, 0]) == verdicts.root(ends[:, 1])
    c, fills = case.candidates, verdicts.decision == FILL
    filled = set(zip(c.a[fills].tolist(), c.z[fills].tolist(), strict=True))
    for k, each in enumerate(splits):
        if each.kind == "hole":
            right[k] = (each.upper, each.z) in filled
    return _cells(case, ends[:, 0]), right


def _cells(case: Case, labels: Any) -> Int:
    return case.truth.true_of(labels).astype(np.int64)


def judge_all(chosen: list[Sample], methods: dict[str, Method], parts: dict[str, Method]) -> Found:
    """Outcomes by setting and method, and by volume; `parts` judge pooled volumes with exact holes alone."""
    found: Found = defaultdict(lambda: defaultdict(list))
    for number, sample in enumerate(chosen):
        start = time.monotonic()
        for setting, case in broken(sample, number):
            values = moments_of(case, np.arange(len(case.candidates)))
            more = parts if setting == "exact" and sample.pooled else {}
            for name, method in [*methods.items(), *more.items()]:
                score, verdicts = judge(case, values, None if method is None else method[sample.tissue])
                found[setting, name][sample.name].append(outcome(case, score, verdicts))
        print(f"{sample.name}, {time.monotonic() - start:.0f} s", flush=True)
    return found


def summary(volumes: Iterable[list[Outcome]], calibrated: bool) -> dict[str, Any]:
    """Figures of some volumes together. A cell of a volume is one cluster in all its seeds."""
    pairs = [(number << 40, each) for number, outcomes in enumerate(volumes) for each in outcomes]
    row: dict[str, Any] = {}
    for name in ("recall", "natural kept", "hard kept", "precision"):
        cell = np.concatenate([each.events[name][0] + at for at, each in pairs])
        row[name] = share(cell, np.concatenate([each.events[name][1] for _, each in pairs]))
        row[f"{name} of"] = len(cell)
    cell = np.concatenate([each.cell + at for at, each in pairs])
    score, same = (np.concatenate([getattr(each, k) for _, each in pairs]) for k in ("score", "same"))
    row["AUC"] = resampled(cell, auc(score, same))
    row["ECE"] = resampled(cell, calibration_error(score, same)) if calibrated else None
    row["candidates"] = len(cell)
    row["false"], row["cells"] = sum(e.false for _, e in pairs), sum(e.cells for _, e in pairs)
    return row


def rows(chosen: list[Sample], found: Found) -> list[dict[str, Any]]:
    """Figures of every setting and method: pooled, and for each volume."""
    table = []
    for (setting, method), by_volume in found.items():
        places = [
            (place, [s.name for s in chosen if s.pooled == pooled and s.name in by_volume])
            for place, pooled in (("plant", True), ("other", False))
        ]
        for place, names in [*places, *(("volume", [name]) for name in by_volume)]:
            if not names:
                continue
            outcomes = [by_volume[name] for name in names]
            row = summary(outcomes, method != "IoU")
            head = {"setting": setting, "method": method, "place": place}
            few = row["recall of"] < FEWEST * sum(map(len, outcomes))
            name = names[0] if place == "volume" else place
            table.append({**head, "name": name, "judged": place != "volume" or not few, **row})
    return table


def stages(path: Path) -> dict[str, dict[str, int]]:
    """Counts of the shipped method with and without its second stage, from the page on accuracy."""
    total: dict[str, Counter[str]] = {"default": Counter(), "moments": Counter()}
    if path.exists():
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            if row["pooled"] and row["holes"] == "exact" and row["method"] in total:
                total[row["method"]].update(row["counts"])
    wanted = ("splits", "right", "natural", "natural kept", "hard", "hard kept", "false", "cells")
    return {name: {key: counts[key] for key in wanted} for name, counts in total.items() if counts}


def learn(names: list[str], examples: Examples) -> tuple[dict[str, Method], dict[str, Method]]:
    """All methods, and the first stage without each group of columns."""
    methods: dict[str, Method] = {
        "default": perceptron(names, examples, ALL),
        "geo-wasserstein": perceptron(names, examples, GEO),
    }
    grown = trees(names, examples)
    if grown is not None:
        methods["trees"] = grown
    methods |= {f"{name}, at 0.5": at_half(method) for name, method in methods.items() if method}
    methods["IoU"] = None
    parts: dict[str, Method] = {"without nothing": three_folds(names, examples, ALL)}
    for group, belongs in GROUPS.items():
        kept = np.array([k for k, name in enumerate(MOMENTS) if not belongs(name)])
        if len(kept) < len(MOMENTS):
            parts[f"without {group}"] = three_folds(names, examples, kept)
    return methods, parts | fewer_tissues(names, examples)


def fewer_tissues(names: list[str], examples: Examples) -> dict[str, Method]:
    """The first stage when it learns from less."""
    known = {what: tuple(name for name in unread if name in names) for what, unread in UNREAD.items()}
    return {
        f"without {what}": three_folds(names, examples, ALL, unread)
        for what, unread in known.items()
        if unread
    }


def main() -> None:
    """Train, judge, and write both files."""
    folder, start = data_folder(), time.monotonic()
    names, tissues = grouped(volumes(folder))
    made = cases(tissues, seed=RECIPE["seed"], repeats=REPEATS, max_gap=RECIPE["max_gap"])
    examples = collect(made, moments_of)
    print(f"{len(examples.same)} examples, {time.monotonic() - start:.0f} s", flush=True)
    methods, parts = learn(names, examples)
    print(f"trained, {time.monotonic() - start:.0f} s", flush=True)
    chosen = samples(folder)
    results = {
        "seeds": len(SEEDS),
        "few": len(FEW),
        "repeats": REPEATS,
        "shipped": RECIPE["repeats"],
        "columns": {"default": len(ALL), "geo-wasserstein": len(GEO)},
        "groups": {group: sum(map(belongs, MOMENTS)) for group, belongs in GROUPS.items()},
        "tissues": list(UNREAD),
        "examples": {name: int((examples.group == k).sum()) for k, name in enumerate(names)},
        "thresholds": {
            name: {tissue: scorer.threshold for tissue, scorer in sorted(method.items())}
            for name, method in methods.items()
            if method is not None and ", at" not in name
        },
        "rows": rows(chosen, judge_all(chosen, methods, parts)),
        "stages": stages(HERE / "accuracy.json"),
    }
    (HERE / "transfer.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "transfer.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
