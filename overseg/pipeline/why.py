"""Why the candidates of a plan were decided as they were, from the features that it keeps and its model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.errors import InputError, ModelError
from overseg.model.across import with_penalty
from overseg.model.explain import Push, explain
from overseg.model.wording import GROUPS
from overseg.pipeline.models import Models
from overseg.pipeline.planfile import damaged
from overseg.settings import Settings

if TYPE_CHECKING:
    from overseg.model.mlp import Head
    from overseg.pipeline.plandata import PlanData

#: Heads of stages that have another name. What bounds decided has no distances: the first stage tells.
_HEADS = {"bounds": "moments", "contacts": "touching"}

#: What moved a decision, and what else there is to say of that.
Told = tuple[tuple[Push, ...], str | None]

_ROUGHLY = "roughly: the model does not know how its features go together; one that is trained anew does"

_NOT_MEASURED = "not explained: a part is too thin to be measured"

_NO_WORDS = "not explained: there are no words for what the authors' code measures"

_FACTS = ("t", "a", "b", "z", "gap", "kind", "p", "stage", "decision", "reason")


@dataclass(frozen=True)
class Why:
    """A candidate, what was decided, and why.

    Attributes
    ----------
    t, a, b, z, gap, kind, p, stage, decision, reason
        As in the plan's table of candidates.
    unusual : float or None
        Share of the examples that the model learned from that are less unusual; None where it is not known.
    pushes : tuple of Push
        What moved the decision, the strongest first.
    note : str or None
        Why there are no `pushes`, or how far they can be trusted.
    """

    t: int
    a: int
    b: int
    z: int
    gap: int
    kind: str
    p: float
    stage: str
    decision: str
    reason: str
    unusual: float | None
    pushes: tuple[Push, ...] = ()
    note: str | None = None


def rows_of(plan: PlanData, folder: Path, a: int, b: int | None = None) -> list[int]:
    """Rows of a plan's candidates that a label, or a pair of labels, is in.

    Parameters
    ----------
    plan : PlanData
    folder : Path
        The plan folder.
    a, b : int
        Labels of the volume as it was before.

    Returns
    -------
    list of int

    Raises
    ------
    InputError
        If there are none.
    """
    one, two = (plan.candidates[name].to_numpy() for name in "ab")
    mine = (one == a) | (two == a)
    rows = np.flatnonzero(mine if b is None else (one == a) & (two == b) | (one == b) & (two == a))
    if len(rows):
        return [int(row) for row in rows]
    with_a = sorted({int(label) for label in [*one[mine], *two[mine]]} - {a})
    if b is not None and with_a:
        others = ", ".join(map(str, with_a[:10])) + (" and more" if len(with_a) > 10 else "")
        raise InputError(
            f"labels {a} and {b} are no candidate: they do not face or touch as parts of one cell may",
            where=str(folder),
            remedy=f"label {a} was judged with {others}",
        )
    raise InputError(
        f"label {a} is in no candidate: it ends nowhere opposite another label, or is not in the volume",
        where=str(folder),
        remedy="give a label of the volume as it was before; `overseg show` of the plan names some",
    )


def whys(plan: PlanData, folder: Path, rows: Sequence[int]) -> list[Why]:
    """Why some candidates of a plan were decided as they were.

    Parameters
    ----------
    plan : PlanData
    folder : Path
        The plan folder.
    rows : sequence of int
        Of the plan's candidates.

    Returns
    -------
    list of Why
        In that order; without `pushes` where the model is not there any more, or the features are not.

    Raises
    ------
    PlanError
        If the plan's table of candidates is damaged.
    """
    if not len(rows):
        return []
    settings = Settings(**plan.settings)
    try:
        models = Models.of(settings)
        note = None if models.digest == plan.model else _changed(settings)
    except ModelError as error:
        models, note = Models(None, None), f"not explained: {error.what}"
    found = read_rows(folder, rows)
    told: list[Told] = [((), note)] * len(found) if note else _explained(found, models, settings)
    return [
        Why(**{name: row[name] for name in _FACTS}, unusual=_known(row), pushes=pushes, note=why)
        for row, (pushes, why) in zip(found, told, strict=True)
    ]


def _known(row: dict[str, Any]) -> float | None:
    unusual = row.get("unusual", math.nan)
    return float(unusual) if math.isfinite(unusual) else None


def _changed(settings: Settings) -> str:
    return f"not explained: model {settings.model_name!r} is not the one any more that made this plan"


def _explained(rows: list[dict[str, Any]], models: Models, settings: Settings) -> list[Told]:
    """What moved each decision; all that one head judged at once."""
    by_head: dict[tuple[bool, str], list[int]] = {}
    for at, row in enumerate(rows):
        by_head.setdefault((row["kind"] == "touch", _HEADS.get(row["stage"], row["stage"])), []).append(at)
    told: dict[int, Told] = {}
    for (touch, name), mine in by_head.items():
        model = models.touching if touch else models.gaps
        head = None if model is None else model.heads.get(name)
        told |= zip(mine, _of_head(head, name, [rows[at] for at in mine], touch, settings), strict=True)
    return [told[at] for at in range(len(rows))]


def _of_head(
    head: Head | None, name: str, rows: list[dict[str, Any]], touch: bool, settings: Settings
) -> list[Told]:
    if head is None:
        return [((), f"not explained: the model has no head {name!r}")] * len(rows)
    if name not in GROUPS:
        return [((), _NO_WORDS)] * len(rows)
    shown = np.array([[row.get(each, math.nan) for each in head.features] for row in rows], np.float64)
    measured = np.isfinite(shown).all(axis=1)
    given = shown = shown[measured]
    if touch and name == "paper":
        given = with_penalty(shown, head.scale, settings.penalty, settings.emd_mode)
    found, note = iter(explain(head, given, GROUPS[name], shown)), _ROUGHLY if head.usual is None else None
    return [(next(found), note) if known else ((), _NOT_MEASURED) for known in np.atleast_1d(measured)]


def read_rows(folder: str | Path, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Some candidates of a plan that was read, with their features; no more is read than holds them.

    Parameters
    ----------
    folder : str or Path
        The plan folder.
    rows : sequence of int
        Rows of the plan's `candidates`.

    Returns
    -------
    list of dict
        In the order of `rows`: each column's value by its name; NaN where nothing was measured.

    Raises
    ------
    PlanError
        If the table is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, wanted = Path(folder) / "plan" / "candidates.parquet", np.asarray(rows, np.int64)
    found: dict[int, dict[str, Any]] = {}
    try:
        with pq.ParquetFile(path) as file:
            first = 0
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                here = np.unique(wanted[(wanted >= first) & (wanted < stop)])
                if len(here):
                    part = file.read_row_group(group, use_threads=False).take(here - first)
                    found |= dict(zip(here.tolist(), part.to_pylist(), strict=True))
                first = stop
        return [found[row] for row in wanted.tolist()]
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise damaged(path, str(error)) from error
