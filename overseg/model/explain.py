"""Why a candidate was judged as it was: how far, and which way, each group of features moved the decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.errors import ModelError
from overseg.model.mlp import Head

Float = npt.NDArray[np.float64]

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
    head: Head, row: Float, groups: Sequence[Group], shown: Mapping[str, float] | None = None
) -> tuple[Push, ...]:
    """Share a decision out among groups of features, against the average example of training.

    Parameters
    ----------
    head : Head
        That judged the candidate.
    row : ndarray of float64, shape (F,)
        The candidate's features, as given to the head.
    groups : sequence of Group
        Each of the head's features belongs to one of them.
    shown : mapping of str to float, optional
        Values for the words, where they are not those of `row`.

    Returns
    -------
    tuple of Push
        The strongest first. Together they are the candidate's log-odds less those of the average example.

    Raises
    ------
    ModelError
        If the groups are not made for this head's features.

    Notes
    -----
    Shapley values over groups (Shapley 1953; Lundberg and Lee 2017), exact: a group's push is the mean, over
    all orders in which groups may become known, of what its becoming known does; until then its features have
    their mean of the training. Leaving out one group alone would show nothing where another says the same.
    """
    place = {name: at for at, name in enumerate(head.features)}
    if sorted(name for group in groups for name in group.columns) != sorted(place):
        raise ModelError(
            "there are no words for these features", remedy="use the overseg that trained the model"
        )
    columns = [np.array([place[name] for name in group.columns]) for group in groups]
    n = len(groups)
    known = np.arange(1 << n)[:, None] >> np.arange(n) & 1 > 0
    rows = np.tile(head.mean, (1 << n, 1))
    for each, mine in enumerate(columns):
        rows[np.ix_(known[:, each], mine)] = row[mine]
    value = head.logit(rows) / head.temperature
    orders = np.array([1 / (n * math.comb(n - 1, before)) for before in range(n)])
    values = dict(zip(head.features, row.tolist(), strict=True)) if shown is None else shown
    outside = (row < head.low) | (row > head.high)
    pushes = []
    for each, group in enumerate(groups):
        without = np.flatnonzero(~known[:, each])
        gain = value[without | 1 << each] - value[without]
        push = float((orders[known[without].sum(axis=1)] * gain).sum())
        pushes.append(Push(group.name, push, group.say(values), bool(outside[columns[each]].any())))
    return tuple(sorted(pushes, key=lambda push: -abs(push.push)))


def sentence(pushes: Sequence[Push], most: int = 3) -> str:
    """The groups that moved a decision most, in a line.

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
    told = [push for push in pushes[:most] if push.verdict != NEITHER]
    told = [push for push in told if abs(push.push) >= abs(told[0].push) / 3]
    parts = []
    for verdict in dict.fromkeys(push.verdict for push in told):
        words = "; ".join(push.words for push in told if push.verdict == verdict)
        parts.append(f"{verdict}: {words}")
    return ". But ".join(parts)
