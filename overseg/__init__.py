"""overseg finds and repairs oversegmented cells in 3D label volumes.

The public functions are loaded when first used, so that importing overseg costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Plan": "overseg.pipeline.result",
    "apply": "overseg.api",
    "correct": "overseg.api",
    "load": "overseg.pipeline.lifecycle",
    "plan": "overseg.api",
    "show": "overseg.views.show",
    "undo": "overseg.api",
    "verify": "overseg.api",
    "convert": "overseg.volume.convert",
    "evaluate": "overseg.measure",
    "simulate": "overseg.measure",
    "train": "overseg.measure",
    "OversegError": "overseg.errors",
}

__all__ = [
    "OversegError",
    "Plan",
    "__version__",
    "apply",
    "convert",
    "correct",
    "evaluate",
    "load",
    "plan",
    "show",
    "simulate",
    "train",
    "undo",
    "verify",
]

if TYPE_CHECKING:
    from overseg.api import apply, correct, plan, undo, verify
    from overseg.errors import OversegError
    from overseg.measure import evaluate, simulate, train
    from overseg.pipeline.lifecycle import load
    from overseg.pipeline.result import Plan
    from overseg.views.show import show
    from overseg.volume.convert import convert


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'overseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
