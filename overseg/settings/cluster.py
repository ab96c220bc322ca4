"""The table ``[cluster]``: who gives the workers, and what to ask them for."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from overseg.settings.checked import Checked, parse_size

Count = Annotated[int, Field(ge=1, le=10_000)]
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\n]*$")]

#: Bytes that a job takes beside its workers: the process that started them.
OF_JOB = 256 << 20

_TIME = re.compile(r"^(\d{1,3}):([0-5]\d):([0-5]\d)$")
_BATCH = ("slurm", "pbs", "lsf")
_OF_CARDS = ("gpu_queue", "gpu_memory", "gpu_directives")


def parse_time(text: str) -> int:
    """Seconds of a time such as ``"04:00:00"``.

    Parameters
    ----------
    text : str
        Hours, minutes and seconds.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the text is not such a time, or is no time at all.

    Examples
    --------
    >>> parse_time("01:30:00")
    5400
    """
    match = _TIME.match(text)
    seconds = 3600 * int(match[1]) + 60 * int(match[2]) + int(match[3]) if match else 0
    if seconds == 0:
        raise ValueError(f"{text!r} is not a time above zero: write HH:MM:SS, for example 04:00:00")
    return seconds


class ClusterSettings(Checked):
    """Who gives the workers. Jobs of a batch system hold one worker process with one thread per core.

    Attributes
    ----------
    kind : {"local", "slurm", "pbs", "lsf", "cuda", "address"}
        This machine's processors, a batch system, this machine's graphics cards, or a running scheduler.
    address : str, optional
        The Dask scheduler's; with kind "address".
    queue, account : str, optional
        Partition or queue, and whom to bill.
    walltime : str
        Of each job, HH:MM:SS. Workers end themselves before, between two units of work.
    cores : int
        Of each job.
    memory : int
        Bytes of each job; a text such as "16GiB" will do.
    minimum_jobs, maximum_jobs : int
        Jobs to keep while there is work, and the most to ask for.
    interface : str, optional
        Network interface that driver and workers reach each other by, such as "ib0".
    directives : tuple of str
        Further lines for the head of a job script, without "#SBATCH" or its like.
    prologue : tuple of str
        Lines of shell before the worker starts.
    gpu_jobs : int
        Jobs with one graphics card and one worker process, beside the others.
    gpu_queue, gpu_memory : optional
        As `queue` and `memory`, for these; the same when not given.
    gpu_directives : tuple of str
        As `directives`, for these: what asks for the card. SLURM has a default.
    python : str, optional
        The interpreter on the workers; the driver's own when not given.
    patience : str
        How long to wait while there is no worker at all, HH:MM:SS.
    """

    kind: Literal["local", "slurm", "pbs", "lsf", "cuda", "address"]
    address: Line | None = None
    queue: Line | None = None
    account: Line | None = None
    walltime: str | None = None
    cores: Count = 1
    memory: int | None = None
    minimum_jobs: Count = 1
    maximum_jobs: Count = 10
    interface: Line | None = None
    directives: tuple[Line, ...] = ()
    prologue: tuple[str, ...] = ()
    gpu_jobs: Annotated[int, Field(ge=0, le=10_000)] = 0
    gpu_queue: Line | None = None
    gpu_memory: int | None = None
    gpu_directives: tuple[Line, ...] = ()
    python: Line | None = None
    patience: str = "12:00:00"

    @field_validator("memory", "gpu_memory", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str | int) else value

    @field_validator("walltime", "patience", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        return str(value) if isinstance(value, time | int) else value  # what TOML makes of 04:00:00, and of 4

    @field_validator("walltime", "patience")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_time(value)
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        given = self.model_fields_set - {"kind"}
        if not self.is_batch:
            strange = sorted(given - ({"address"} if self.kind == "address" else set()))
            if strange:
                raise ValueError(f"{', '.join(strange)}: no part of {self.told}; leave it out")
            if self.kind == "address" and self.address is None:
                raise ValueError('kind "address" needs address, such as "tcp://10.0.0.5:8786"')
            return self
        if "address" in given:
            raise ValueError(f'address: {self.told} starts a scheduler of its own; or give kind = "address"')
        for name, example in (("walltime", "04:00:00"), ("memory", "16GiB")):
            if getattr(self, name) is None:
                raise ValueError(f'{self.told} needs {name} of a job, such as {name} = "{example}"')
        for name in ("memory", "gpu_memory"):
            size = getattr(self, name)
            if size is not None and size <= OF_JOB:
                raise ValueError(
                    f"{name} of {size:,} bytes is too little: {OF_JOB >> 20} MiB are the job's own; "
                    f'give a unit as well, such as {name} = "16GiB"'
                )
        if self.minimum_jobs > self.maximum_jobs:
            raise ValueError(f"minimum_jobs {self.minimum_jobs} is above maximum_jobs {self.maximum_jobs}")
        return self._cards_are_whole(given)

    def _cards_are_whole(self, given: set[str]) -> Self:
        alone = sorted(given & set(_OF_CARDS))
        if alone and not self.gpu_jobs:
            raise ValueError(f"{', '.join(alone)}: there are no jobs with cards; give gpu_jobs = 1 or more")
        if self.gpu_jobs and self.kind != "slurm" and not self.gpu_directives:
            example = "-l select=1:ncpus=1:ngpus=1" if self.kind == "pbs" else '-gpu "num=1"'
            raise ValueError(f"{self.told} needs gpu_directives that ask for a card, such as ['{example}']")
        return self

    @property
    def is_batch(self) -> bool:
        """Whether the workers are jobs of a batch system."""
        return self.kind in _BATCH

    @property
    def told(self) -> str:
        """How a message names it."""
        return f'kind = "{self.kind}"'

    @property
    def walltime_seconds(self) -> int:
        """Of a job."""
        return parse_time(self.walltime or "")

    @property
    def patience_seconds(self) -> int:
        """How long to wait without any worker."""
        return parse_time(self.patience)

    @property
    def asks_for_card(self) -> tuple[str, ...]:
        """Head lines of a job with a card."""
        return self.gpu_directives or (("--gres=gpu:1",) if self.kind == "slurm" else ())
