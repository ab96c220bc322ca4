"""Contour interpolation against the plain version with POT, on layers of real cells, on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import reference
from benchmarks.speed.masks import MaskPair, pairs
from benchmarks.speed.timing import interleaved
from overseg.kernels.contours import interpolate


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Seconds over all pairs, and how well both agree."""
    chosen = [pair for pair in pairs(8 if small else 102) if pair.lag > 1]
    seconds = interleaved(
        {
            "plain, with POT": lambda: [_plain(pair) for pair in chosen],
            "overseg": lambda: [_own(pair) for pair in chosen],
        },
        2 if small else 5,
    )
    agree = [_iou(np.stack(_plain(pair)), _own(pair)) for pair in chosen]
    return {"pairs": len(chosen), "seconds": seconds, "iou": [round(each, 4) for each in sorted(agree)]}


def _plain(pair: MaskPair) -> list[Any]:
    return reference.interpolated(pair.one, pair.two, pair.lag - 1)


def _own(pair: MaskPair) -> Any:
    return interpolate(pair.one, pair.two, pair.lag - 1)


def _iou(one: Any, two: Any) -> float:
    return float((one & two).sum() / (one | two).sum())


def figures(data: dict[str, Any]) -> dict[str, float]:
    """There is no aim for this one."""
    return {}


def table(data: dict[str, Any]) -> list[str]:
    """Both ways."""
    plain, own = (data["seconds"][name] for name in ("plain, with POT", "overseg"))
    iou = data["iou"]
    return [
        "| way | ms per gap (range) | ÷ plain |",
        "|---|---|---|",
        _line("plain, with POT", plain, data["pairs"], 1.0),
        _line("overseg", own, data["pairs"], plain["median"] / own["median"]),
        "",
        f"{data['pairs']} gaps of one and two layers. The masks differ a little, since ours has one optimum "
        f"and runs along the voxels' edges: IoU of both, median {np.median(iou):.3f}, least {iou[0]:.3f}.",
    ]


def _line(name: str, seconds: dict[str, Any], n: int, times: float) -> str:
    low, middle, high = (1e3 * seconds[key] / n for key in ("min", "median", "max"))
    return f"| {name} | {middle:.2f} ({low:.2f}–{high:.2f}) | {times:.1f}× |"
