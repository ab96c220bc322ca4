"""Units that took all of a worker's memory, cut in two: no result depends on who shares a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overseg.cluster.executor import Args, Halve


def halving(batch: int = 1, path: int | None = None) -> Halve:
    """A function for `Executor.run` that halves units; those of a single thing are given up.

    Parameters
    ----------
    batch : int
        Which argument is the sequence of things to work on.
    path : int, optional
        Which argument names the file that a unit writes: each half has its own.
    """

    def halve(name: str, args: Args) -> dict[str, Args]:
        middle = len(args[batch]) // 2
        parts = (args[batch][:middle], args[batch][middle:]) if middle else ()
        return {f"{name}, half {i}": tuple(half(i, part, args)) for i, part in enumerate(parts, 1)}

    def half(i: int, part: Any, args: Args) -> Iterator[Any]:
        for at, value in enumerate(args):
            yield part if at == batch else f"{value}.{i}" if at == path else value

    return halve


def paths_in_order(names: Iterable[str], done: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Files of units in the order of `names`, and where one was halved those of its halves in its place.

    Parameters
    ----------
    names : iterable of str
        Units that were asked for.
    done : mapping of str to dict
        Receipts of those that were done.
    """
    place = {name: i for i, name in enumerate(names)}
    order = sorted(done, key=lambda name: (place[name.partition(", half")[0]], name))
    return [done[name]["path"] for name in order]
