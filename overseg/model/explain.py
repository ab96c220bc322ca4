"""Why a candidate was judged as it was: how far, and which way, each group of features moved the decision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.errors import ModelError
from overseg.model.mlp import Head

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

ONE, TWO, NEITHER = "typical for one cell", "typical for two cells", "says little"

#: Log-odds below which a group says little.
LITTLE = 0.2


@dataclass(frozen=True)
class Group:
    """Features that tell of one thing.

    Attributes
    ----------
    name : str
    columns : tuple of str
        Of the features.
    say : callable
        What their values are, in words; gets the values of all features by name.
    """

    name: str
    columns: tuple[str, ...]
    say: Callable[[Mapping[str, float]], str]


@dataclass(frozen=True)
class Push:
    """What one group did to a decision.

    Attributes
    ----------
    group : str
    push : float
        Log-odds of "one cell" that it added (above zero) or took (below).
    words : str
        What was measured.
    unseen : bool
        A value lies outside of all that the head learned from.
    """

    group: str
    push: float
    words: str
    unseen: bool

    @property
    def verdict(self) -> str:
        """For what that is typical."""
        return NEITHER if abs(self.push) < LITTLE else ONE if self.push > 0 else TWO


def explain(
    head: Head, rows: Float, groups: Sequence[Group], shown: Float | None = None
) -> list[tuple[Push, ...]]:
    """Share decisions out among groups of features, against the average example of training.

    Parameters
    ----------
    head : Head
        That judged the candidates.
    rows : ndarray of float64, shape (n, F)
        Their features, as given to the head.
    groups : sequence of Group
        Each of the head's features belongs to one of them.
    shown : ndarray of float64, shape (n, F), optional
        Features for the words, where they are not those of `rows`.

    Returns
    -------
    list of tuple of Push
        Of each row, the strongest first. Together they are the row's log-odds less the average example's.

    Raises
    ------
    ModelError
        If the groups are not made for this head's features.

    Notes
    -----
    Shapley values over groups, exact (Shapley 1953; Lundberg and Lee 2017): a group's push is the mean, over
    all orders in which groups may become known, of what its becoming known does. Features that are not known
    are as those that are known let expect, if examples were normally distributed (Aas, Jullum and Loland
    2021): with their plain means, beside values that they never occur with, the head would be asked about
    things that are no candidates, of which it may say anything. Of a head without `usual` no more is known.
    """
    place = {name: at for at, name in enumerate(head.features)}
    if sorted(name for group in groups for name in group.columns) != sorted(place):
        raise ModelError(
            "there are no words for these features", remedy="use the overseg that trained the model"
        )
    columns = [np.array([place[name] for name in group.columns]) for group in groups]
    n = len(groups)
    known = np.arange(1 << n)[:, None] >> np.arange(n) & 1 > 0
    asked = (_expected(head, rows, columns, each) for each in known)
    value = np.stack([head.logit(each) for each in asked]) / head.temperature
    orders = np.array([1 / (n * math.comb(n - 1, before)) for before in range(n)])
    gains = np.empty((n, len(rows)))
    for each in range(n):
        without = np.flatnonzero(~known[:, each])
        weight = orders[known[without].sum(axis=1)]
        gains[each] = (weight[:, None] * (value[without | 1 << each] - value[without])).sum(axis=0)
    outside = (rows < head.low) | (rows > head.high)
    told = []
    for i, row in enumerate((rows if shown is None else shown).tolist()):
        values = dict(zip(head.features, row, strict=True))
        pushes = [
            Push(group.name, float(gains[k, i]), group.say(values), bool(outside[i, columns[k]].any()))
            for k, group in enumerate(groups)
        ]
        told.append(tuple(sorted(pushes, key=lambda push: -abs(push.push))))
    return told


def _expected(head: Head, rows: Float, columns: Sequence[Int], known: Bool) -> Float:
    """Rows of which only some groups are known: the others as these let expect."""
    told, rest = (
        np.concatenate([np.zeros(0, np.int64), *itertools.compress(columns, has)])
        for has in (known.tolist(), np.logical_not(known).tolist())
    )
    expected = np.zeros((len(rows), len(rest)))
    if head.usual is not None:
        centre, covariance = head.usual.centre, head.usual.factor @ head.usual.factor.T
        inputs = np.clip((rows - head.mean) / head.scale, -head.clip, head.clip)
        slope = np.linalg.solve(covariance[np.ix_(told, told)], covariance[np.ix_(told, rest)])
        expected = centre[rest] + (inputs - centre)[:, told] @ slope
    out = rows.copy()
    out[:, rest] = head.mean[rest] + head.scale[rest] * expected
    return out


def sentence(pushes: Sequence[Push], most: int = 3) -> str:
    """The groups that moved a decision most, in a line: those on the side that won, then the others.

    Parameters
    ----------
    pushes : sequence of Push
        The strongest first.
    most : int
        So many groups at most; what moved it by less than a third of the strongest is left out.

    Returns
    -------
    str
        Empty where nothing moved it.
    """
    told = [push for push in pushes[:most] if abs(push.push) >= max(LITTLE, abs(pushes[0].push) / 3)]
    won = sum(push.push for push in pushes) > 0
    parts = []
    for verdict in (ONE, TWO) if won else (TWO, ONE):
        words = "; ".join(push.words for push in told if push.verdict == verdict)
        parts += [f"{verdict}: {words}"] if words else []
    return ". But ".join(parts)
