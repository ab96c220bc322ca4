"""What the public functions give back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from overseg.pipeline.plandata import PlanData
    from overseg.pipeline.why import Why


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan on disk: what was found in a volume, what was decided, and what will change or has changed.

    Attributes
    ----------
    path : Path
        The plan folder, which a person can read.
    data : PlanData
        Its contents.
    rewritten : int
        Write units that the call which gave this plan has written.
    peak_rss_bytes : int
        Largest single process of that call, in bytes.
    phase : str
        ``planned``, ``applying``, ``applied``, ``undoing`` or ``undone``.
    """

    path: Path
    data: PlanData
    rewritten: int = 0
    peak_rss_bytes: int = 0
    phase: str = "planned"
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def hash(self) -> str:
        """Names the answer: equal for equal answers, whatever the layout of the volume or the cluster."""
        return self.data.hash

    @property
    def candidates(self) -> pa.Table:
        """Every candidate with its features, probability, decision and reason, as an Arrow table."""
        from overseg.pipeline.planfile import read_candidates

        return read_candidates(self.path)

    def why(self, a: int, b: int | None = None) -> list[Why]:
        """Why the candidates of a label, or of two, were decided as they were.

        Parameters
        ----------
        a, b : int
            Labels of the volume as it was before; with one alone, all of its candidates.

        Returns
        -------
        list of Why
            Decision, reason and probability, how unusual the candidate is, and what moved the decision, the
            strongest first: each with its push in log-odds (above zero: towards one cell) and words.

        Raises
        ------
        InputError
            If there is no such candidate.
        PlanError
            If the plan's table of candidates is damaged.
        """
        from overseg.pipeline.why import rows_of, whys

        return whys(self.data, self.path, rows_of(self.data, self.path, a, b))

    @property
    def warnings(self) -> list[str]:
        """What the user should know about the volume or the decisions."""
        return list(self.data.warnings)

    @property
    def unread(self) -> list[dict[str, str]]:
        """Write units that cannot be decoded, and why: labels near them are left alone."""
        return list(self.data.unread)

    def summary(self) -> dict[str, Any]:
        """The plan in numbers, as ``--json`` prints it."""
        return {
            "volume": self.data.volume["location"],
            "plan": str(self.path),
            "plan_hash": self.data.hash,
            "phase": self.phase,
            **self.data.counts,
            "units_rewritten": self.rewritten,
            "seconds": {**self.data.seconds, **dict(self.seconds)},
            "peak_rss_bytes": self.peak_rss_bytes,
            "partial": self.data.partial,
            "unread": self.unread,
            "warnings": list(self.data.warnings),
        }
