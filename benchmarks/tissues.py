"""What the shipped models learn from, and how they are made: overseg/model/weights.

    python -m benchmarks.tissues [DATA [MODEL ...]]

DATA is the folder of labelled volumes, by default that of the tests; all models are made where none is named.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.measure import generate_tissue, train
from overseg.measure.examples import Triple
from overseg.measure.tissue import Style

WEIGHTS = Path(__file__).resolve().parents[1] / "overseg" / "model" / "weights"
MADE_UP: tuple[tuple[str, Style, int], ...] = (
    ("generated", "mixed", 1),
    ("generated", "mixed", 2),
    ("columns", "columns", 3),
    ("columns", "columns", 4),
)
#: For gaps there are more shapes.
MORE_SHAPES: tuple[tuple[str, Style, int], ...] = (
    ("palisade", "palisade", 21),
    ("palisade", "palisade", 22),
    ("dividing", "dividing", 21),
    ("dividing", "dividing", 22),
    ("sheets", "sheets", 21),
    ("sheets", "sheets", 22),
)
MADE = ("made up", "BSD-3-Clause")
NUCLEI = (1135, 1136, 1137, 1139, 1170)
RECIPE: dict[str, Any] = {"seed": 0, "repeats": 3, "max_gap": 3, "epochs": 20}
PAPER_RECIPE = {**RECIPE, "repeats": 1}
TILTED_RECIPE: dict[str, Any] = {"seed": 0, "repeats": 3, "epochs": 20}
#: Made-up tissue of other sizes of cells, for contacts: as name, style, cells and seed.
MORE_MADE_UP: tuple[tuple[str, Style, int, int], ...] = (
    ("generated", "packed", 200, 11),
    ("generated", "packed", 60, 12),
    ("columns", "columns", 60, 13),
    ("generated", "packed", 110, 14),
    ("generated", "mixed", 60, 15),
)


@dataclass(frozen=True)
class Stack:
    """A labelled volume, where it comes from, and under which licence."""

    tissue: str
    labels: npt.NDArray[Any]
    voxel_size: Triple
    source: str
    licence: str


def data_folder() -> Path:
    """The folder given on the command line, in OVERSEG_DATA, or beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OVERSEG_DATA", beside))


def read(folder: Path, name: str, key: str = "labels") -> npt.NDArray[Any]:
    """One array of the volumes."""
    with np.load(folder / f"{name}.npz") as archive:
        labels: npt.NDArray[Any] = archive[key]
    return labels


def volumes(folder: Path, made_up: tuple[tuple[str, Style, int], ...] = MADE_UP + MORE_SHAPES) -> list[Stack]:
    """The volumes that models learn from."""
    one = (1.0, 1.0, 1.0)
    meristem = read(folder, "plant_meristem/meristem")
    crops = (meristem[60:210, :160, :160], meristem[60:210, 200:360, 200:360])
    where = "VirtualPlants/draco_stem, cgal_meshing/tmp/8bit_image.inr.gz"
    return [
        *(Stack("meristem", np.ascontiguousarray(crop), one, where, "CeCILL-C") for crop in crops),
        Stack(
            "ovule",
            read(folder, "plant_ovule_crop/ovule_crop"),
            (0.235, 0.15, 0.15),
            "kreshuklab/plant-seg, tests/resources/sample_ovule.h5",
            "MIT",
        ),
        *(
            Stack(
                "nuclei",
                read(folder, f"plant_ovule_nuclei/nuclei_{n}"),
                (0.28, 0.127, 0.127),
                f"kreshuklab/go-nuclear, stardist/tests/data/{n}_mini.h5",
                "MIT",
            )
            for n in NUCLEI
        ),
        *(
            Stack(name, generate_tissue((64, 96, 96), 110, seed, style), one, "made up", "BSD-3-Clause")
            for name, style, seed in made_up
        ),
    ]


def touching_volumes(folder: Path) -> list[Stack]:
    """The volumes that models of touching labels learn from: these, and more."""
    found = volumes(folder, MADE_UP)
    third = np.ascontiguousarray(read(folder, "plant_meristem/meristem")[60:210, :160, 200:360])
    first = found[0]
    return [
        *found,
        Stack(first.tissue, third, first.voxel_size, first.source, first.licence),
        *(
            Stack(
                name,
                generate_tissue((64, 96, 96), n, seed, style),
                (1.0, 1.0, 1.0),
                "made up",
                "BSD-3-Clause",
            )
            for name, style, n, seed in MORE_MADE_UP
        ),
    ]


def grouped(stacks: list[Stack]) -> tuple[list[str], list[list[tuple[npt.NDArray[Any], Triple]]]]:
    """Names of the tissues, and the volumes of each."""
    names = list(dict.fromkeys(stack.tissue for stack in stacks))
    return names, [[(s.labels, s.voxel_size) for s in stacks if s.tissue == name] for name in names]


def main() -> None:
    """Train the shipped models; the same machine and torch give the same weights."""
    folder = data_folder()
    recipes: tuple[tuple[str, list[Stack], dict[str, Any]], ...] = (
        ("default", volumes(folder), RECIPE),
        ("paper", volumes(folder, MADE_UP), {**PAPER_RECIPE, "preset": "paper"}),
        ("default-tilted", touching_volumes(folder), {**TILTED_RECIPE, "kind": "tilted"}),
    )
    wanted = sys.argv[2:]
    for name, stacks, recipe in recipes:
        if wanted and name not in wanted:
            continue
        model = train(
            [stack.labels for stack in stacks],
            WEIGHTS / f"{name}.safetensors",
            voxel_sizes=[stack.voxel_size for stack in stacks],
            tissues=[stack.tissue for stack in stacks],
            sources=[stack.source for stack in stacks],
            licences=[stack.licence for stack in stacks],
            **recipe,
        )
        print(name, model.threshold, model.digest)


if __name__ == "__main__":
    main()
