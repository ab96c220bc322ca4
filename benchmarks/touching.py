"""How well touching splits are joined, on tissue that the model has not seen: touching.json and touching.md.

    python -m benchmarks.touching [DATA]

Every tissue is left out once: models are trained on the others and on made-up tissue, and judged on rugged
cuts made in the one left out, with ten fixed seeds.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import neurites
from benchmarks.accuracy import Judge, Sample, judges
from benchmarks.tissues import NUCLEI, TILTED_RECIPE, data_folder, grouped, read, touching_volumes
from benchmarks.touching_tables import write_tables
from overseg.measure import calibrate, generate_tissue
from overseg.measure.joining import (
    Contacts,
    across_of,
    cut_and_look,
    seen_across,
    touching_of,
    train_touching,
)
from overseg.model import Head, load
from overseg.model.across import with_penalty
from overseg.model.touching import edges_of
from overseg.pipeline.decide import Guard, Verdicts, volume_limit
from overseg.pipeline.join import join
from overseg.pipeline.tilted import rescored
from overseg.pipeline.touching import least_of, pairs_of

HERE = Path(__file__).resolve().parent
SEEDS = range(2000, 2010)
FEW = range(2000, 2003)
#: Seeds of the published recipe: its distances take minutes.
ONE = range(2000, 2001)
NOTHING = np.zeros(0, np.uint64)
#: The published recipe's penalties and modes.
PUBLISHED = tuple((penalty, mode) for mode in ("minmax", "q1q3") for penalty in (1.1, 1.3, 1.5))


def samples(folder: Path) -> list[Sample]:
    """What models are judged on; every second and fourth layer alone stand for anisotropic volumes."""
    one, fine, small = (1.0, 1.0, 1.0), (0.235, 0.15, 0.15), (0.28, 0.127, 0.127)
    meristem = np.ascontiguousarray(read(folder, "plant_meristem/meristem")[100:220, 100:300, 100:300])
    ovule = read(folder, "plant_ovule_crop/ovule_crop")
    made = generate_tissue((96, 112, 112), 200, 29, "packed")
    found = [
        Sample("meristem", f"meristem, z / {k}", True, meristem[::k], (float(k), 1.0, 1.0)) for k in (1, 2, 4)
    ]
    found += [
        Sample("ovule", f"ovule crop, z / {k}", True, ovule[::k], (0.235 * k, *fine[1:])) for k in (1, 2)
    ]
    for n in NUCLEI:
        found.append(Sample("nuclei", "nuclei", False, read(folder, f"plant_ovule_nuclei/nuclei_{n}"), small))
    found += [
        Sample("generated", f"made-up tissue, z / {k}", False, made[::k], (float(k), *one[1:]))
        for k in (1, 2, 4)
    ]
    return found


def by_default(case: Contacts, judge: Judge, second: bool = True) -> tuple[Verdicts, int]:
    """Decisions of the shipped method, and how many pairs needed voxels."""
    first = judge.heads["touching"]
    tables = touching_of(case, np.arange(len(case.pairs)))
    p, strange = first.probability(tables), first.out_of_range(tables)
    unsure = np.flatnonzero((p > first.sure_low) & (p < first.sure_high))
    if len(unsure) and second:
        values = across_of(case, unsure)
        p[unsure] = judge.heads["across"].probability(values)
        strange[unsure] = judge.heads["across"].out_of_range(values)
    review = min(calibrate.REVIEW_FROM, judge.threshold)
    least = least_of(case.pairs, case.around.solids, tables, case.box)
    return _joined(case, p, strange, judge.threshold, review, (first, least)), len(unsure)


def _joined(
    case: Contacts, p: Any, strange: Any, threshold: float, review: float, ours: tuple[Head, Any] | None
) -> Verdicts:
    """What becomes of the pairs; `ours`: the first stage and what it asks at the border, with the guard."""
    solids, guard = case.around.solids, Guard()
    least = np.zeros(len(p)) if ours is None else ours[1]
    return join(
        pairs_of(case.pairs, solids, p, strange, least, np.full(len(p), np.nan)),
        threshold=threshold,
        review_from=review,
        cut=NOTHING,
        gone=NOTHING,
        guard=None if ours is None else guard,
        limit=None if ours is None else volume_limit(solids.n, guard),
        voxels=lambda labels: solids.n[solids.index(labels)],
        rescore=None
        if ours is None
        else lambda one, two: rescored(case.around, ours[0], one, two, case.voxel_size, case.box),
    )


def as_published(case: Contacts, head: Head) -> dict[str, Verdicts]:
    """Decisions of the published recipe, for each penalty and mode."""
    values = seen_across(case, np.arange(len(case.pairs)), "paper")
    known = np.isfinite(values).all(axis=1)
    found, never = {}, np.zeros(len(values), bool)
    for penalty, mode in PUBLISHED:
        p = np.zeros(len(values))
        p[known] = head.probability(with_penalty(values[known], head.scale, penalty, mode))  # type: ignore[arg-type]
        found[f"paper, p = {penalty}, {mode}"] = _joined(case, p, never, 0.5, 0.5, None)
    return found


def count(case: Contacts, verdicts: Verdicts) -> Counter[str]:
    """What became of the cuts, by tilt and roughness, and how many merges were right and wrong."""
    found: Counter[str] = Counter()
    groups = verdicts.groups
    solids = case.around.solids
    border = set(solids.label[edges_of(solids, case.box) > 0].tolist())
    for cut in case.cuts:
        one, two = groups.root(np.array([cut.kept, cut.new], np.uint64))
        tilt = (
            "flat"
            if cut.flat
            else f"{15 * min(int(cut.tilt // 15), 5)} to {15 * min(int(cut.tilt // 15), 5) + 15}"
        )
        keys = ["cuts", f"cuts tilt {tilt}"]
        keys += [] if {cut.kept, cut.new} <= border else ["cuts within"]
        keys += [] if cut.flat else [f"cuts rough {cut.roughness:g}"]
        for key in keys:
            found[key] += 1
            found[key.replace("cuts", "joined")] += int(one == two)
    labels = np.unique(np.concatenate([verdicts.old, verdicts.new]))
    cells: dict[int, list[int]] = defaultdict(list)
    for root, true in zip(groups.root(labels).tolist(), case.true_of(labels).tolist(), strict=True):
        cells[root].append(true)
    found["right"] = sum(len(group) - len(set(group)) for group in cells.values())
    found["wrong"] = sum(len(set(group)) - 1 for group in cells.values())
    found["cells"] = case.cells
    found["candidates"] = len(case.pairs)
    found["filtered"] = int((verdicts.decision != "merge").sum())
    found["review"] = int((verdicts.decision == "review").sum())
    return found


def judge_all(found: list[Sample], two: dict[str, Judge], published: Head | None) -> list[dict[str, Any]]:
    """Counts of every method on every volume and seed."""
    rows: list[dict[str, Any]] = []
    for sample in found:
        start = time.monotonic()
        for seed in (*(SEEDS if sample.pooled else FEW), None):
            rate = 0.0 if seed is None else 0.3
            case = cut_and_look(sample.labels, sample.voxel_size, seed or 0, rate=rate)
            verdicts, closer = by_default(case, two[sample.tissue])
            counts = count(case, verdicts)
            counts["closer"] = closer
            done = {"default": counts}
            done["first stage alone"] = count(case, by_default(case, two[sample.tissue], False)[0])
            if published is not None and sample.pooled and seed in ONE:
                done |= {name: count(case, each) for name, each in as_published(case, published).items()}
            for method, each in done.items():
                place = {"tissue": sample.tissue, "volume": sample.name, "pooled": sample.pooled}
                rows.append({**place, "method": method, "seed": seed, "counts": dict(each)})
        print(f"{sample.name}, {time.monotonic() - start:.0f} s", flush=True)
    return rows


def main() -> None:
    """Train, judge, and write both files."""
    folder = data_folder()
    names, tissues = grouped(touching_volumes(folder))
    two = judges(names, train_touching(tissues, **TILTED_RECIPE), calibrate.touching_threshold)
    rows = judge_all(samples(folder), two, load("paper").heads["paper"])
    results = {
        "seeds": len(SEEDS),
        "thresholds": {name: judge.threshold for name, judge in two.items()},
        "rows": rows,
        "neurites": neurites.crossed(folder),
    }
    (HERE / "touching.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    write_tables(results, HERE / "touching.md")


if __name__ == "__main__":
    main()
