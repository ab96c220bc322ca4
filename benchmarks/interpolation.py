"""How well missing masks come back: interpolation.md and interpolation.json.

    python -m benchmarks.interpolation [DATA]

DATA is the folder of labelled volumes, by default that of the tests. First, layers are taken from real cells
and interpolated; then cells are broken in a known way, and their masks restored, decisions taken for right.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.tissues import NUCLEI, data_folder, read
from overseg.kernels.contours import interpolate
from overseg.kernels.distances import blend, weights
from overseg.kernels.fill import restore
from overseg.measure.simulation import simulate_splits
from overseg.measure.truth import Split

Labels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
HERE = Path(__file__).resolve().parent
GAPS = (1, 2)
LEAST_AREA = 12
SEEDS = (1000, 1001)


def volumes(folder: Path) -> Iterator[tuple[str, Labels]]:
    """Real cells: all layers, and every second or third."""
    meristem = read(folder, "plant_meristem/meristem")[:, 100:280, 100:280]
    for step, layers in ((1, slice(100, 190)), (2, slice(60, 260, 2)), (3, slice(60, 300, 3))):
        yield f"meristem, z / {step}", np.ascontiguousarray(meristem[layers])
    yield "ovule crop", read(folder, "plant_ovule_crop/ovule_crop")
    for step in (1, 2):
        for n in NUCLEI:
            volume = read(folder, f"plant_ovule_nuclei/nuclei_{n}")[::step]
            yield f"nuclei, z / {step}", np.ascontiguousarray(volume)


def layers(volume: Labels, gap: int) -> Iterator[Mask]:
    """Up to two places per cell: two layers, those of a gap, two layers."""
    rng = np.random.default_rng(0)
    for cell, box in enumerate(ndimage.find_objects(volume), 1):
        if box is None or np.count_nonzero(volume[box] == cell) > 0.2 * volume.size:
            continue
        masks = np.pad(volume[box] == cell, ((0, 0), (6, 6), (6, 6)))
        areas = masks.sum(axis=(1, 2))
        starts = [z for z in range(len(areas) - gap - 3) if areas[z : z + gap + 4].min() >= LEAST_AREA]
        for z in rng.permutation(np.array(starts, int))[:2]:
            yield masks[z : z + gap + 4]


def plain(masks: Mask, gap: int) -> Mask:
    """Both signed distances, mixed where they are."""
    four = np.stack([masks[0], masks[1], masks[-2], masks[-1]])
    field: npt.NDArray[np.int64] = blend(four, weights(gap, False, False), np.zeros((gap, 4, 2), np.int64))
    return field > 0


METHODS: dict[str, Callable[[Mask, int], Any]] = {
    "copy of the nearer layer": lambda m, gap: np.stack(
        [m[1] if 2 * k < gap + 1 else m[-2] for k in range(gap)]
    ),
    "signed distances": plain,
    "contour (CellStitch)": lambda m, gap: interpolate(m[1], m[-2], gap, "contour"),
    "signed distances, centred": lambda m, gap: interpolate(m[1], m[-2], gap),
    "distance (cubic, two layers a side)": lambda m, gap: interpolate(
        m[1], m[-2], gap, before=m[0], after=m[-1]
    ),
}


def compared(stacks: list[tuple[str, Labels]]) -> list[dict[str, Any]]:
    """IoU of every method in every volume, and milliseconds per gap."""
    rows = []
    for gap in GAPS:
        sets: dict[str, list[Mask]] = defaultdict(list)
        for name, volume in stacks:
            sets[name] += layers(volume, gap)
        for method, way in METHODS.items():
            way(next(iter(sets.values()))[0], gap)  # compiled
            for name, found in sets.items():
                start = time.perf_counter()
                made = [way(masks, gap) for masks in found]
                spent = (time.perf_counter() - start) / len(found)
                scores = [iou(one, masks[2:-2]) for one, masks in zip(made, found, strict=True)]
                rows.append(
                    {"gap": gap, "method": method, "volume": name, "n": len(found),
                     "ms": round(1e3 * spent, 3),
                     "mean": round(float(np.mean(scores)), 4), "median": round(float(np.median(scores)), 4)}
                )  # fmt: skip
    return rows


def iou(one: Mask, two: Mask) -> float:
    """Shared over together, all layers of a gap at once."""
    return float((one & two).sum() / (one | two).sum())


def restored(stacks: list[tuple[str, Labels]]) -> dict[str, list[tuple[float, float, float]]]:
    """By kind, gap, hole and method: IoU, part of it that was neighbours', seconds."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for _, volume in stacks:
        for seed in SEEDS:
            broken, truth = simulate_splits(volume, rate=0.3, hard=0.0, seed=seed)
            boxes = ndimage.find_objects(volume)
            for split in truth.splits:
                inside = broken[split.z + 1 : split.z + split.gap + 1][
                    volume[split.z + 1 : split.z + split.gap + 1] == split.true
                ]
                own, noise = _others(split, inside, truth.true_of)
                z0, z1 = max(split.z - 1, 0), min(split.z + split.gap + 3, len(volume))
                y, x = (
                    slice(max(s.start - 15, 0), min(s.stop + 15, size))
                    for s, size in zip(boxes[split.true - 1][1:], volume.shape[1:], strict=True)
                )
                box = broken[z0:z1, y, x].astype(np.uint64)
                true = volume[split.z + 1 : split.z + split.gap + 1, y, x] == split.true
                top = split.z - z0
                edges = (y.start == 0, y.stop == volume.shape[1], x.start == 0, x.stop == volume.shape[2])
                for method in ("distance", "contour"):
                    start = time.perf_counter()
                    take = restore(
                        box, split.upper, split.lower, own=own, noise=noise, method=method,  # type: ignore[arg-type]
                        beyond=(top > 0, z1 > split.z + split.gap + 2), open_edges=edges,
                    ).take  # fmt: skip
                    spent = time.perf_counter() - start
                    inner = box[top + 1 : top + 1 + split.gap]
                    got = (take > 0) | np.isin(inner, own)
                    eaten = ((take == 3) & ~true).sum() / true.sum()
                    key = f"{split.kind} | {hole(split, inner, true)} | {split.gap} | {method}"
                    found[key].append((iou(got, true), float(eaten), spent))
    return found


def _others(split: Split, inside: Labels, true_of: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Labels of the cell in the gap that stay, and that are absorbed."""
    labels = np.unique(inside[inside > 0]).astype(np.uint64)
    mine = tuple(labels[true_of(labels) == split.true].tolist()) if len(labels) else ()
    return ((), mine) if split.kind == "noise" else (mine, ())


def hole(split: Split, inner: Labels, true: Mask) -> str:
    """Whether other cells bound what is free: all round it, partly, or not at all."""
    if split.kind in ("swallowed", "shared"):
        return "not visible"
    ring = ndimage.binary_dilation(true, np.ones((1, 3, 3), bool)) & ~true
    share = np.count_nonzero(inner[ring] > 0) / max(np.count_nonzero(ring), 1)
    return "visible" if share == 1 else "partly visible" if share > 0.25 else "not visible"


AIMS = {"visible": "0.97", "partly visible": "–", "not visible": "0.90"}


def write(rows: list[dict[str, Any]], found: dict[str, list[tuple[float, float, float]]]) -> None:
    """Both files."""
    text = [HEAD]
    names = list(dict.fromkeys(row["volume"] for row in rows))
    for gap in GAPS:
        some = {(row["method"], row["volume"]): row for row in rows if row["gap"] == gap}
        head = " | ".join(f"{name} ({some[next(iter(METHODS)), name]['n']})" for name in names)
        text += [f"## Gaps of {gap}, IoU mean / median\n", f"| method | {head} | ms per gap |"]
        text.append("|---" * (len(names) + 2) + "|")
        for method in METHODS:
            here = [some[method, name] for name in names]
            ms = sum(row["ms"] * row["n"] for row in here) / sum(row["n"] for row in here)
            cells = " | ".join(f"{row['mean']:.3f} / {row['median']:.3f}" for row in here)
            text.append(f"| {method} | {cells} | {ms:.2f} |")
        text.append("")
    text += [RESTORED, "| kind | hole | gap | interpolation | masks | mean IoU | median | aim (mean) |"
             " neighbours' voxels taken | ms |", "|---" * 10 + "|"]  # fmt: skip
    for key, values in sorted(found.items()):
        scores, eaten, seconds = np.array(values).T
        aim = AIMS[key.split(" | ")[1]]
        text.append(
            f"| {key} | {len(scores)} | {scores.mean():.3f} | {np.median(scores):.3f} | {aim} | "
            f"{eaten.mean():.3f} | {1e3 * np.median(seconds):.2f} |"
        )
    (HERE / "interpolation.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    lists = {key: [round(score, 4) for score, _, _ in values] for key, values in sorted(found.items())}
    (HERE / "interpolation.json").write_text(
        json.dumps({"compared": rows, "restored": lists}) + "\n", encoding="utf-8"
    )


HEAD = """# Interpolation of missing masks

Made by `python -m benchmarks.interpolation`. Layers are taken from real cells of which at least two layers
are left on either side, up to two places per cell; in brackets the number of gaps. Other cells are not looked
at: this is what a mask is worth where no hole is visible.
"""
RESTORED = """## Restored masks

Cells broken in a known way (two seeds, exact holes), every decision taken for right; both interpolations with
the same rules for what may be taken. A hole is visible where other cells touch it all round, partly where
they are at more than a quarter of it. Voxels taken from neighbours that were theirs are in parts of the mask.
"""


def main() -> None:
    """Measure and write both files."""
    stacks = list(volumes(data_folder()))
    write(compared(stacks), restored(stacks))


if __name__ == "__main__":
    main()
