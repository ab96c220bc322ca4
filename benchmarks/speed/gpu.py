"""The second stage on a GPU, against the same machine's processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Which device there is."""
    import torch

    return {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def figures(data: dict[str, Any]) -> dict[str, float]:
    """None without a device."""
    return {}


def table(data: dict[str, Any]) -> list[str]:
    """Whether it was run."""
    return [
        "Not run: no CUDA device was found." if data["device"] is None else f"Not run on {data['device']}."
    ]
