"""How good the shipped method is on tissue it has not seen: accuracy.md and accuracy.json.

    python -m benchmarks.accuracy [DATA]

DATA is the folder of labelled volumes, by default that of the tests. Every tissue is left out once: models
are trained on the others and on made-up tissue, and judged on splits made in the one left out, with ten fixed
seeds.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.tables import write_tables
from benchmarks.tissues import MADE_UP, NUCLEI, PAPER_RECIPE, RECIPE, data_folder, grouped, read, volumes
from overseg.kernels.fill import restore
from overseg.measure import calibrate, generate_tissue
from overseg.measure.examples import Case, Examples, Triple, make_case
from overseg.measure.training import (
    Trained,
    full_of,
    moments_of,
    paper_of,
    train_published,
    train_two_stages,
)
from overseg.model import Head
from overseg.model.measured import on_unseen
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.decide import FILL, MERGE, Guard, Verdicts, decide
from overseg.pipeline.expected import of_this_volume
from overseg.pipeline.fills import wanted_fills

HERE = Path(__file__).resolve().parent
SEEDS = range(1000, 1010)
#: Seeds of the rows with dilated and jittered holes, and of the restored masks: these take longer.
FEW = range(1000, 1003)
NOTHING = np.zeros(0, np.uint64)
METHODS = ("default", "moments", "paper", "IoU > 0.25")
VISIBLE = ("missing", "noise", "hole")


@dataclass(frozen=True)
class Sample:
    """A volume to judge on: its tissue, its name, whether it counts, and its labels."""

    tissue: str
    name: str
    pooled: bool
    labels: npt.NDArray[Any]
    voxel_size: Triple


@dataclass(frozen=True)
class Judge:
    """Heads that have not seen a tissue, and threshold and error of calibration found without it."""

    heads: dict[str, Head]
    threshold: float
    off: float


def samples(folder: Path) -> list[Sample]:
    """What models are judged on. None of the made-up tissue here is trained on."""
    one, fine, small = (1.0, 1.0, 1.0), (0.235, 0.15, 0.15), (0.28, 0.127, 0.127)
    meristem = read(folder, "plant_meristem/meristem")
    thin = np.ascontiguousarray(meristem[60:300:3, 200:400, 100:300])
    nuclei = {n: read(folder, f"plant_ovule_nuclei/nuclei_{n}") for n in NUCLEI}
    half = (0.56, 0.127, 0.127)
    patch = read(folder, "plant_membrane_patch/patch", "labels_big")
    return [
        Sample("meristem", "meristem", True, meristem[100:200, 100:300, 100:300], one),
        Sample("meristem", "meristem, every 3rd layer", True, thin, (3.0, 1.0, 1.0)),
        Sample("ovule", "ovule crop", True, read(folder, "plant_ovule_crop/ovule_crop"), fine),
        *(Sample("nuclei", f"nuclei {n}", True, v, small) for n, v in nuclei.items()),
        *(Sample("nuclei", f"nuclei {n}, every 2nd layer", True, v[::2], half) for n, v in nuclei.items()),
        Sample("generated", "made-up tissue", False, generate_tissue((64, 128, 128), 200, 9), one),
        Sample("other", "membrane patch (rough labels)", False, patch, one),
        Sample("other", "fly neurites (not cell-shaped)", False, read(folder, "fly_em_tiny/test"), one),
    ]


def judges(
    names: list[str], found: Trained, choose: Callable[[npt.NDArray[np.float64], Examples], float]
) -> dict[str, Judge]:
    """For each tissue the heads that have not seen it; for others those that have seen everything."""
    result = {}
    for group, name in enumerate(names):
        others, part = found.examples.without(group)
        unseen = found.unseen[others]
        result[name] = Judge(found.folds[group], choose(unseen, part), _off(unseen, part))
    every = found.unseen, found.examples
    return {**result, "other": Judge(found.heads, choose(*every), _off(*every))}


def _off(unseen: npt.NDArray[np.float64], examples: Examples) -> float:
    return on_unseen({"calibration": calibrate.calibration(unseen, examples.same)})["calibration_error"]


def by_default(case: Case, judge: Judge, second: bool) -> tuple[Verdicts, npt.NDArray[np.float64]]:
    """Decisions and probabilities of the shipped method, with or without its second stage."""
    first = judge.heads["moments"]
    rows = np.arange(len(case.candidates))
    values = moments_of(case, rows)
    p, strange = first.probability(values), first.out_of_range(values)
    unsure = np.flatnonzero((p > first.sure_low) & (p < first.sure_high)) if second else rows[:0]
    if len(unsure):
        values = full_of(case, unsure)
        p[unsure], strange[unsure] = (
            judge.heads["full"].probability(values),
            judge.heads["full"].out_of_range(values),
        )
    review = min(calibrate.REVIEW_FROM, judge.threshold)
    return decide(
        case.candidates, case.layers, p, threshold=judge.threshold, review_from=review,
        out_of_range=strange, cut=NOTHING, guard=Guard(),
    ), p  # fmt: skip


def foretold(case: Case, verdicts: Verdicts, p: npt.NDArray[np.float64], off: float) -> Counter[str]:
    """Whether the precision that a plan would state agrees with the truth."""
    done = case.certain() & np.isin(verdicts.decision, (FILL, MERGE))
    if not done.any():
        return Counter()
    said = of_this_volume([], p[done], off)
    low, high = said["expected_precision_interval"]
    right = case.same_cell()[done].mean()
    return Counter(
        {"foretold": 1, "foretold rightly": int(low <= right <= high), "joins": int(done.sum()),
         "joins right": int(case.same_cell()[done].sum()), "joins expected": float(p[done].sum())}
    )  # fmt: skip


def plainly(
    case: Case, p: npt.NDArray[np.float64], threshold: float, by_jaccard: bool
) -> tuple[Case, Verdicts]:
    """Decisions without review and guard."""
    never = np.zeros(len(p), bool)
    return case, decide(
        case.candidates, case.layers, p, threshold=threshold, review_from=threshold,
        out_of_range=never, cut=NOTHING, by_jaccard=by_jaccard,
    )  # fmt: skip


def run(case: Case, method: str, two: Judge, paper: Judge) -> tuple[Case, Verdicts]:
    if method == "moments":
        return case, by_default(case, two, False)[0]
    if method == "paper":
        case = as_published(case)
        rows = np.arange(len(case.candidates))
        return plainly(case, paper.heads["paper"].probability(paper_of(case, rows)), paper.threshold, True)
    c = case.candidates
    iou = c.overlap / (c.area_a + c.area_b - c.overlap)
    return plainly(case, iou, np.nextafter(0.25, 1), False)


def as_published(case: Case) -> Case:
    from overseg.kernels.scan import scan_array

    tables = scan_array(case.labels, 1)
    found = find_candidates(*tables, 1, rule="paper")
    return Case(case.labels, case.original, case.truth, tables[0], found, case.voxel_size)


def count(case: Case, verdicts: Verdicts) -> Counter[str]:
    """What became of splits, natural gaps and hard gaps, and how many cells were merged wrongly."""
    found: Counter[str] = Counter()
    c = case.candidates
    filled = {
        (int(a), int(z)) for a, z, what in zip(c.a, c.z, verdicts.decision, strict=True) if what == FILL
    }
    for split in case.truth.splits:
        one, two = verdicts.root(np.array([split.upper, split.lower], np.uint64))
        right = (split.upper, split.z) in filled if split.kind == "hole" else one == two
        keys = ["splits", f"splits {split.kind}", f"splits gap {split.gap}"]
        if split.gap == 1 and split.kind != "hole":
            keys.append("splits gap 1, no hole")
        for key in keys:
            found[key] += 1
            found[key.replace("splits", "right")] += int(right)
    for name, gaps in (("natural", case.truth.natural), ("hard", case.truth.hard)):
        ends = np.array([(gap.upper, gap.lower) for gap in gaps], np.uint64).reshape(-1, 2)
        found[name] += len(gaps)
        found[f"{name} kept"] += int((verdicts.root(ends[:, 0]) != verdicts.root(ends[:, 1])).sum())
    labels = np.unique(np.concatenate([verdicts.old, verdicts.new]))
    cells: dict[int, set[int]] = defaultdict(set)
    for root, true in zip(verdicts.root(labels).tolist(), case.truth.true_of(labels).tolist(), strict=True):
        cells[root].add(true)
    found["false"] += sum(len(group) - 1 for group in cells.values())
    found["cells"] += len(np.unique(case.truth.true)) - 1
    found["review"] += int((verdicts.decision == "review").sum())
    found["candidates"] += len(c)
    return found


def masks(case: Case, verdicts: Verdicts) -> dict[str, list[float]]:
    """IoU of restored masks with the true ones, all layers of a gap together, for merges that are right."""
    wanted = {
        (each.a, each.b, each.z, each.gap): each
        for each in wanted_fills(case.candidates, verdicts, case.layers)
    }
    scores: dict[str, list[float]] = defaultdict(list)
    for split in case.truth.splits:
        each = wanted.get((split.upper, split.lower, split.z, split.gap))
        if each is None:
            continue
        y0, y1, x0, x1 = each.box
        y, x = slice(max(0, y0 - 20), y1 + 20), slice(max(0, x0 - 20), x1 + 20)
        z0, z1 = max(split.z - 1, 0), min(split.z + split.gap + 3, len(case.labels))
        box = case.labels[z0:z1, y, x].astype(np.uint64)
        beyond = (z0 < split.z, z1 > split.z + split.gap + 2)
        inner = box[split.z - z0 + 1 :][: split.gap]
        taken = restore(box, each.a, each.b, own=each.own, noise=each.noise, beyond=beyond).take > 0
        taken |= np.isin(inner, each.own)
        true = case.original[split.z + 1 : split.z + split.gap + 1, y, x] == split.true
        seen = "hole visible" if split.kind in VISIBLE else "hole not visible"
        scores[f"{split.kind} ({seen})"].append(float((taken & true).sum() / (taken | true).sum()))
    return scores


def judge_all(
    samples: list[Sample], methods: tuple[str, ...], two: dict[str, Judge], paper: dict[str, Judge]
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Counts of every method on every volume, seed and kind of hole, and the IoU of restored masks."""
    rows: list[dict[str, Any]] = []
    iou: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        start = time.monotonic()
        for holes, seed in _seeds(sample):
            part = (
                {"rate": 0.0, "hard": 0.0}
                if holes == "untouched"
                else {"rate": 0.3, "hard": 0.6, "holes": holes}
            )
            case = make_case(sample.labels, sample.voxel_size, seed, **part)
            for method in methods if holes in ("exact", "untouched") else methods[:1]:
                if method == "paper" and not sample.pooled:
                    continue  # its distances take minutes and would not enter a figure
                judge, more = two[sample.tissue], Counter[str]()
                if method == "default":
                    judged, (verdicts, p) = case, by_default(case, judge, True)
                    more = foretold(case, verdicts, p, judge.off)
                else:
                    judged, verdicts = run(case, method, judge, paper[sample.tissue])
                counts = count(judged, verdicts)
                counts.update(more)
                rows.append(_row(sample, method, holes, seed, counts))
                if method == "default" and seed in FEW and sample.pooled:
                    for kind, values in masks(judged, verdicts).items():
                        iou[f"{kind}, {holes}"] += values
        print(f"{sample.name}, {time.monotonic() - start:.0f} s", flush=True)
    return rows, iou


def _seeds(sample: Sample) -> list[tuple[str, int]]:
    """Ten seeds with exact holes, few with others, fewer where nothing is pooled; and the volume as it is."""
    exact = [("exact", seed) for seed in (SEEDS if sample.pooled else FEW)]
    return [*exact, *((holes, seed) for holes in ("dilated", "jittered") for seed in FEW), ("untouched", 0)]


def main() -> None:
    """Train, judge, and write both files."""
    folder = data_folder()
    names, tissues = grouped(volumes(folder))
    two = judges(names, train_two_stages(tissues, **RECIPE), calibrate.choose_threshold)
    names, tissues = grouped(volumes(folder, MADE_UP))
    paper = judges(names, train_published(tissues, **PAPER_RECIPE), lambda *_: 0.5)
    rows, iou = judge_all(samples(folder), METHODS, two, paper)
    write(rows, iou, two)


def write(rows: list[dict[str, Any]], iou: dict[str, list[float]], two: dict[str, Judge]) -> None:
    """Both files."""
    results = {
        "seeds": len(SEEDS),
        "thresholds": {name: judge.threshold for name, judge in two.items()},
        "rows": rows,
        "iou": {kind: [round(value, 4) for value in values] for kind, values in sorted(iou.items())},
    }
    (HERE / "accuracy.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    write_tables(results, HERE / "accuracy.md")


def _row(sample: Sample, method: str, holes: str, seed: int, counts: Counter[str]) -> dict[str, Any]:
    place = {"tissue": sample.tissue, "volume": sample.name, "pooled": sample.pooled}
    return {**place, "method": method, "holes": holes, "seed": seed, "counts": dict(counts)}


if __name__ == "__main__":
    main()
