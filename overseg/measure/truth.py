"""What a simulation did to a volume, and its place on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError

Labels = npt.NDArray[np.uint64]
VERSION = 1


@dataclass(frozen=True)
class Split:
    """One cell that was broken.

    Attributes
    ----------
    true : int
        The cell's label before.
    upper, lower : int
        Its labels above and below the gap now; equal when the kind is ``hole``.
    z, gap : int
        Last whole layer above the gap, and the number of layers that were broken.
    kind : str
        What was done in the gap layers, one of `overseg.measure.simulation.KINDS`.
    """

    true: int
    upper: int
    lower: int
    z: int
    gap: int
    kind: str


@dataclass(frozen=True)
class Gap:
    """Two different cells that face each other: not to be merged.

    Attributes
    ----------
    upper, lower : int
        Labels in the broken volume.
    z, gap : int
        Layer of the upper face, and layers between the faces.
    """

    upper: int
    lower: int
    z: int
    gap: int


@dataclass(frozen=True)
class Cut:
    """One cut through a cell, whose parts touch. A cell in three pieces has two, one after the other.

    Attributes
    ----------
    true : int
        The cell's label before.
    kept, new : int
        Labels of the two parts now. The cut went through `kept`; the part behind it, further along the
        plane's normal and so with greater z, became `new`.
    tilt : float
        Degrees between the plane's normal and z, in physical space, 0 .. 90.
    roughness : float
        Height of the plane's waves, in the equivalent radius of what was cut.
    flat : bool
        Whether the cut goes exactly between two layers.
    """

    true: int
    kept: int
    new: int
    tilt: float
    roughness: float
    flat: bool


@dataclass(frozen=True)
class Truth:
    """Everything needed to judge a correction of a volume with known splits.

    Attributes
    ----------
    label : ndarray of uint64, shape (n,)
        Every label of the broken volume, sorted.
    true : ndarray of uint64, shape (n,)
        The cell each of them belongs to.
    splits : tuple of Split
        The cells that were broken.
    natural : tuple of Gap
        Pairs of different cells that were candidates before anything was broken.
    hard : tuple of Gap
        Pairs of different, touching cells between which layers were blanked.
    seed : int
        Seed of the simulation.
    cuts : tuple of Cut
        Cuts whose parts touch, in the order in which they were made.
    """

    label: Labels
    true: Labels
    splits: tuple[Split, ...]
    natural: tuple[Gap, ...]
    hard: tuple[Gap, ...]
    seed: int
    cuts: tuple[Cut, ...] = ()

    def true_of(self, labels: npt.ArrayLike) -> Labels:
        """True cells of labels of the broken volume.

        Parameters
        ----------
        labels : array_like of int
            Labels of the broken volume.

        Returns
        -------
        ndarray of uint64
            The cell each belongs to; a label that is not in the volume is its own.
        """
        wanted = np.asarray(labels, np.uint64)
        if not len(self.label):
            return wanted
        at = np.minimum(np.searchsorted(self.label, wanted), len(self.label) - 1)
        return np.where(self.label[at] == wanted, self.true[at], wanted)


def write_truth(truth: Truth, folder: str | Path) -> Path:
    """Write a truth as one JSON and one Parquet file.

    Parameters
    ----------
    truth : Truth
        What was done.
    folder : str or Path
        Where; made if missing.

    Returns
    -------
    Path
        The folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"label": truth.label, "true": truth.true}), folder / "labels.parquet")
    content = {
        "version": VERSION,
        "seed": truth.seed,
        "splits": [asdict(split) for split in truth.splits],
        "natural": [asdict(gap) for gap in truth.natural],
        "hard": [asdict(gap) for gap in truth.hard],
        "cuts": [asdict(cut) for cut in truth.cuts],
    }
    (folder / "truth.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def read_truth(folder: str | Path) -> Truth:
    """Read what `write_truth` wrote.

    Parameters
    ----------
    folder : str or Path
        A folder ``NAME.truth``.

    Returns
    -------
    Truth

    Raises
    ------
    InputError
        If the folder holds no truth, a damaged one, or one of a newer version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    remedy = "give the folder NAME.truth that `overseg simulate` wrote beside its output"
    try:
        content: dict[str, Any] = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        if content["version"] > VERSION:
            raise InputError(
                "the truth was written by a newer overseg", where=str(folder), remedy="update overseg"
            )
        table = pq.read_table(folder / "labels.parquet")
        return Truth(
            label=table["label"].to_numpy().astype(np.uint64),
            true=table["true"].to_numpy().astype(np.uint64),
            splits=tuple(Split(**row) for row in content["splits"]),
            natural=tuple(Gap(**row) for row in content["natural"]),
            hard=tuple(Gap(**row) for row in content["hard"]),
            seed=int(content["seed"]),
            cuts=tuple(Cut(**row) for row in content.get("cuts", ())),
        )
    except FileNotFoundError:
        raise InputError("there is no truth table here", where=str(folder), remedy=remedy) from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise InputError(f"the truth table is damaged: {error}", where=str(folder), remedy=remedy) from None
