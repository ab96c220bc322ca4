"""What all models of settings have in common."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)


class Checked(BaseModel):
    """Unknown names are refused, and nothing changes once it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_size(text: str | int) -> int:
    """Bytes of a size such as ``"4GiB"``, ``"512M"`` or ``1000000``.

    Parameters
    ----------
    text : str or int
        A number with an optional unit. ``K``, ``M``, ``G``, ``T`` and their ``i`` forms are powers of 1024.

    Returns
    -------
    int
        The size in bytes.

    Raises
    ------
    ValueError
        If the text is not a size, or the size is not positive.

    Examples
    --------
    >>> parse_size("1.5GiB")
    1610612736
    """
    match = _SIZE.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a size: write for example 4GiB")
    size = int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    if size <= 0:
        raise ValueError(f"{text!r} is not a size: it must be above zero")
    return size
