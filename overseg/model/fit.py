"""Training of one perceptron with torch: on one thread and from one seed, so that it can be repeated."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError, MissingPackageError
from overseg.model.mlp import Float, Head

HIDDEN = (128, 64, 32)
CLIP = 6.0


def fit_head(
    features: Float,
    same: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    names: tuple[str, ...],
    *,
    weight: Float | None = None,
    seed: int = 0,
    epochs: int = 60,
    decay: float = 1e-3,
    by_class: tuple[tuple[int, ...], ...] | None = None,
) -> Head:
    """Train a perceptron 128-64-32 and calibrate it.

    Parameters
    ----------
    features : ndarray of float64, shape (n, F)
    same : ndarray of bool, shape (n,)
        Whether both faces belong to one cell.
    held_out : ndarray of bool, shape (n,)
        Rows not trained on: they choose the epoch and the temperature.
    names : tuple of str
        Of the features.
    weight : ndarray of float64, shape (n,), optional
        How much each row counts.
    seed : int
    epochs : int
    decay : float
        Weight decay.
    by_class : tuple of tuple of int, optional
        Columns that share one mean and one scale; each has its own when not given.

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
        if part.all() or not part.any():
            raise InputError(
                f"the {what} examples are all of one kind: {int(part.sum())} of {len(part)} are one cell",
                remedy="give more or larger labelled volumes",
            )
    weight = np.ones(len(same)) if weight is None else weight
    mean, scale = features[train].mean(axis=0), features[train].std(axis=0)
    for columns in map(list, by_class or ()):
        values = features[train][:, columns]
        mean[columns], scale[columns] = values.mean(), values.std()
    scale = np.where(scale > 1e-9, scale, 1.0)
    inputs = np.clip((features - mean) / scale, -CLIP, CLIP)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers, logits = _descend(torch, inputs, same, held_out, weight, seed, epochs, decay)
    finally:
        torch.set_num_threads(threads)
    temperature = temperature_of(logits, same[held_out], weight[held_out])
    return Head(
        names,
        mean,
        scale,
        features[train].min(axis=0),
        features[train].max(axis=0),
        CLIP,
        temperature,
        0.0,
        1.0,
        tuple(w for w, _ in layers),
        tuple(b for _, b in layers),
    )


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingPackageError(
            "training needs torch, which is not installed", remedy="pip install 'overseg[torch]'"
        ) from None
    return torch


def _descend(
    torch: Any,
    inputs: Float,
    same: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    weight: Float,
    seed: int,
    epochs: int,
    decay: float,
) -> tuple[list[tuple[Float, Float]], Float]:
    """Weights and biases of the best epoch, and its values for the held-out rows."""
    widths = [inputs.shape[1], *HIDDEN]
    parts: list[Any] = []
    for one, two in pairwise(widths):
        parts += [torch.nn.Linear(one, two), torch.nn.ReLU()]
    net = torch.nn.Sequential(*parts, torch.nn.Linear(widths[-1], 1))
    best = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=decay)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(best, epochs)
    lose = torch.nn.BCEWithLogitsLoss(reduction="none")
    x, y, w = (torch.tensor(v, dtype=torch.float32) for v in (inputs, same, weight))
    rows, test = np.flatnonzero(~held_out), torch.tensor(np.flatnonzero(held_out))
    rng = np.random.default_rng(seed)
    least, state = np.inf, {}
    for _ in range(epochs):
        net.train()
        for batch in np.array_split(rng.permutation(rows), max(1, len(rows) // 256)):
            at = torch.tensor(batch)
            loss = (lose(net(x[at])[:, 0], y[at]) * w[at]).sum() / w[at].sum()
            best.zero_grad()
            loss.backward()
            best.step()
        plan.step()
        net.eval()
        with torch.no_grad():
            found = float((lose(net(x[test])[:, 0], y[test]) * w[test]).sum())
        if found < least:
            least, state = found, {key: value.clone() for key, value in net.state_dict().items()}
    net.load_state_dict(state)
    with torch.no_grad():
        logits = net(x[test])[:, 0].double().numpy()
    layers = [
        (part.weight.detach().double().numpy().T.copy(), part.bias.detach().double().numpy().copy())
        for part in net
        if hasattr(part, "weight")
    ]
    return layers, logits


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
    """
    grid = np.exp(np.linspace(np.log(0.5), np.log(4.0), 61))
    signed = np.where(same, logits, -logits)
    losses = [float((weight * np.logaddexp(0.0, -signed / t)).sum()) for t in grid]
    return float(grid[int(np.argmin(losses))])
