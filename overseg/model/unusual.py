"""How unlike what a head learned from a candidate is, told as a share of examples that are less unlike.

The distance is Mahalanobis', of inputs as the head takes them, with a covariance shrunk towards a ball's
(Ledoit and Wolf 2004; the share is fixed): columns that hardly vary, or depend on each other, count for no
more than that allows. It tells, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

#: Shares of examples at which the distance is noted; the far end is told finely.
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)

#: From this share on a candidate is called unusual.
UNUSUAL = 0.95

_SHRUNK = 0.02
_FEWEST = 20  # held-out examples: of fewer no share can be told


@dataclass(frozen=True)
class Usual:
    """What examples look like together.

    Attributes
    ----------
    centre : ndarray of float64, shape (F,)
        Mean of the inputs.
    factor : ndarray of float64, shape (F, F)
        Of their shrunk covariance, lower triangular (Cholesky).
    distances : ndarray of float64, shape (len(LEVELS),)
        Squared distances that these shares of held-out examples do not exceed.
    """

    centre: Float
    factor: Float
    distances: Float

    def fits(self, columns: int) -> bool:
        """Whether it can be of a head with so many features."""
        shapes = self.centre.shape, self.factor.shape, self.distances.shape
        return (
            shapes == ((columns,), (columns, columns), (len(LEVELS),))
            and all(np.isfinite(values).all() for values in (self.centre, self.factor, self.distances))
            and bool((np.diagonal(self.factor) > 0).all() and (np.diff(self.distances) >= 0).all())
        )

    def squared_distances(self, inputs: Float) -> Float:
        """Squared distance of each row of inputs from the centre, shape (n,); NaN where an input is.

        A row's value has the same bits alone, in any batch and in any order.
        """
        out = np.empty(len(inputs))
        _squared(np.ascontiguousarray(inputs, np.float64), self.centre, self.factor, out)
        return out

    def share(self, inputs: Float) -> Float:
        """Share of held-out examples that are less unusual.

        Parameters
        ----------
        inputs : ndarray of float64, shape (n, F)
            As the head takes them: normalised, and cut.

        Returns
        -------
        ndarray of float64, shape (n,)
            From 0 to 1, which is as far out as the farthest example or farther; NaN where an input is.
        """
        out = self.squared_distances(inputs)
        _shares(out, self.distances, np.array(LEVELS))
        return out


def learn_usual(inputs: Float, weight: Float, held_out: npt.NDArray[np.bool_]) -> Usual | None:
    """Learn what is usual from some examples, and the distances from the others.

    Parameters
    ----------
    inputs : ndarray of float64, shape (n, F)
        As the head takes them.
    weight : ndarray of float64, shape (n,)
        How much each row counts.
    held_out : ndarray of bool, shape (n,)
        Rows that tell the distances only.

    Returns
    -------
    Usual or None
        None where there are too few rows of either kind.
    """
    learned, told = inputs[~held_out], inputs[held_out]
    if len(learned) < 2 or len(told) < _FEWEST:
        return None
    share = weight[~held_out] / weight[~held_out].sum()
    centre: Float = (learned * share[:, None]).sum(axis=0)
    apart = learned - centre
    covariance = (apart * share[:, None]).T @ apart
    ball = max(float(np.trace(covariance)) / len(centre), 1e-9)
    shrunk = (1 - _SHRUNK) * covariance + _SHRUNK * ball * np.eye(len(centre))
    usual = Usual(centre, np.linalg.cholesky(shrunk), np.zeros(len(LEVELS)))
    found = usual.squared_distances(told)
    order = np.argsort(found, kind="stable")
    passed = np.cumsum(weight[held_out][order])
    at = np.searchsorted(passed, np.array(LEVELS) * passed[-1])
    return Usual(centre, usual.factor, found[order][np.minimum(at, len(order) - 1)])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _squared(inputs, centre, factor, out):  # type: ignore[no-untyped-def]
    # Forward substitution, each sum in the order of the columns: no batch or vector width changes a bit.
    solved = np.empty(centre.size)
    for i in range(inputs.shape[0]):
        total = 0.0
        for k in range(centre.size):
            value = inputs[i, k] - centre[k]
            for m in range(k):
                value -= factor[k, m] * solved[m]
            solved[k] = value / factor[k, k]
            total += solved[k] * solved[k]
        out[i] = total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shares(values, distances, levels):  # type: ignore[no-untyped-def]
    """Distances to shares, in place: straight lines between the levels."""
    last = distances.size - 1
    for i in range(values.size):
        value = values[i]
        if value >= distances[last]:
            values[i] = levels[last]
        elif value <= distances[0]:
            values[i] = levels[0]
        elif value > distances[0]:  # no NaN
            k = np.searchsorted(distances, value, side="right")
            part = (value - distances[k - 1]) / (distances[k] - distances[k - 1])
            values[i] = levels[k - 1] + part * (levels[k] - levels[k - 1])
