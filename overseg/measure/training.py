"""A model from labelled volumes: break them in known ways, and learn which candidates are one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure import calibrate
from overseg.measure.examples import Examples, Triple, cases, collect
from overseg.measure.source import open_source
from overseg.model.features import MOMENTS, moments_features
from overseg.model.mlp import Float, Head, Model, save

Labels = npt.NDArray[Any]


def train(
    volumes: Sequence[Any],
    out: str | Path,
    *,
    voxel_sizes: Sequence[Triple | None] | None = None,
    tissues: Sequence[str] | None = None,
    licences: Sequence[str] | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_gap: int = 2,
    epochs: int = 40,
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
    licences : sequence of str, optional
        Of the volumes, for the card.
    seed : int
        The same seed and volumes give the same weights.
    repeats : int
        Simulations per view of a volume.
    max_gap : int
        Gaps of 1 to so many layers.
    epochs : int
        Passes over the examples.

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
    examples = collect(
        cases(groups, seed=seed, repeats=repeats, max_gap=max_gap),
        lambda case: moments_features(case.candidates, case.layers, case.voxel_size),
    )
    head, unseen = fit_left_out(examples, MOMENTS, seed=seed, epochs=epochs)
    threshold = calibrate.choose_threshold(unseen, examples)
    head = replace(head, sure_low=calibrate.SURE_LOW, sure_high=calibrate.SURE_HIGH)
    card = {
        "threshold": threshold,
        "review_from": calibrate.REVIEW_FROM,
        "candidate_rule": "default",
        "trained_on": _described(read, tissues, licences),
        "max_gap": max_gap,
        "seed": seed,
        "left_out_tissue": calibrate.accuracy(unseen, examples, names, threshold),
        "calibration": calibrate.calibration(unseen, examples.same),
    }
    return save(out, {"moments": head}, card)


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
) -> tuple[list[str], list[list[tuple[Labels, Triple]]]]:
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
    groups: list[list[tuple[Labels, Triple]]] = [[] for _ in names]
    for name, (_, labels, size) in zip(given, read, strict=True):
        groups[names.index(name)].append((labels, size))
    return names, groups


def _described(
    read: list[tuple[str, Labels, Triple]], tissues: Sequence[str] | None, licences: Sequence[str] | None
) -> list[dict[str, Any]]:
    """The volumes, for the card."""
    rows = []
    for i, (name, labels, size) in enumerate(read):
        row: dict[str, Any] = {
            "volume": Path(name).name,
            "shape": list(labels.shape),
            "voxel_size": list(size),
        }
        if tissues:
            row["tissue"] = tissues[i]
        if licences:
            row["licence"] = licences[i]
        rows.append(row)
    return rows


def fit_left_out(examples: Examples, names: tuple[str, ...], *, seed: int, epochs: int) -> tuple[Head, Float]:
    """A head of all examples, and for each example what a head that never saw its tissue says.

    The temperature of the head is the one that calibrates the latter.
    """
    from overseg.model.fit import fit_head, temperature_of

    weight = calibrate.group_weight(examples.group)
    # A tenth of the cases, whole, so that no neighbour of a training row chooses the epoch.
    held_out = examples.case % 10 == 9
    if not held_out.any() or held_out.all():
        held_out = np.arange(len(examples.same)) % 10 == 9
    unseen = np.empty(len(examples.same))
    for group in np.unique(examples.group):
        out = examples.group == group
        part = fit_head(
            examples.features[~out], examples.same[~out], held_out[~out], names,
            weight=weight[~out], seed=seed, epochs=epochs,
        )  # fmt: skip
        unseen[out] = part.logit(examples.features[out])
    temperature = temperature_of(unseen, examples.same, weight)
    head = fit_head(
        examples.features, examples.same, held_out, names, weight=weight, seed=seed, epochs=epochs
    )
    return replace(head, temperature=temperature), 1.0 / (1.0 + np.exp(-unseen / temperature))
