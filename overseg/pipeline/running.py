"""An executor for one command on a plan folder, with the folder's log around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overseg.cluster.part import Ended
from overseg.errors import OversegError
from overseg.settings import RunSettings

if TYPE_CHECKING:
    from overseg.cluster import Executor

#: Who names a number of workers gets it, however small the volume.
_MANY = 1_000_000


@contextmanager
def running(run: RunSettings, client: Any, hint: int, verb: str, folder: Path) -> Iterator[Executor]:
    """An executor for about `hint` tasks, or for the workers that were named, for the time of a block.

    Parameters
    ----------
    run : RunSettings
    client : distributed.Client, optional
        A running cluster to use.
    hint : int
        About how many units the largest step has.
    verb : str
        The command, for the log.
    folder : Path
        The plan folder.
    """
    from overseg import cluster

    hint = _MANY if run.workers else hint
    with cluster.open_executor(run, client=client, tasks_hint=hint) as ex, logged(ex, verb, folder):
        yield ex


@contextmanager
def logged(executor: Executor, verb: str, folder: Path) -> Iterator[None]:
    """Keep an executor's log in a plan folder, from the beginning of a command to its end."""
    executor.log_to(folder / "run")
    add = executor.events.add
    add("begin", command=verb, workers=executor.workers, memory=executor.memory, dashboard=executor.dashboard)
    try:
        yield
    except Ended:
        add("end", command=verb)
        raise
    except BaseException as error:
        add("end", command=verb, why=error.what if isinstance(error, OversegError) else type(error).__name__)
        raise
    add("end", command=verb)


def tasks_hint(units: int) -> int:
    """About how many quarter-second tasks it is worth to read or write that many units."""
    return 1 + units // 64
