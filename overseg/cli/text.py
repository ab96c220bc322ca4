"""Answers for people: aligned, with thousands separators, and with what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import typer

_INITIALS = {"ap", "id", "iou", "ome", "voi"}

Rows = Iterable[tuple[str, Any, str]]


def warning_lines(warnings: Iterable[str]) -> list[str]:
    """Warnings, one a line, so that nobody overlooks them."""
    return [typer.style("warning: ", fg=typer.colors.YELLOW, bold=True) + text for text in warnings]


def table(rows: Rows) -> list[str]:
    """Name, value and remark in columns; rows without a value are left out."""
    shown = [(name, number(value), remark) for name, value, remark in rows if value is not None]
    wide = max((len(name) for name, _, _ in shown), default=0)
    right = max((len(value) for _, value, _ in shown), default=0)
    return [f"  {name:<{wide}}  {value:>{right}}  {remark}".rstrip() for name, value, remark in shown]


def facts(said: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Any nested values as aligned lines, for commands whose answer has no fixed shape."""
    wide = max((len(_name(key)) for key, value in said.items() if not _nested(value)), default=0)
    lines = []
    for key, value in said.items():
        pad = " " * indent
        if isinstance(value, Mapping) and value:
            lines += [f"{pad}{_name(key)}", *facts(value, indent + 2)]
        elif _nested(value):
            lines.append(f"{pad}{_name(key)}")
            for item in value:
                inner = facts(item, indent + 4) if isinstance(item, Mapping) else [f"{pad}    {number(item)}"]
                lines += [inner[0][: indent + 2] + "-" + inner[0][indent + 3 :], *inner[1:]]
        elif value is not None and value not in ({}, []):
            shown = size(value) if key.endswith("bytes") and isinstance(value, int) else number(value)
            lines.append(f"{pad}{_name(key):<{wide}}  {shown}")
    return lines


def steps(*pairs: tuple[str, str]) -> list[str]:
    """What to do next: a purpose and a command line each."""
    wide = max(len(purpose) for purpose, _ in pairs)
    return ["", *(f"{purpose + ':':<{wide + 1}}  {line}" for purpose, line in pairs)]


def number(value: Any) -> str:
    """A value as a person writes it.

    Examples
    --------
    >>> number(1234567), number(0.51239), number([64, 512, 512]), number(True)
    ('1,234,567', '0.512', '64 x 512 x 512', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        numeric = all(isinstance(item, int | float) for item in value)
        return (" x " if numeric else ", ").join(number(item) for item in value)
    return str(value)


def span(seconds: float) -> str:
    """A time as a person says it.

    Examples
    --------
    >>> span(0.42), span(75), span(7500)
    ('0.4 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """A number of bytes as a person says it.

    Examples
    --------
    >>> size(512), size(3 << 20), size(5 << 30)
    ('512 B', '3.0 MiB', '5.0 GiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    at = min(len(units) - 1, int(math.log2(max(1, count)) // 10))
    return f"{count / 1024**at:.1f} {units[at]}" if at else f"{int(count)} B"


def _nested(value: Any) -> bool:
    return (isinstance(value, Mapping) and bool(value)) or (
        isinstance(value, list | tuple) and any(isinstance(item, Mapping | str) for item in value)
    )


def _name(key: object) -> str:
    words = str(key).removeprefix("n_").split("_")
    return " ".join(word.upper() if word in _INITIALS else word for word in words)
