"""Which models are in force, and whether they were trained on what is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from overseg.errors import ModelError
from overseg.model import features, load
from overseg.model.across import ACROSS
from overseg.model.geoseg import GEOSEG
from overseg.model.measured import on_unseen
from overseg.model.touching import TOUCHING
from overseg.settings import digest

if TYPE_CHECKING:
    from overseg.model import Model
    from overseg.settings import Settings

TILTED = "default-tilted"
_KNOWN = {
    "moments": features.MOMENTS,
    "full": features.FULL,
    "paper": features.PAPER,
    "geoseg": GEOSEG,
    "touching": TOUCHING,
    "across": TOUCHING + ACROSS,
}


@dataclass(frozen=True)
class Models:
    """The models of a plan.

    Attributes
    ----------
    gaps : Model or None
        Judges splits across missing layers; None where they are not looked for.
    touching : Model or None
        Judges labels that touch.
    """

    gaps: Model | None
    touching: Model | None

    @classmethod
    def of(cls, settings: Settings) -> Models:
        """Those in force. Raises `ModelError` where one cannot be used."""
        gaps = touching = None
        if settings.kind != "tilted":
            gaps = load(settings.model_name)
            _check(gaps, _gap_head(gaps, settings))
        if settings.kind != "gap":
            published = settings.preset == "paper"
            own = settings.model != "default" and not published
            # A model of one's own for gaps may know nothing of contacts.
            known = own and (settings.kind == "tilted" or "touching" in load(settings.model).heads)
            name = "paper" if published else settings.model if known else TILTED
            touching = load(name)
            _check(touching, "paper" if published else "touching")
        return cls(gaps, touching)

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """What their cards tell of tissue that they had not seen, by the kind of candidates."""
        both = {"gap": self.gaps, "touch": self.touching}
        found = {kind: on_unseen(model.card) for kind, model in both.items() if model is not None}
        return {kind: facts for kind, facts in found.items() if facts}

    @property
    def digest(self) -> str:
        """Digest of the model; of both together where there are two."""
        both = [model.digest for model in (self.gaps, self.touching) if model is not None]
        return both[0] if len(both) == 1 else digest(both)


def _gap_head(model: Model, settings: Settings) -> str:
    """Name of the head that gaps are judged by."""
    published, imported = settings.preset == "paper", "geoseg" in model.heads
    if published and settings.model_name == "paper":
        return "paper"
    if published and not imported:
        raise ModelError(
            "the preset 'paper' takes no other model than one of the authors' weights",
            where=settings.model,
            remedy="leave out --model or --preset, or import theirs: overseg train --import-geoseg FILE.pth",
        )
    if imported and not published:
        raise ModelError(
            "imported weights need candidates and features as the authors' code has them",
            where=settings.model,
            remedy="add --preset paper, or use another model",
        )
    return "geoseg" if imported else "moments"


def _check(model: Model, head: str) -> None:
    model.head(head)
    for each, found in model.heads.items():
        if found.features != _KNOWN.get(each):
            raise ModelError(
                f"the model takes other features than this overseg measures (head {each!r})",
                where=model.name,
                remedy="use the overseg that trained it, or train it anew with `overseg train`",
            )
