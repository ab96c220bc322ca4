"""A model from labelled volumes: break them in known ways, and learn which candidates are one cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure import calibrate
from overseg.measure.examples import Case, Examples, Triple, cases, collect
from overseg.measure.source import open_source
from overseg.model.features import FULL, MOMENTS, PAPER, PAPER_CLASSES, moments_features
from overseg.model.mlp import Float, Head, Model, save
from overseg.model.usual import CELLS, usual_of
from overseg.pipeline.distances import ALL, REACH, distance_rows, looks

Labels = npt.NDArray[Any]
Tissues = list[list[tuple[Labels, Triple]]]

#: About how many examples the second stage and the published method get: their features are dear.
_CLOSER_ROWS = 2500
_PUBLISHED_ROWS = 4000


@dataclass(frozen=True)
class Trained:
    """Heads of all tissues, and of all but one.

    Attributes
    ----------
    heads : dict of str to Head
        Trained on everything.
    folds : tuple of dict of str to Head
        For each tissue the heads that have not seen it.
    unseen : ndarray of float64, shape (n,)
        Probability of each example by the heads that have not seen its tissue.
    examples : Examples
    facts : dict
        For the card.
    """

    heads: dict[str, Head]
    folds: tuple[dict[str, Head], ...]
    unseen: Float
    examples: Examples
    facts: dict[str, Any]


def train(
    volumes: Sequence[Any],
    out: str | Path,
    *,
    voxel_sizes: Sequence[Triple | None] | None = None,
    tissues: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    licences: Sequence[str] | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_gap: int = 2,
    epochs: int = 20,
    preset: Literal["paper"] | None = None,
    kind: Literal["gap", "tilted"] = "gap",
) -> Model:
    """Train a model on labelled volumes.

    Splits of all kinds are made in every volume, along all three axes and with layers left out; the
    candidates found then are the examples. Every tissue is left out once: what a model of the others says of
    it gives the calibration, the threshold and the accuracy of the card. The model itself learns from all.

    Parameters
    ----------
    volumes : sequence of path, URL, zarr.Array, zarr.Group or ndarray of int, shape (z, y, x)
        True cells; each is read whole.
    out : str or Path
        ``NAME.safetensors``; the card goes to ``NAME.json`` beside it.
    voxel_sizes : sequence of tuple of float, optional
        (z, y, x) of each volume, where the metadata do not say.
    tissues : sequence of str, optional
        Volumes of one name are left out together; by default each stands for itself. A single volume is cut
        in halves.
    sources, licences : sequence of str, optional
        Of the volumes, for the card.
    seed : int
        The same seed and volumes give the same weights.
    repeats : int
        Simulations per view of a volume.
    max_gap : int
        Gaps of 1 to so many layers.
    epochs : int
        Passes over the examples.
    preset : {"paper"}, optional
        Train the published method instead: its candidates, features and threshold.
    kind : {"gap", "tilted"}
        Learn from splits across missing layers, or from rugged cuts between parts that touch; `max_gap` and
        `preset` are of the first alone.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        If there is no volume, an option cannot be, or the examples are all of one kind.
    MissingPackageError
        If torch is not installed.
    ResourceError
        If a volume does not fit the memory.
    """
    _check(volumes, out, repeats, epochs)
    read = _read(volumes, voxel_sizes)
    names, groups = _grouped(read, tissues)
    if kind == "tilted":
        from overseg.measure.joining import train_touching

        found = train_touching(groups, seed=seed, repeats=repeats, epochs=epochs)
        threshold = calibrate.touching_threshold(found.unseen, found.examples)
    else:
        make = train_published if preset == "paper" else train_two_stages
        found = make(groups, seed=seed, repeats=repeats, max_gap=max_gap, epochs=epochs)
        threshold = calibrate.choose_threshold(found.unseen, found.examples)
    threshold = 0.5 if preset == "paper" else threshold
    card = {
        "threshold": threshold,
        "review_from": min(calibrate.REVIEW_FROM, threshold),
        "trained_on": _described(read, {"tissue": tissues, "source": sources, "licence": licences}),
        "seed": seed,
        "left_out_tissue": calibrate.accuracy(found.unseen, found.examples, names, threshold),
        "calibration": calibrate.calibration(found.unseen, found.examples.same),
        **found.facts,
    }
    return save(out, found.heads, card)


def train_two_stages(groups: Tissues, *, seed: int, repeats: int, max_gap: int, epochs: int) -> Trained:
    """Heads of both stages; the second goes on from the first with what that is unsure of."""

    def again() -> Iterator[tuple[int, Case]]:
        return cases(groups, seed=seed, repeats=repeats, max_gap=max_gap)

    examples = collect(again(), moments_of)
    first, first_folds, unseen = fit_left_out(examples, MOMENTS, seed=seed, epochs=epochs)
    low, high = calibrate.SURE_LOW, calibrate.SURE_HIGH
    # A wider band than is asked later, since the unsure ones alone are few; their features are dear.
    wide = (unseen > 0.3 * low) & (unseen < 1 - 0.3 * (1 - high))
    keep = wide & _some(len(wide), int(wide.sum()) / _CLOSER_ROWS, seed)
    starts = first, *first_folds
    second, second_folds, closer = fit_left_out(
        collect(again(), full_of, keep), FULL, seed=seed, epochs=epochs, starts=starts
    )
    both = unseen.copy()
    both[keep] = np.where((unseen[keep] > low) & (unseen[keep] < high), closer, unseen[keep])
    pairs = zip(starts, (second, *second_folds), strict=True)
    heads = [{"moments": replace(one, sure_low=low, sure_high=high), "full": two} for one, two in pairs]
    facts = {
        "candidate_rule": "default",
        "max_gap": max_gap,
        "asked_second_stage": round(float(((unseen > low) & (unseen < high)).mean()), 4),
    }
    return Trained(heads[0], tuple(heads[1:]), both, examples, facts)


def train_published(groups: Tissues, *, seed: int, repeats: int, max_gap: int, epochs: int) -> Trained:
    """The published method: its candidates, its twelve features, threshold one half."""

    def again() -> Iterator[tuple[int, Case]]:
        return cases(groups, seed=seed, repeats=repeats, max_gap=1, rule="paper")

    everything = collect(again(), lambda case, rows: np.empty((len(rows), 0)))
    every = len(everything.same) / _PUBLISHED_ROWS
    examples = collect(again(), paper_of, _some(len(everything.same), every, seed))
    head, folds, unseen = fit_left_out(examples, PAPER, seed=seed, epochs=epochs, by_class=PAPER_CLASSES)
    examples = replace(examples, cells=(everything.cells / max(every, 1)).astype(np.int64))
    facts = {"candidate_rule": "paper", "max_gap": 1}
    return Trained({"paper": head}, tuple({"paper": fold} for fold in folds), unseen, examples, facts)


def _some(n: int, every: float, seed: int) -> npt.NDArray[np.bool_]:
    """One row in `every`, at random."""
    chosen: npt.NDArray[np.bool_] = np.random.default_rng(seed).random(n) * every < 1
    return chosen


def moments_of(case: Case, rows: npt.NDArray[np.int64]) -> Float:
    """Features of the first stage of some candidates of a case."""
    usual = usual_of(case.layers.take(case.layers.some(CELLS)), case.voxel_size)
    return moments_features(case.candidates, case.layers, case.voxel_size, usual)[rows]


def full_of(case: Case, rows: npt.NDArray[np.int64]) -> Float:
    """Features of the second stage of some candidates of a case."""
    wanted = looks(case.candidates, case.layers, rows, REACH)
    distances = distance_rows(case.labels.__getitem__, wanted, "full", case.voxel_size[1:], "fast")
    return np.concatenate([moments_of(case, rows), np.nan_to_num(distances)], axis=1)


def paper_of(case: Case, rows: npt.NDArray[np.int64]) -> Float:
    """The published features of some candidates of a case."""
    wanted = looks(case.candidates, case.layers, rows, ALL)
    return distance_rows(case.labels.__getitem__, wanted, "paper", (1.0, 1.0))


def _check(volumes: Sequence[Any], out: str | Path, repeats: int, epochs: int) -> None:
    if not len(volumes):
        raise InputError("there is nothing to train on", remedy="give at least one labelled volume")
    if Path(out).suffix != ".safetensors":
        raise InputError(
            "a model is a .safetensors file", where=str(out), remedy="name the output NAME.safetensors"
        )
    if repeats < 1 or epochs < 1:
        raise InputError("repeats and epochs start at one", remedy="give numbers above zero")


def _read(
    volumes: Sequence[Any], voxel_sizes: Sequence[Triple | None] | None
) -> list[tuple[str, Labels, Triple]]:
    """Name, labels and voxel size of each volume."""
    sizes = voxel_sizes or [None] * len(volumes)
    if len(sizes) != len(volumes):
        raise InputError(
            f"{len(volumes)} volumes, but {len(sizes)} voxel sizes", remedy="give one for each, or none"
        )
    sources = [open_source(volume, voxel_size=size) for volume, size in zip(volumes, sizes, strict=True)]
    return [(source.name, source.read_all(copies=8), source.voxel_size) for source in sources]


def _grouped(
    read: list[tuple[str, Labels, Triple]], tissues: Sequence[str] | None
) -> tuple[list[str], Tissues]:
    """Volumes by tissue. One volume alone becomes two halves, so that there is something to leave out."""
    if len(read) == 1:
        name, labels, size = read[0]
        middle = labels.shape[2] // 2
        return [f"{name}, left", f"{name}, right"], [
            [(np.ascontiguousarray(labels[:, :, :middle]), size)],
            [(np.ascontiguousarray(labels[:, :, middle:]), size)],
        ]
    given = list(tissues) if tissues else [f"{i + 1}: {name}" for i, (name, _, _) in enumerate(read)]
    if len(given) != len(read):
        raise InputError(
            f"{len(read)} volumes, but {len(given)} tissues", remedy="give one name for each, or none"
        )
    names = list(dict.fromkeys(given))
    if len(names) == 1:
        raise InputError("all volumes are of one tissue", remedy="leave the tissues out, or name two")
    groups: Tissues = [[] for _ in names]
    for name, (_, labels, size) in zip(given, read, strict=True):
        groups[names.index(name)].append((labels, size))
    return names, groups


def _described(
    read: list[tuple[str, Labels, Triple]], facts: dict[str, Sequence[str] | None]
) -> list[dict[str, Any]]:
    """The volumes, for the card."""
    rows = []
    for i, (name, labels, size) in enumerate(read):
        row: dict[str, Any] = {
            "volume": Path(name).name,
            "shape": list(labels.shape),
            "voxel_size": list(size),
        }
        rows.append(row | {key: values[i] for key, values in facts.items() if values})
    return rows


def fit_left_out(
    examples: Examples,
    names: tuple[str, ...],
    *,
    seed: int,
    epochs: int,
    by_class: tuple[tuple[int, ...], ...] | None = None,
    starts: tuple[Head, ...] | None = None,
) -> tuple[Head, tuple[Head, ...], Float]:
    """A head of all examples, and for each example what a head that never saw its tissue says.

    Parameters
    ----------
    examples : Examples
    names : tuple of str
        Of the features.
    seed, epochs : int
    by_class : tuple of tuple of int, optional
        Columns that share their normalisation.
    starts : tuple of Head, optional
        Heads to go on from: that of all examples, then those that have not seen each tissue.

    Returns
    -------
    head : Head
        Its temperature is the one that calibrates what follows.
    folds : tuple of Head
        For each tissue a head that has not seen it, calibrated on the other tissues.
    unseen : ndarray of float64, shape (n,)
        Probabilities by the folds, calibrated on all.
    """
    from overseg.model.fit import fit_head, temperature_of

    weight = calibrate.group_weight(examples.group)

    def fitted(rows: npt.NDArray[np.bool_], place: int) -> Head:
        # A tenth of the cases, whole, so that no neighbour of a training row chooses the epoch; where these
        # are all of one kind, a tenth of the rows.
        same, held_out = examples.same[rows], examples.case[rows] % 10 == 9
        if len(np.unique(same[held_out])) < 2:
            held_out = np.arange(len(same)) % 10 == 9
        return fit_head(
            examples.features[rows],
            same,
            held_out,
            names,
            weight=weight[rows],
            seed=seed,
            epochs=epochs,
            by_class=by_class,
            start=None if starts is None else starts[place],
        )

    logits = np.empty(len(examples.same))
    folds = []
    for group in range(len(examples.cells)):
        out = examples.group == group
        folds.append(fitted(~out, group + 1))
        logits[out] = folds[-1].logit(examples.features[out])
    for group, fold in enumerate(folds):
        rest = examples.group != group
        folds[group] = replace(
            fold, temperature=temperature_of(logits[rest], examples.same[rest], weight[rest])
        )
    temperature = temperature_of(logits, examples.same, weight)
    head = replace(fitted(np.ones(len(logits), bool), 0), temperature=temperature)
    return head, tuple(folds), 1.0 / (1.0 + np.exp(-logits / temperature))
