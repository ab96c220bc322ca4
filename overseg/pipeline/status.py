"""How far a plan got on its volume."""

from __future__ import annotations

from pathlib import Path

from overseg.errors import VolumeError
from overseg.pipeline.plandata import PlanData
from overseg.volume import Volume, open_volume
from overseg.volume.state import PLANNED, read_state


def phase_of(folder: str | Path, plan: PlanData, volume: Volume | None = None) -> str:
    """The phase of a plan, as its volume has it.

    Parameters
    ----------
    folder : str or Path
        The plan folder; only named in errors.
    plan : PlanData
    volume : Volume, optional
        Where the volume is now, if not where the plan says.

    Returns
    -------
    str
        ``planned``, ``applying``, ``applied``, ``undoing`` or ``undone``; ``planned`` too when the volume is
        not there any more, since nothing of the plan is in force then.

    Raises
    ------
    VolumeError
        If the volume's own record is damaged.
    """
    try:
        found = volume if volume is not None else open_volume(plan.volume["location"])
    except VolumeError:
        return PLANNED
    return read_state(found).phase(plan.hash)
