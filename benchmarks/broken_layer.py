"""A layer broken for every cell at once: how much of it comes back.

    python -m benchmarks.broken_layer [DATA]

DATA is the folder of labelled volumes, by default that of the tests. Writes the table of
broken_layer.md, and broken_layer.png.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.io import imsave

import overseg
from benchmarks.tissues import data_folder
from overseg.measure.simulation import simulate_splits
from overseg.measure.truth import Truth

Labels = npt.NDArray[Any]
HERE = Path(__file__).parent
PATCH_LAYER = 31
#: A row of the patch that the picture is cut at.
SECTION = 100


@dataclass(frozen=True)
class Row:
    """What became of one volume's broken layers, and its merges right and wrong where the truth is known."""

    name: str
    counts: tuple[int, int, int, int]
    agree: tuple[float, float]
    reviews: int
    merges: str


def skipping(labels: Labels, z: int) -> list[int]:
    """Cells of layers z - 1 and z + 1 that are not in layer z."""
    around = np.intersect1d(labels[z - 1], labels[z + 1])
    return [int(cell) for cell in np.setdiff1d(around, labels[z]) if cell]


def continuous(labels: Labels, z: int) -> int:
    """Labels, 0 apart, in layer z and on both sides of it."""
    around = np.intersect1d(labels[z - 1], labels[z + 1])
    return int(np.count_nonzero(np.intersect1d(around, labels[z])))


def agreement(labels: Labels, z: int) -> float:
    """Of the voxels of a layer with a cell above and below, the part that has the label of one of the two."""
    above, layer, below = labels[z - 1], labels[z], labels[z + 1]
    inside = (above != 0) & (below != 0)
    return float(((layer == above) | (layer == below))[inside].mean())


def judge(name: str, before: Labels, layers: list[int], truth: Truth | None = None) -> tuple[Row, Labels]:
    """Plan and correct one volume; in the row of its own name, label 1 of the patch is background too."""
    after, plan = overseg.correct(before, background=(0, 1) if name.endswith("background 0 1") else (0,))
    decisions = plan.candidates["decision"].to_pylist()
    merges = "unknown"
    if truth is not None:
        rows = plan.candidates.to_pydict()
        pairs = [
            pair
            for *pair, decision in zip(rows["a"], rows["b"], rows["decision"], strict=True)
            if decision == "merge"
        ]
        one, two = (truth.true_of(np.array([p[i] for p in pairs], np.uint64)) for i in (0, 1))
        known = {(split.upper, split.lower) for split in truth.splits}
        joined = sum((a, b) in known for a, b in pairs)
        merges = f"{joined} of {len(truth.splits)} splits, {int((one != two).sum())} wrong"
    named = (before, after) if truth is None else (truth.true_of(before), truth.true_of(after))
    skipped = [(z, skipping(named[0], z)) for z in layers]
    counts = (
        sum(len(cells) for _, cells in skipped),
        sum(int(np.isin(cells, named[1][z]).sum()) for z, cells in skipped),
        sum(continuous(before, z) for z in layers),
        sum(continuous(after, z) for z in layers),
    )
    agree = tuple(float(np.mean([agreement(each, z) for z in layers])) for each in (before, after))
    row = Row(name, counts, (agree[0], agree[1]), decisions.count("review"), merges)
    return row, after


def volumes(folder: Path) -> list[tuple[str, Labels, list[int], Truth | None]]:
    """The patch as it is, and layers that were blanked in cells that are known."""
    found: list[tuple[str, Labels, list[int], Truth | None]] = []
    with np.load(folder / "plant_membrane_patch/patch.npz") as patch:
        for name in ("labels", "labels_big"):
            found.append((f"patch, `{name}`", patch[name], [PATCH_LAYER], None))
        found.append(("patch, `labels_big`, background 0 1", patch["labels_big"], [PATCH_LAYER], None))
    for name, path, crop in (
        ("meristem, made", "plant_meristem/meristem", np.s_[100:200, 100:300, 100:300]),
        ("nuclei 1135, made", "plant_ovule_nuclei/nuclei_1135", np.s_[:]),
    ):
        with np.load(folder / f"{path}.npz") as stored:
            whole = np.ascontiguousarray(stored["labels"][crop])
        broken, truth = simulate_splits(whole, layers=2, rate=0, hard=0)
        blank = sorted({split.z + 1 for split in truth.splits})
        found.append((name, broken, blank, truth))
    return found


def picture(volumes: list[Labels]) -> npt.NDArray[np.uint8]:
    """Sections (x across, z down) below each other, each label in a colour of its own, enlarged twice."""
    colours = np.random.default_rng(5).integers(60, 256, (65536, 3)).astype(np.uint8)
    colours[0] = 0
    sections = [colours[labels[:, SECTION].astype(np.int64) % 65536] for labels in volumes]
    line = np.full((3, sections[0].shape[1], 3), 255, np.uint8)
    stacked = np.concatenate([part for section in sections for part in (section, line)][:-1])
    return stacked.repeat(3, 0).repeat(3, 1)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    heads = (
        "volume",
        "cells that skip a layer",
        "of these in it after",
        "cells with one label throughout, before",
        "after",
        "voxels that agree, before",
        "after",
        "reviews",
        "merges, by truth",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        counts = " | ".join(map(str, row.counts))
        agree = " | ".join(f"{100 * part:.1f} %" for part in row.agree)
        lines.append(f"| {row.name} | {counts} | {agree} | {row.reviews} | {row.merges} |")
    return "\n".join(lines)


def main() -> None:
    """Write the page and the picture."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else data_folder()
    rows, seen = [], []
    for name, before, layers, truth in volumes(folder):
        row, after = judge(name, before, layers, truth)
        rows.append(row)
        if truth is None:
            seen += [after] if "background" in name else [before, after]
    imsave(HERE / "broken_layer.png", picture(seen), check_contrast=False)
    page = HERE / "broken_layer.md"
    head = page.read_text().split("<!-- table -->")[0] if page.exists() else ""
    page.write_text(f"{head}<!-- table -->\n{table(rows)}\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
