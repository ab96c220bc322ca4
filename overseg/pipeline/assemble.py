"""Put a plan together: tables, counts and warnings, and the hash that names it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.groups import Groups
from overseg.kernels.tables import Candidates
from overseg.model.unusual import UNUSUAL
from overseg.pipeline.decide import FILL, MERGE, Verdicts
from overseg.pipeline.expected import doubts, of_this_volume
from overseg.pipeline.health import warnings_of
from overseg.pipeline.parts import TimePoint
from overseg.pipeline.plandata import Features, Fills, Merges, PlanData, Units, compute_plan_hash
from overseg.pipeline.reconcile import fingerprint_text
from overseg.pipeline.scantables import ScanFile
from overseg.pipeline.score import Scores
from overseg.pipeline.settle import Settled
from overseg.pipeline.tilted import Joined, composed
from overseg.pipeline.touched import touched_units
from overseg.pipeline.unread import Unread
from overseg.settings import Settings, canonical

if TYPE_CHECKING:
    import pyarrow as pa

    from overseg.pipeline.models import Models
    from overseg.pipeline.touching import Pairs
    from overseg.volume import Volume

_FEW_STRANGE = 20  # so many unusual candidates are no news, whatever their share


@dataclass(frozen=True)
class Judged:
    """One time point, up to the decisions.

    Attributes
    ----------
    t : int
        Time point.
    found : TimePoint
    candidates : Candidates
    scores : Scores
    verdicts : Verdicts
    touching : int
        Flat contacts that nobody judged.
    joined : Joined, optional
        Contacts that were judged after the gaps.
    """

    t: int
    found: TimePoint
    candidates: Candidates
    scores: Scores
    verdicts: Verdicts
    touching: int
    joined: Joined | None = None

    @property
    def parts(self) -> tuple[Scores | Pairs, ...]:
        """What is known of gaps, and of contacts."""
        return (self.scores,) if self.joined is None else (self.scores, self.joined.touching.pairs)

    @property
    def groups(self) -> Groups:
        """The label that each relabelled one has in the end."""
        if self.joined is None:
            return self.verdicts.groups
        return composed(self.verdicts, self.joined.verdicts)


def put_together(
    volume: Volume,
    settings: Settings,
    models: Models,
    judged: list[Judged],
    settled: Settled,
    scanned: list[Path],
    unread: Unread,
    seconds: dict[str, float],
) -> PlanData:
    """The plan as values.

    Parameters
    ----------
    volume : Volume
    settings : Settings
    models : Models
        Those in force.
    judged : list of Judged
        All time points.
    settled : Settled
        Fills of all time points.
    scanned : list of Path
        Files of the scan tasks, which hold the digests of all units that were read.
    unread : Unread
        What could not be.
    seconds : dict
        By step; kept as it is.

    Returns
    -------
    PlanData
    """
    plain, fills = canonical(settings), settled.fills
    merges, table = _merges(judged), _table(judged)
    units = _units(volume, judged, settings, scanned, merges, fills)
    mark = fingerprint_text(each.found.fingerprint for each in judged)
    named = unread.named(volume)
    return PlanData(
        hash=compute_plan_hash(
            plain, models.digest, volume.shape, volume.voxel_size, mark, table, merges, fills, named
        ),
        settings=plain,
        model=models.digest,
        volume=_facts(volume, mark),
        counts=_counts(judged, settled, units),
        seconds=seconds,
        warnings=unread.warnings(volume) + _warnings(volume, judged, settled),
        candidates=table,
        merges=merges,
        fills=fills,
        units=units,
        partial=settings.region is not None or bool(unread.why),
        unread=named,
        measured={**models.measured, **_expected(judged, models)},
        features=_features(judged),
    )


def _expected(judged: list[Judged], models: Models) -> dict[str, Any]:
    """What is expected of gaps in this volume; contacts have no part in it."""
    own = [each.scores.own for each in judged if each.scores.own is not None]
    if not own:
        return {}
    off = models.measured.get("gap", {}).get("calibration_error", 0.0)
    done = [each.scores.p[np.isin(each.verdicts.decision, (MERGE, FILL))] for each in judged]
    found = of_this_volume(own, np.concatenate(done), off)
    return {"volume": found} if found else {}


def _merges(judged: list[Judged]) -> Merges:
    return Merges(
        np.concatenate([np.full(len(each.groups.old), each.t, np.int64) for each in judged]),
        np.concatenate([each.groups.old for each in judged]),
        np.concatenate([each.groups.new for each in judged]),
    )


def _units(
    volume: Volume, judged: list[Judged], settings: Settings, paths: list[Path], merges: Merges, fills: Fills
) -> Units:
    read = [ScanFile(path, settings.max_gap + 1).digests() for path in paths]
    numbers = np.concatenate([units for units, _ in read])
    order = np.argsort(numbers)
    layers = {each.t: each.found.layers for each in judged}
    return Units(
        level=np.zeros(len(numbers), np.int64),
        unit=numbers[order],
        digest=np.concatenate([digests for _, digests in read])[order],
        touched=np.isin(numbers[order], touched_units(volume.grid(0), layers, merges, fills)),
    )


def _table(judged: list[Judged]) -> pa.Table:
    """All candidates with probability, decision and reason."""
    import pyarrow as pa

    parts = []
    for each in judged:
        c = each.candidates
        columns: dict[str, Any] = {
            "t": np.full(len(c), each.t, np.int64),
            **{name: getattr(c, name) for name in ("a", "b", "z", "gap", "overlap")},
            "kind": pa.array(np.where(c.hole, "hole", "split"), pa.string()),
            "area_a": c.area_a,
            "area_b": c.area_b,
            "p": each.scores.p,
            "stage": pa.array(each.scores.stage, pa.string()),
            "unusual": each.scores.unusual,
            "decision": pa.array(each.verdicts.decision, pa.string()),
            "reason": pa.array(each.verdicts.reason, pa.string()),
        }
        parts.append(pa.table(columns))
        if each.joined is not None:
            parts.append(pa.table(_contacts(each.t, each.joined), schema=parts[-1].schema))
    return pa.concat_tables(parts, promote_options="default")


def _contacts(t: int, joined: Joined) -> dict[str, Any]:
    """Touching pairs as rows of the same table: faces in place of columns and areas."""
    pairs, n = joined.touching.pairs, len(joined.touching.pairs)
    return {
        "t": np.full(n, t, np.int64),
        "a": pairs.a,
        "b": pairs.b,
        "z": pairs.z,
        "gap": np.zeros(n, np.int64),
        "overlap": pairs.faces,
        "kind": ["touch"] * n,
        "area_a": pairs.faces_a,
        "area_b": pairs.faces_b,
        "p": pairs.p,
        "stage": joined.touching.stage.tolist(),
        "unusual": pairs.unusual,
        "decision": joined.verdicts.decision.tolist(),
        "reason": joined.verdicts.reason.tolist(),
    }


def _features(judged: list[Judged]) -> Features:
    """Of gaps and contacts, in the order of the table; NaN where a column is of the other kind."""
    parts = []
    for each in judged:
        parts.append(each.scores.features)
        parts += [each.joined.touching.features] if each.joined is not None else []
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    blocks = [partial(_placed, block, part.names, names) for part in parts for block in part.blocks]
    return Features(names, tuple(blocks))


def _placed(
    block: Callable[[], npt.NDArray[np.float64]], own: tuple[str, ...], names: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    rows = block()
    if own == names:
        return rows
    out = np.full((len(rows), len(names)), np.nan)
    out[:, [names.index(name) for name in own]] = rows
    return out


def _facts(volume: Volume, mark: str) -> dict[str, Any]:
    return {
        "location": volume.location,
        "name": volume.name,
        "axes": list(volume.axes),
        "shape": list(volume.shape),
        "times": volume.n_times,
        "dtype": str(volume.dtype),
        "voxel_size": list(volume.voxel_size),
        "fingerprint": mark,
        "levels": [
            {"path": level.path, "shape": list(level.shape), "unit_shape": list(level.unit_shape)}
            for level in volume.levels
        ],
    }


def _counts(judged: list[Judged], settled: Settled, units: Units) -> dict[str, Any]:
    joined = [each.joined for each in judged if each.joined is not None]
    verdicts = [each.verdicts for each in judged] + [each.verdicts for each in joined]
    decisions = np.concatenate([each.decision for each in verdicts])
    stages = np.concatenate([each.scores.stage for each in judged] + [each.touching.stage for each in joined])
    return {
        "cells": sum(each.found.labels for each in judged),
        "candidates": len(decisions),
        "decided_by_stage": {str(name): int((stages == name).sum()) for name in np.unique(stages)},
        "merged": int((decisions == "merge").sum()),
        "filled": int((decisions == "fill").sum()),
        "kept": int((decisions == "keep").sum()),
        "review": int((decisions == "review").sum()),
        **_of_unusual(judged),
        **_of_contacts(judged, joined),
        "voxels_filled": int((settled.fills.x1 - settled.fills.x0).sum()),
        "voxels_contested": int(settled.contested),
        "ids_lost": [int(label) for _, label in settled.lost.tolist()],
        "units_total": len(units.unit),
        "units_touched": int(units.touched.sum()),
    }


def _of_unusual(judged: list[Judged]) -> dict[str, int]:
    """How many candidates are unusual, where that is known."""
    shares = np.concatenate([part.unusual for each in judged for part in each.parts])
    return {"unusual": int((shares >= UNUSUAL).sum())} if np.isfinite(shares).any() else {}


def _of_contacts(judged: list[Judged], joined: list[Joined]) -> dict[str, Any]:
    """Contacts that nobody judged, and the share of the judged that was filtered out."""
    if not joined:
        return {"touching_not_judged": sum(each.touching for each in judged)}
    pairs = sum(len(each.touching.pairs) for each in joined)
    kept = sum(int((each.verdicts.decision != "merge").sum()) for each in joined)
    return {
        "touching_not_judged": sum(each.touching.slight for each in joined),
        "filtration_rate": round(kept / pairs, 4) if pairs else None,
    }


def _unlike(judged: Judged) -> list[str]:
    """A warning where most candidates are unlike what the model was trained on."""
    far = np.concatenate([part.out_of_range for part in judged.parts])
    beyond = np.concatenate([part.unusual for part in judged.parts]) >= UNUSUAL  # not where it is not known
    strange, several = int((far | beyond).sum()), len(far)
    if strange <= _FEW_STRANGE or 2 * strange <= several:
        return []
    told = f"{int(far.sum()):,} lie far outside its range and are not merged"
    if beyond.any():
        told = f"{int(beyond.sum()):,} are more unusual than {UNUSUAL:.0%} of its examples, {told}"
    return [
        f"{strange:,} of {several:,} candidates are unlike what the model was trained on: {told}. "
        "Look at some (overseg show PLAN --why LABEL) and review them, or train a model on a few labelled "
        "stacks (overseg train)."
    ]


def _warnings(volume: Volume, judged: list[Judged], settled: Settled) -> list[str]:
    lines = volume.warnings()
    for each in judged:
        at = f"Time {each.t}: " if volume.n_times > 1 else ""
        labels = each.found.labels
        if labels < 2:
            held = "only background" if labels == 0 else "only one label"
            lines.append(f"{at}The volume holds {held}: there is nothing to merge.")
        lines += [f"{at}{line}" for line in warnings_of(each.found.health)]
        lines += [f"{at}{line}" for line in doubts(each.scores.own)]
        lines += [f"{at}{line}" for line in _unlike(each)]
    if len(settled.spared):
        lines.append(
            f"{len(settled.spared)} labels would have vanished under restored masks: nothing was taken there."
        )
    return lines
