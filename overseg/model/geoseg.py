"""What the code released with arXiv 2502.01890 measures of a candidate, and the perceptron that it asks.

Read from github.com/PeterLauLukChen/GeoSeg (GeoSeg/CandidateSearching.py, EMD.py and Ochecker_reg.py) and
written anew. It differs from the paper's text; docs/methods.md lists how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import ModelError
from overseg.kernels.profile import fits
from overseg.model.mlp import Float, Head

#: The twelve inputs in the order of the code: sliced distances at a lag of two layers within the upper and
#: the lower part, through the gap, and R² of a parabola through the overlaps of the joined cell.
GEOSEG: tuple[str, ...] = (
    *(f"sliced_{part}_{number}" for part in "ab" for number in ("q1", "median", "q3", "min", "max")),
    "sliced_gap",
    "overlap_r2",
)

LAG = 2

#: The two constants of normalisation: R² alone is z-scored.
R2_MEAN, R2_SCALE = 0.9596848301316223, 0.12202991544763167

#: Added to the sum of squares that R² is over.
_SOFT = 1e-4

_LAYERS = ("layer1", "layer2", "layer3", "output_layer")
_WIDTHS = (len(GEOSEG), 128, 64, 32, 1)

#: Name and shape of every tensor of the authors' file.
TENSORS: dict[str, tuple[int, ...]] = {
    name: shape
    for layer, n, m in zip(_LAYERS, _WIDTHS, _WIDTHS[1:], strict=False)
    for name, shape in ((f"{layer}.weight", (m, n)), (f"{layer}.bias", (m,)))
}


def geoseg_features(
    through: float, within_a: npt.ArrayLike, within_b: npt.ArrayLike, overlaps: Sequence[int]
) -> Float:
    """The twelve inputs of the released code, for one candidate.

    Parameters
    ----------
    through : float
        Sliced distance from face to face; see `overseg.kernels.sliced`.
    within_a, within_b : array_like of float, shape (m,)
        The same between layers of the upper and of the lower part that lie two apart.
    overlaps : sequence of int
        Pixels that consecutive masks of the joined cell share, from the top; the gap counts as no layer.

    Returns
    -------
    ndarray of float64, shape (12,)
        All NaN where the code passes a candidate over, which then stays apart: where a part has no distance
        above zero, as it has with fewer than three layers.

    Notes
    -----
    The code takes the better of a straight line and a parabola. That is always the parabola, whose R² has no
    less in the numerator; so the code's other way to normalise is never reached, and neither is its rule that
    a monotone profile counts as 1.
    """
    numbers = [_quartiles_first(np.asarray(values, np.float64)) for values in (within_a, within_b)]
    row: Float = np.concatenate([*numbers, [through, _parabola(overlaps)]])
    return row if np.isfinite(row).all() else np.full(len(GEOSEG), np.nan)


def _quartiles_first(values: Float) -> Float:
    values = values[values != 0]
    if not len(values):
        return np.full(5, np.nan)
    return np.concatenate([np.percentile(values, [25, 50, 75]), [values.min(), values.max()]])


def _parabola(overlaps: Sequence[int]) -> float:
    n = len(overlaps)
    if n < 3:
        return 1.0
    fit = float(fits(overlaps, [0, n])[1][0])
    spread = (n * sum(v * v for v in overlaps) - sum(overlaps) ** 2) / n
    return 1.0 - (1.0 - fit) * spread / (spread + _SOFT)


def geoseg_head(tensors: Mapping[str, npt.NDArray[Any]], where: str) -> Head:
    """The perceptron of the authors' weights.

    Parameters
    ----------
    tensors : mapping of str to ndarray of float32 or float64
        As named in `TENSORS`: weights of shape (outputs, inputs), biases of shape (outputs,).
    where : str
        The file, for messages.

    Returns
    -------
    Head
        Named as `GEOSEG`; sure of nothing, and never out of range: the range in training is not known.

    Raises
    ------
    ModelError
        If a tensor is missing, is one too many, has another shape, or holds what is no number.
    """
    remedy = "give mlp_model_epoch_50.pth of the authors' repository, or a state_dict of the same network"
    if set(tensors) != set(TENSORS):
        odd = sorted(set(tensors) ^ set(TENSORS))
        raise ModelError(
            f"these are no weights of GeoSeg: {odd[0][:80]!r} is "
            f"{'missing' if odd[0] in TENSORS else 'one tensor too many'}",
            where=where,
            remedy=remedy,
        )
    for name, shape in TENSORS.items():
        if tensors[name].shape != shape:
            raise ModelError(
                f"these are no weights of GeoSeg: {name!r} has the shape {tensors[name].shape}, not {shape}",
                where=where,
                remedy=remedy,
            )
        if not np.isfinite(tensors[name]).all():
            raise ModelError(f"{name!r} holds NaN or infinite weights", where=where, remedy=remedy)
    mean, scale, high = np.zeros(len(GEOSEG)), np.ones(len(GEOSEG)), np.full(len(GEOSEG), 2.0)
    mean[-1], scale[-1] = R2_MEAN, R2_SCALE
    return Head(
        features=GEOSEG,
        mean=mean,
        scale=scale,
        low=np.zeros(len(GEOSEG)),
        high=high,
        clip=100.0,  # further out than any input can be: the authors cut nothing
        temperature=1.0,
        sure_low=0.0,
        sure_high=1.0,
        weights=tuple(np.ascontiguousarray(tensors[f"{x}.weight"].T, np.float64) for x in _LAYERS),
        biases=tuple(tensors[f"{x}.bias"].astype(np.float64) for x in _LAYERS),
    )
