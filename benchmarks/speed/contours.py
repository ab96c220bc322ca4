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
    found = [(np.stack(_plain(pair)), _own(pair)) for pair in chosen]
    # Where the plain outline has a hole, next to nothing is filled: its masks are then lines.
    closed = [(plain, own) for plain, own in found if 2 * plain.sum() > own.sum()]
    agree = sorted(round(_iou(plain, own), 4) for plain, own in closed)
    return {"pairs": len(chosen), "seconds": seconds, "iou": agree, "open": len(found) - len(closed)}


def _plain(pair: MaskPair) -> list[Any]:
    return reference.interpolated(pair.one, pair.two, pair.lag - 1)


def _own(pair: MaskPair) -> Any:
    return interpolate(pair.one, pair.two, pair.lag - 1, "contour")


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
        f"{data['pairs']} gaps of one and two layers. In {data['open']} of them the plain version's moved "
        "outline does not close, so that its mask stays empty inside; ours cannot. The others differ a "
        "little, since ours has one optimum and runs along the voxels' edges: IoU of both, median "
        f"{np.median(iou):.3f}, least {iou[0]:.3f}.",
    ]


def _line(name: str, seconds: dict[str, Any], n: int, times: float) -> str:
    low, middle, high = (1e3 * seconds[key] / n for key in ("min", "median", "max"))
    return f"| {name} | {middle:.2f} ({low:.2f}–{high:.2f}) | {times:.1f}× |"
