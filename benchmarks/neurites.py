"""Real oversegmentations: how many touching fragments of fly neurites are joined, rightly and wrongly.

Watershed fragments of electron micrographs with the truth beside them. Nobody cut these: where fragments end,
a machine saw a border. A fragment belongs to the neurite that most of its voxels lie in, and a pair of
fragments that touch should be joined where both belong to one.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import overseg
from benchmarks.tables import wilson
from benchmarks.tissues import data_folder, read
from overseg.kernels.bodies import Neighbours, corners_of, patches
from overseg.kernels.solids import touch_array
from overseg.kernels.touch import TouchScanner
from overseg.measure import calibrate, evaluate
from overseg.measure.evaluation import contingency, most
from overseg.measure.examples import Examples
from overseg.measure.joining import Contacts, seen_across, touching_of
from overseg.measure.training import fit_left_out
from overseg.model.across import ACROSS
from overseg.model.mlp import save
from overseg.model.touching import TOUCHING
from overseg.pipeline.graph import candidates_among

VOLUMES = ("fly_em_medulla/medulla_250", "fly_em_tiny/train", "fly_em_tiny/test")
#: Isotropic; the unit does not matter.
VOXEL_SIZE = (1.0, 1.0, 1.0)

Labels = npt.NDArray[Any]
Row = dict[str, Any]
#: Corrects fragments with a model.
Correct = Callable[[Labels, Any], Labels]


def corrected(fragments: Labels, model: Any) -> Labels:
    """Fragments as overseg joins those that touch.

    Parameters
    ----------
    fragments : ndarray of int, shape (z, y, x)
    model : str
        A shipped model's name or a model file.

    Returns
    -------
    ndarray of int, shape (z, y, x)
    """
    labels: Labels = overseg.correct(fragments, kind="tilted", voxel_size=VOXEL_SIZE, model=str(model))[0]
    return labels


def rows(
    model_by_volume: Mapping[str, Any], folder: Path | None = None, correct: Correct = corrected
) -> list[Row]:
    """Correct the volumes, and judge what became of them.

    Parameters
    ----------
    model_by_volume : mapping of str to model
        For each of the volumes wanted, by its name in `VOLUMES`, a model that has not seen it.
    folder : Path, optional
        The labelled volumes; by default those of the tests.
    correct : callable
        Gives the corrected fragments, for the fragments and a model.

    Returns
    -------
    list of dict
        ``volume``, then as `judged`.
    """
    folder = folder or data_folder()
    found = []
    for name, model in model_by_volume.items():
        fragments, truth = read(folder, name, "overseg"), read(folder, name)
        found.append({"volume": name} | judged(fragments, correct(fragments, model), truth))
    return found


def learned(names: Sequence[str], out: Path, folder: Path | None = None) -> Path:
    """A model of real oversegmentations: of the fragments that touch, which belong to one neurite.

    Every volume's left and right halves are left out once: what is said of them gives the threshold.

    Parameters
    ----------
    names : sequence of str
        Of `VOLUMES`.
    out : Path
        ``NAME.safetensors``.
    folder : Path, optional
        The labelled volumes; by default those of the tests.

    Returns
    -------
    Path
        `out`.
    """
    folder = folder or data_folder()
    cases = [fragments_of(read(folder, name, "overseg"), read(folder, name)) for name in names]
    values = [touching_of(case, np.arange(len(case.pairs))) for case, _ in cases]
    sides = [
        2 * i + (patches(case.pairs, corners_of(case.around.solids, case.pairs.a), VOXEL_SIZE).mean[:, 2]
                 > case.broken.shape[2] / 2)
        for i, (case, _) in enumerate(cases)
    ]  # fmt: skip
    same, group = np.concatenate([each for _, each in cases]), np.concatenate(sides).astype(np.int64)
    cells = np.ones(group.max() + 1, np.int64)
    number = np.arange(len(same)) // 32
    examples = Examples(np.concatenate(values), same, np.ones(len(same), bool), group, number, cells)
    head, folds, unseen = fit_left_out(examples, TOUCHING, seed=0, epochs=20)
    closer = [np.concatenate([v, seen_across(case, np.arange(len(v)), "tilted")], axis=1)
              for v, (case, _) in zip(values, cases, strict=True)]  # fmt: skip
    whole = Examples(np.concatenate(closer), same, examples.natural, group, number, cells)
    second, _, unseen = fit_left_out(whole, TOUCHING + ACROSS, seed=0, epochs=30, starts=(head, *folds))
    threshold = calibrate.touching_threshold(unseen, whole)
    # Fragments that the first stage is sure of are none: all are looked at.
    heads = {"touching": replace(head, sure_low=0.0, sure_high=1.0), "across": second}
    card = {"threshold": threshold, "review_from": min(calibrate.REVIEW_FROM, threshold)}
    save(out, heads, card)
    return out


def fragments_of(fragments: Labels, truth: Labels) -> tuple[Contacts, npt.NDArray[np.bool_]]:
    """Touching fragments as training takes them, and which pairs are of one neurite."""
    solids, touches = touch_array(fragments)
    neurite = most(contingency(fragments, truth))
    pairs = touches.take(candidates_among(touches, solids, VOXEL_SIZE))
    ends = [np.array([neurite[label] for label in side.tolist()]) for side in (pairs.a, pairs.b)]
    known = (ends[0] > 0) & (ends[1] > 0)
    case = Contacts(fragments, (), len(solids), Neighbours.of(solids, touches), pairs.take(known), VOXEL_SIZE)
    return case, np.asarray(ends[0] == ends[1])[known]


def crossed(folder: Path | None = None) -> list[Row]:
    """Train on one volume, test on the other, both ways."""
    medulla, *tiny = VOLUMES
    with tempfile.TemporaryDirectory() as scratch:
        of_tiny = learned(tiny, Path(scratch) / "tiny.safetensors", folder)
        of_medulla = learned([medulla], Path(scratch) / "medulla.safetensors", folder)
        return rows({medulla: of_tiny, **dict.fromkeys(tiny, of_medulla)}, folder)


def judged(fragments: Labels, result: Labels, truth: Labels) -> Row:
    """What became of touching fragments.

    Parameters
    ----------
    fragments, result, truth : ndarray of int, shape (z, y, x)
        Labels before and after, and the neurites; 0 is background.

    Returns
    -------
    dict
        ``fragments``; of touching pairs of known neurites ``pairs``, those of one neurite ``same``, those
        that carry one label now ``joined``, and ``right``, which are both; their ``precision`` and
        ``recall``, NaN where there is nothing to count; and variation of information against the truth in
        bits, ``before`` and ``after``, each ``(split, merge, sum)``.
    """
    neurite, now = most(contingency(fragments, truth)), most(contingency(fragments, result))
    n: Counter[str] = Counter()
    for a, b in touching(fragments):
        if not neurite[a] or not neurite[b]:
            continue
        same, joined = neurite[a] == neurite[b], now[a] == now[b] != 0
        n.update(pairs=1, same=same, joined=joined, right=same and joined)
    counts = {name: n[name] for name in ("pairs", "same", "joined", "right")}
    shares = {"precision": _share(n["right"], n["joined"]), "recall": _share(n["right"], n["same"])}
    entropies = {"before": _entropies(fragments, truth), "after": _entropies(result, truth)}
    return {"fragments": len(neurite), **counts, **shares, **entropies}


def touching(labels: Labels) -> Iterator[tuple[int, int]]:
    """Pairs of labels a < b that share a voxel face; 0 is background."""
    scanner = TouchScanner()
    scanner.add(np.ascontiguousarray(labels), 0, (0, 0, 0))
    contacts, _ = scanner.tables()
    return zip(contacts["a"].tolist(), contacts["b"].tolist(), strict=True)


def table(rows: list[Row]) -> list[str]:
    """Rows of `rows` as Markdown, with 95% intervals, and a last one of all pairs where there are several."""
    head = "volume | fragments | touching pairs of one neurite | precision | recall"
    cells = head.split(" | ") + [f"VOI {what}" for what in ("split", "merge", "sum")]
    lines = ["| " + " | ".join(cells) + " |", "|---" * len(cells) + "|"]
    for row in rows:
        changes = (f"{b:.3f} → {a:.3f}" for b, a in zip(row["before"], row["after"], strict=True))
        lines.append(f"| {row['volume']} | {_counts(row)} | {' | '.join(changes)} |")
    if len(rows) > 1:
        names = ("fragments", "pairs", "same", "joined", "right")
        total = {name: sum(row[name] for row in rows) for name in names}
        lines.append(f"| all | {_counts(total)} | – | – | – |")
    return lines


def _counts(row: Row) -> str:
    shares = wilson(row["right"], row["joined"]), wilson(row["right"], row["same"])
    return f"{row['fragments']} | {row['same']} of {row['pairs']} | {shares[0]} | {shares[1]}"


def _share(part: int, total: int) -> float:
    return part / total if total else float("nan")


def _entropies(labels: Labels, truth: Labels) -> tuple[float, float, float]:
    found = evaluate(labels, truth)
    return found.voi_split, found.voi_merge, found.voi_split + found.voi_merge
