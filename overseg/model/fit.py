"""Training of one perceptron with torch: on one thread and from one seed, so that it can be repeated."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError, MissingPackageError
from overseg.model.mlp import Float, Head
from overseg.model.unusual import learn_usual

HIDDEN = (128, 64, 32)
CLIP = 6.0
RATE, GENTLE_RATE = 2e-3, 3e-4
DECAY = 0.1


def fit_head(
    features: Float,
    same: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    names: tuple[str, ...],
    *,
    weight: Float | None = None,
    seed: int = 0,
    epochs: int = 20,
    by_class: tuple[tuple[int, ...], ...] | None = None,
    start: Head | None = None,
) -> Head:
    """Train a perceptron 128-64-32 and calibrate it.

    Parameters
    ----------
    features : ndarray of float64, shape (n, F)
    same : ndarray of bool, shape (n,)
        Whether both faces belong to one cell.
    held_out : ndarray of bool, shape (n,)
        Rows not trained on: they choose the epoch and the temperature, and say how far examples lie apart.
    names : tuple of str
        Of the features.
    weight : ndarray of float64, shape (n,), optional
        How much each row counts.
    seed : int
    epochs : int
    by_class : tuple of tuple of int, optional
        Columns that share one mean and one scale; each has its own when not given.
    start : Head, optional
        A head of the first columns to go on from: further columns say nothing at first, and what the held-out
        rows do not confirm is not learned.

    Returns
    -------
    Head
        With `sure_low` 0 and `sure_high` 1: sure of nothing yet.

    Raises
    ------
    MissingPackageError
        If torch is not installed.
    InputError
        If the examples are all of one kind.

    Notes
    -----
    Temperature scaling as in Guo et al., ICML 2017. AdamW, binary cross entropy; the epoch with the lowest
    loss on the held-out rows is kept.
    """
    torch = _torch()
    train = ~held_out
    for part, what in ((same[train], "training"), (same[held_out], "held-out")):
        if not part.all() and part.any():
            continue
        if start is not None:
            epochs = 0
            continue
        raise InputError(
            f"the {what} examples are all of one kind: {int(part.sum())} of {len(part)} are one cell",
            remedy="give more or larger labelled volumes",
        )
    weight = np.ones(len(same)) if weight is None else weight
    mean, scale, low, high = _normal(features[train], by_class, start)
    inputs = np.clip((features - mean) / scale, -CLIP, CLIP)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _network(torch, len(names), start)
            logits = _descend(torch, net, inputs, same, held_out, weight, seed, epochs, start is not None)
    finally:
        torch.set_num_threads(threads)
    layers = [part for part in net if hasattr(part, "weight")]
    return Head(
        names,
        mean,
        scale,
        low,
        high,
        CLIP,
        temperature_of(logits, same[held_out], weight[held_out]),
        0.0,
        1.0,
        tuple(part.weight.detach().double().numpy().T.copy() for part in layers),
        tuple(part.bias.detach().double().numpy().copy() for part in layers),
        learn_usual(inputs, weight, held_out),
    )


def _normal(
    features: Float, by_class: tuple[tuple[int, ...], ...] | None, start: Head | None
) -> tuple[Float, Float, Float, Float]:
    """Mean, scale, lowest and highest value of each column; those of `start` are kept."""
    if not len(features):
        features = np.zeros((1, features.shape[1]))
    mean, scale = features.mean(axis=0), features.std(axis=0)
    for columns in map(list, by_class or ()):
        values = features[:, columns]
        mean[columns], scale[columns] = values.mean(), values.std()
    low, high = features.min(axis=0), features.max(axis=0)
    if start is not None:
        n = len(start.features)
        mean[:n], scale[:n] = start.mean, start.scale
        low[:n], high[:n] = np.minimum(low[:n], start.low), np.maximum(high[:n], start.high)
    return mean, np.where(scale > 1e-9, scale, 1.0), low, high


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingPackageError(
            "training needs torch, which is not installed", remedy="pip install 'overseg[torch]'"
        ) from None
    return torch


def _network(torch: Any, inputs: int, start: Head | None) -> Any:
    parts: list[Any] = []
    for one, two in pairwise([inputs, *HIDDEN]):
        parts += [torch.nn.Linear(one, two), torch.nn.ReLU()]
    net = torch.nn.Sequential(*parts, torch.nn.Linear(HIDDEN[-1], 1))
    if start is not None:
        layers = [part for part in net if hasattr(part, "weight")]
        with torch.no_grad():
            layers[0].weight.zero_()
            for part, weight, bias in zip(layers, start.weights, start.biases, strict=True):
                part.weight[:, : len(weight)] = torch.tensor(weight.T)
                part.bias[:] = torch.tensor(bias)
    return net


def _descend(
    torch: Any,
    net: Any,
    inputs: Float,
    same: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    weight: Float,
    seed: int,
    epochs: int,
    gently: bool,
) -> Float:
    """Train the network, leave it at its best epoch, and give its values for the held-out rows."""
    rate = GENTLE_RATE if gently else RATE
    descent = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=DECAY)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(descent, max(epochs, 1))
    lose = torch.nn.BCEWithLogitsLoss(reduction="none")
    x, y, w = (torch.tensor(v, dtype=torch.float32) for v in (inputs, same, weight))
    rows, test = np.flatnonzero(~held_out), torch.tensor(np.flatnonzero(held_out))
    rng = np.random.default_rng(seed)
    least, state = np.inf, net.state_dict()
    for epoch in range(epochs + 1):
        with torch.no_grad():
            found = float((lose(net(x[test])[:, 0], y[test]) * w[test]).sum())
        if found < least and (epoch or gently):
            least, state = found, {key: value.clone() for key, value in net.state_dict().items()}
        if epoch == epochs:
            break
        for batch in np.array_split(rng.permutation(rows), max(1, len(rows) // 256)):
            at = torch.tensor(batch)
            loss = (lose(net(x[at])[:, 0], y[at]) * w[at]).sum() / w[at].sum()
            descent.zero_grad()
            loss.backward()
            descent.step()
        plan.step()
    net.load_state_dict(state)
    with torch.no_grad():
        values: Float = net(x[test])[:, 0].double().numpy()
    return values


def temperature_of(logits: Float, same: npt.NDArray[np.bool_], weight: Float) -> float:
    """The temperature with the least cross entropy, from a fixed grid of 61 between 0.5 and 4.

    Parameters
    ----------
    logits : ndarray of float64, shape (n,)
        Last layer's values for rows that were not trained on.
    same : ndarray of bool, shape (n,)
    weight : ndarray of float64, shape (n,)

    Returns
    -------
    float
        1 where there are no rows.
    """
    if not len(logits):
        return 1.0
    grid = np.exp(np.linspace(np.log(0.5), np.log(4.0), 61))
    signed = np.where(same, logits, -logits)
    losses = [float((weight * np.logaddexp(0.0, -signed / t)).sum()) for t in grid]
    return float(grid[int(np.argmin(losses))])
