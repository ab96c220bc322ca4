"""Features and models. Loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Head", "Model", "load", "save"]

if TYPE_CHECKING:
    from overseg.model.mlp import Head, Model, load, save


def __getattr__(name: str) -> Any:
    if name in __all__:
        from overseg.model import mlp

        return getattr(mlp, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
