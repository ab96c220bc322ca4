"""How many candidates are called unusual, in the tissue a model learned from, in others, and in no cells.

    python -m benchmarks.unusual [DATA]

DATA is the folder of labelled volumes, by default that of the tests. Prints the rows of docs/methods.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import overseg
from benchmarks.tissues import data_folder, read
from overseg.measure import generate_tissue, train
from overseg.measure.examples import Triple
from overseg.measure.simulation import simulate_splits
from overseg.model.unusual import UNUSUAL

Labels = npt.NDArray[Any]
CUBE: Triple = (1.0, 1.0, 1.0)
OVULE: Triple = (0.235, 0.15, 0.15)
NUCLEI: Triple = (0.28, 0.127, 0.127)
SEED = 0


def learned(folder: Path) -> list[tuple[Labels, Triple]]:
    """What the model learns from: half of one tissue, and two volumes of another."""
    meristem = read(folder, "plant_meristem/meristem")[60:210, :160, :160]
    nuclei = [read(folder, f"plant_ovule_nuclei/nuclei_{n}") for n in (1135, 1136)]
    return [(np.ascontiguousarray(meristem), CUBE), *((each, NUCLEI) for each in nuclei)]


def judged(folder: Path) -> Iterator[tuple[str, Labels, Triple]]:
    """What it judges, as name, labels and voxel size; none of these was learned from."""
    meristem = read(folder, "plant_meristem/meristem")[60:210, 200:360, 200:360]
    yield "meristem, other cells", np.ascontiguousarray(meristem), CUBE
    for n in (1137, 1139, 1170):
        yield f"nuclei {n}", read(folder, f"plant_ovule_nuclei/nuclei_{n}"), NUCLEI
    yield "ovule", read(folder, "plant_ovule_crop/ovule_crop"), OVULE
    tissue = generate_tissue((64, 128, 128), 200, 9)
    yield "made-up tissue", tissue, CUBE
    yield "fly neurites", read(folder, "fly_em_tiny/test"), CUBE
    yield "mouse cortex, neurites", read(folder, "mouse_em_cortex/cortex_512")[:96, :192, :192], CUBE
    rng = np.random.default_rng(SEED)
    yield "made-up tissue, layers shuffled", tissue[rng.permutation(len(tissue))], CUBE
    yield "noise, blobs of 3 x 3 pixels", _noise(rng, 3), CUBE
    yield "noise, blobs of 12 x 12 pixels", _noise(rng, 12), CUBE


def _noise(rng: np.random.Generator, side: int) -> Labels:
    """Squares of random labels, each layer by itself, half of them background."""
    small = rng.integers(1, 400, (40, 120 // side, 120 // side)) * (
        rng.random((40, 120 // side, 120 // side)) < 0.5
    )
    return np.repeat(np.repeat(small, side, 1), side, 2).astype(np.uint32)


def shares(labels: Labels, voxel_size: Triple, model: Path) -> tuple[int, float, float, bool]:
    """Candidates, the part that is unusual, the part far outside the range, and whether a warning says so."""
    broken = simulate_splits(labels, seed=SEED, gaps=range(1, 3), rate=0.4, hard=0.6)[0]
    plan = overseg.plan(broken, model=str(model), voxel_size=voxel_size)
    unusual = plan.data.candidates["unusual"].to_numpy()
    reasons = plan.data.candidates["reason"].to_pylist()
    far = sum(reason.startswith("far outside") for reason in reasons) / max(1, len(reasons))
    return (
        len(unusual),
        float((unusual >= UNUSUAL).mean()),
        far,
        any("unlike" in line for line in plan.warnings),
    )


def main() -> None:
    folder = data_folder()
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "small.safetensors"
        volumes, sizes = zip(*learned(folder), strict=True)
        train(volumes, model, voxel_sizes=sizes, tissues=["meristem", "nuclei", "nuclei"], seed=SEED)
        sys.stdout.write(
            "| judged | candidates | unusual | to review as far outside | warning |\n|---|---|---|---|---|\n"
        )
        for name, labels, size in judged(folder):
            several, unusual, far, warned = shares(labels, size, model)
            line = f"| {name} | {several:,} | {100 * unusual:.1f} % | {100 * far:.1f} % |"
            sys.stdout.write(f"{line} {'yes' if warned else ''} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
