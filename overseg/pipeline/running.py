"""An executor for one command on a plan folder, with the folder's log around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overseg.cluster.failures import this_worker
from overseg.cluster.part import Ended
from overseg.errors import OversegError
from overseg.pipeline.request import Request
from overseg.settings import RunSettings

if TYPE_CHECKING:
    from overseg.cluster import Executor

_log = logging.getLogger(__name__)

#: Who names a number of workers gets it, however small the volume.
_MANY = 1_000_000


@contextmanager
def running(
    run: RunSettings, client: Any, hint: int, verb: str, folder: Path, request: Request | None = None
) -> Iterator[Executor]:
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
    request : Request, optional
        Noted there, so that a unit can be run again alone.
    """
    from overseg import cluster

    hint = _MANY if run.workers else hint
    opened = cluster.open_executor(run, client=client, tasks_hint=hint, home=folder / "run")
    with opened as executor, logged(executor, verb, folder, request):
        yield executor


@contextmanager
def logged(executor: Executor, verb: str, folder: Path, request: Request | None = None) -> Iterator[None]:
    """Keep an executor's log in a plan folder, from the beginning of a command to its end."""
    executor.log_to(folder / "run", None if request is None else partial(request.save, folder))
    add = executor.events.add
    facts: dict[str, Any] = {"workers": executor.workers, "memory": executor.memory, "driver": this_worker()}
    if executor.dashboard:
        _log.info("what Dask is doing: %s", executor.dashboard)
    add("begin", command=verb, dashboard=executor.dashboard, **facts)
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
