"""A small multilayer perceptron, scored without torch, and the files that hold it.

A model is two files: ``NAME.safetensors`` with the weights, and the card ``NAME.json`` with all else that
matters: features, normalisation, ranges, thresholds, calibration, training volumes, measured accuracy.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import ModelError
from overseg.model.unusual import Usual

Float = npt.NDArray[np.float64]

VERSION = 1
SHIPPED = ("default", "default-tilted", "paper")

#: What of a card decides the answers; the rest tells about the training.
_SEMANTIC = ("version", "candidate_rule", "threshold", "review_from", "heads")

#: Of the tensors those that only tell about a candidate; `Usual` has them.
_TELLING = tuple(each.name for each in fields(Usual))


@dataclass(frozen=True)
class Head:
    """One perceptron and what its inputs must look like.

    Attributes
    ----------
    features : tuple of str
        Columns, in order.
    mean, scale : ndarray of float64, shape (F,)
        Inputs are (x - mean) / scale, cut to -`clip` .. `clip`.
    low, high : ndarray of float64, shape (F,)
        Range of every feature in training.
    clip : float
        Inputs further out count as this far out.
    temperature : float
        The last layer's value is divided by it before the sigmoid, so that probabilities are calibrated.
    sure_low, sure_high : float
        Below and above these the head needs no second opinion.
    weights, biases : tuple of ndarray of float64
        Of each layer, shapes (inputs, outputs) and (outputs,).
    usual : Usual, optional
        What its examples look like together; models of before it was kept have none.
    """

    features: tuple[str, ...]
    mean: Float
    scale: Float
    low: Float
    high: Float
    clip: float
    temperature: float
    sure_low: float
    sure_high: float
    weights: tuple[Float, ...]
    biases: tuple[Float, ...]
    usual: Usual | None = None

    def probability(self, features: Float) -> Float:
        """Probability that the two faces of each candidate belong to one cell.

        Parameters
        ----------
        features : ndarray of float64, shape (n, F)

        Returns
        -------
        ndarray of float64, shape (n,)
            A row's value has the same bits alone, in any batch and in any order.

        Raises
        ------
        ModelError
            If the number of features is not the model's.
        """
        probability: Float = self._values(features)[1]
        return probability

    def logit(self, features: Float) -> Float:
        """The last layer's value for each row, before temperature and sigmoid; see `probability`."""
        value: Float = self._values(features)[0]
        return value

    def unusual(self, features: Float) -> Float:
        """How unlike the examples it learned from each row is; it decides nothing.

        Parameters
        ----------
        features : ndarray of float64, shape (n, F)

        Returns
        -------
        ndarray of float64, shape (n,)
            Share, 0 to 1, of held-out examples that are less unusual; NaN where a feature is, and for all
            rows of a head that does not know. The same bits alone, in any batch and in any order.

        Raises
        ------
        ModelError
            If the number of features is not the model's.
        """
        rows = self._checked(features)
        if self.usual is None:
            return np.full(len(rows), np.nan)
        return self.usual.share(np.clip((rows - self.mean) / self.scale, -self.clip, self.clip))

    def _checked(self, features: Float) -> Float:
        rows = np.ascontiguousarray(features, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise ModelError(
                f"the model takes {len(self.features)} features, not an array of shape {rows.shape}",
                remedy="use a model that was trained with this version of overseg",
            )
        return rows

    def _values(self, features: Float) -> Float:
        rows = self._checked(features)
        out = np.empty((2, len(rows)))
        inputs = np.array([w.shape[0] for w in self.weights])
        outputs = np.array([w.shape[1] for w in self.weights])
        parts = zip(self.weights, self.biases, strict=True)
        flat = np.concatenate([part.ravel() for pair in parts for part in pair])
        _forward(rows, self.mean, self.scale, self.clip, flat, inputs, outputs, self.temperature, out)
        return out

    def out_of_range(self, features: Float) -> npt.NDArray[np.bool_]:
        """Rows with a feature further outside the training range than half of its width.

        Parameters
        ----------
        features : ndarray of float64, shape (n, F)

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        margin = 0.5 * (self.high - self.low)
        far = (features < self.low - margin) | (features > self.high + margin)
        return np.asarray(far.any(axis=1), bool)


@dataclass(frozen=True)
class Model:
    """A model as loaded from its two files.

    Attributes
    ----------
    name : str
        Of the files.
    card : dict
        The card as written.
    heads : dict of str to Head
        ``moments`` and ``full``, or ``paper``.
    threshold, review_from : float
        Merge from the first on; show to a person from the second on.
    digest : str
        SHA-256 over what of the weights and the card decides the answers.
    """

    name: str
    card: dict[str, Any] = field(repr=False)
    heads: dict[str, Head] = field(repr=False)
    threshold: float
    review_from: float
    digest: str

    def probability(self, features: Float, head: str) -> Float:
        """Probability that the faces belong to one cell, by one of the heads; see `Head.probability`.

        Raises
        ------
        ModelError
            If the model has no such head, or the number of features is not the head's.
        """
        return self.head(head).probability(features)

    def head(self, name: str) -> Head:
        """The head of that name.

        Raises
        ------
        ModelError
            If there is none.
        """
        if name not in self.heads:
            raise ModelError(
                f"the model has no head {name!r}",
                where=self.name,
                remedy=f"it has {', '.join(sorted(self.heads))}; train it anew, or use another model",
            )
        return self.heads[name]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _forward(rows, mean, scale, clip, flat, inputs, outputs, temperature, out):  # type: ignore[no-untyped-def]
    # Sums run over the inputs in order, for each output by itself: no batch or vector width changes a bit.
    widest = max(inputs.max(), outputs.max())
    here, there = np.empty(widest), np.empty(widest)
    for i in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            here[k] = min(max((rows[i, k] - mean[k]) / scale[k], -clip), clip)
        at = 0
        for layer in range(inputs.size):
            n, m = inputs[layer], outputs[layer]
            for j in range(m):
                there[j] = flat[at + n * m + j]
            for k in range(n):
                value, first = here[k], at + k * m
                for j in range(m):
                    there[j] += value * flat[first + j]
            at += n * m + m
            last = layer == inputs.size - 1
            for j in range(m):
                here[j] = there[j] if last else max(there[j], 0.0)
        out[0, i] = here[0]
        out[1, i] = 1.0 / (1.0 + math.exp(-here[0] / temperature))


def load(name_or_path: str | Path = "default") -> Model:
    """Load a shipped model by name, or one from a file.

    Parameters
    ----------
    name_or_path : str or Path
        ``default``, ``default-tilted``, ``paper``, or a ``.safetensors`` file with its card ``.json``
        beside it.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If a file is missing, damaged, no model, or from a newer version.
    """
    path = Path(name_or_path)
    if str(name_or_path) in SHIPPED:
        path = Path(__file__).with_name("weights") / f"{name_or_path}.safetensors"
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{str(name_or_path)!r} is neither a shipped model nor a model file",
            remedy=f"name one of {', '.join(SHIPPED)}, or a .safetensors file; pickles are never loaded",
        )
    contents = []
    for part in (path, path.with_suffix(".json")):
        try:
            contents.append(part.read_bytes())
        except OSError as error:
            raise ModelError(
                f"cannot read the model: {error.strerror}",
                where=str(part),
                remedy="a model is two files, NAME.safetensors and NAME.json, side by side",
            ) from None
    return _read(str(name_or_path), contents[0], contents[1])


def save(path: str | Path, heads: dict[str, Head], card: dict[str, Any]) -> Model:
    """Write a model as its two files, and load it from there.

    Parameters
    ----------
    path : str or Path
        ``NAME.safetensors``; the card goes to ``NAME.json`` beside it.
    heads : dict of str to Head
    card : dict
        ``threshold``, ``review_from`` and everything there is to tell about the training.

    Returns
    -------
    Model
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    tensors, described = {}, {}
    for name, head in sorted(heads.items()):
        for i, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
            tensors[f"{name}.{i}.weight"] = np.ascontiguousarray(weight, np.float64)
            tensors[f"{name}.{i}.bias"] = np.ascontiguousarray(bias, np.float64)
        for key in _TELLING if head.usual is not None else ():
            tensors[f"{name}.usual.{key}"] = np.ascontiguousarray(getattr(head.usual, key), np.float64)
        described[name] = {
            "features": list(head.features),
            **{key: getattr(head, key).tolist() for key in ("mean", "scale", "low", "high")},
            **{key: getattr(head, key) for key in ("clip", "temperature", "sure_low", "sure_high")},
            "layers": len(head.weights),
        }
    weights = to_bytes(tensors)
    full = {
        **card,
        "version": VERSION,
        "heads": described,
        "weights_sha256": _sha256(weights),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights)
    path.with_suffix(".json").write_text(json.dumps(full, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return (
        load(path) if path.suffix == ".safetensors" else _read(str(path), weights, json.dumps(full).encode())
    )


def _read(name: str, weights: bytes, card_text: bytes) -> Model:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    remedy = "get the model's two files again; they belong together"
    try:
        card = json.loads(card_text)
        version = card["version"]
        if version > VERSION:
            raise ModelError(
                f"the model is of version {version}, newer than this overseg",
                where=name,
                remedy="update overseg",
            )
        if _sha256(weights) != card["weights_sha256"]:
            raise ModelError("the weights are not those the card was written for", where=name, remedy=remedy)
        tensors = from_bytes(weights)
        heads = {key: _head(key, described, tensors) for key, described in card["heads"].items()}
        threshold, review_from = float(card["threshold"]), float(card["review_from"])
        if not heads or not 0 <= review_from <= threshold <= 1:
            raise ValueError("it has no heads, or thresholds outside 0..1")
        meaning = {key: card.get(key) for key in _SEMANTIC}
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":")) + _deciding(card, tensors)
        digest = _sha256(text.encode())
        return Model(name, card, heads, threshold, review_from, digest)
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise ModelError(
            f"the model is damaged: {type(error).__name__} {error}", where=name, remedy=remedy
        ) from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _deciding(card: dict[str, Any], tensors: dict[str, Any]) -> str:
    """SHA-256 of the weights as their file would be without what only tells."""
    from safetensors.numpy import save as to_bytes

    kept = {name: values for name, values in tensors.items() if ".usual." not in name}
    return str(card["weights_sha256"] if len(kept) == len(tensors) else _sha256(to_bytes(kept)))


def _head(name: str, described: dict[str, Any], tensors: dict[str, Any]) -> Head:
    columns = tuple(str(feature) for feature in described["features"])
    numbers = {key: np.array(described[key], np.float64) for key in ("mean", "scale", "low", "high")}
    layers = range(int(described["layers"]))
    weights = tuple(np.ascontiguousarray(tensors[f"{name}.{i}.weight"], np.float64) for i in layers)
    biases = tuple(np.ascontiguousarray(tensors[f"{name}.{i}.bias"], np.float64) for i in layers)
    widths = [len(columns), *(len(bias) for bias in biases)]
    fits = all(w.shape == pair for w, pair in zip(weights, pairwise(widths), strict=True))
    sized = all(values.shape == (len(columns),) for values in numbers.values())
    values = [*weights, *biases, *numbers.values()]
    usual = None
    if f"{name}.usual.factor" in tensors:
        told = (np.ascontiguousarray(tensors[f"{name}.usual.{key}"], np.float64) for key in _TELLING)
        usual = Usual(*told)
        fits &= usual.fits(len(columns))
    if not fits or not sized or widths[-1] != 1 or not all(np.isfinite(v).all() for v in values):
        raise ModelError(
            f"weights and features of head {name!r} do not fit each other",
            remedy="get the model's two files again; they belong together",
        )
    scalars = {key: float(described[key]) for key in ("clip", "temperature", "sure_low", "sure_high")}
    return Head(
        columns,
        numbers["mean"],
        numbers["scale"],
        numbers["low"],
        numbers["high"],
        scalars["clip"],
        scalars["temperature"],
        scalars["sure_low"],
        scalars["sure_high"],
        weights,
        biases,
        usual,
    )
