"""Which graphics card helps, if any: looked for where the work is done, not where it is sent out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overseg.errors import ResourceError

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.pipeline.distances import Device

#: What a driver for NVIDIA's cards leaves in the file system: natively, and under Windows.
_DRIVERS = ("dev/nvidiactl", "dev/dxg")


def choose(wish: Literal["auto", "cpu", "cuda"], executor: Executor, root: Path = Path("/")) -> Device | None:
    """The device that brackets distances; None where processors do it all.

    Decisions are the same on every device, so ``auto`` may choose by what there is.

    Parameters
    ----------
    wish : {"auto", "cpu", "cuda"}
        What the user asked for.
    executor : Executor
        Whose workers are asked.
    root : Path
        Where ``dev`` is.

    Raises
    ------
    ResourceError
        If ``cuda`` is asked for and the workers have none.
    """
    if wish == "cpu":
        return None
    if executor.cards:  # each task looks for itself: some may run where there is none
        return "cuda"
    if wish == "auto" and not any((root / driver).exists() for driver in _DRIVERS):
        return None
    ((_, found),) = executor.run("device", find_card, {"card": ()})
    if found["card"]:
        return "cuda"
    if wish == "auto":
        return None
    raise ResourceError(
        f"no graphics card can be used: {found['why']}",
        where="--device cuda",
        remedy="leave --device out: the answer is the same on every device",
    )


def find_card() -> dict[str, Any]:
    """The card of this process, or why there is none; a unit of work."""
    if find_spec("torch") is None:
        return {"card": None, "why": "torch is not installed (pip install 'overseg[gpu]')"}
    import torch

    if not torch.cuda.is_available():
        return {"card": None, "why": "torch finds no CUDA device"}
    return {"card": torch.cuda.get_device_name()}
