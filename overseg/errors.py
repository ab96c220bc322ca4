"""One family of errors. Each names what went wrong, where, and what to do about it."""

from __future__ import annotations

import shlex


class OversegError(Exception):
    """Base of every error that overseg raises on purpose.

    Parameters
    ----------
    what : str
        What went wrong, in one sentence.
    where : str, optional
        The file, unit, label or option concerned.
    remedy : str, optional
        What the user can do next.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker and driver.
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def command_line(*words: object) -> str:
    """A command of ours that can be copied, whatever stands in a path."""
    return shlex.join(["overseg", *map(str, words)])


def more_memory(least: int | None = None) -> str:
    """What to do where a worker has too little memory: the option, or its like where jobs have the workers.

    Parameters
    ----------
    least : int, optional
        Bytes that would do.
    """
    much = "more" if least is None else f"{-(-least // 2**20)}MiB or more"
    return (
        f"give --memory {much} with fewer --workers; with jobs of [cluster], that much for each core, "
        "by more memory or fewer cores"
    )


def _rebuild(kind: type[OversegError], what: str, where: str | None, remedy: str | None) -> OversegError:
    return kind(what, where=where, remedy=remedy)


class InputError(OversegError, ValueError):
    """The caller asked for something that cannot be done: a bad path, option or array."""


class VolumeError(InputError):
    """The volume is missing, damaged, or not a label volume."""


class DamagedError(VolumeError):
    """Stored voxels cannot be decoded."""


class ModelError(InputError):
    """The model cannot be loaded or does not fit the features."""


class PlanError(InputError):
    """The plan is missing, damaged, unfinished, too new, or made for another volume."""


class ChangedError(OversegError):
    """The voxels are not what the plan expects: someone else wrote to the volume."""


class LockedError(OversegError):
    """Another run holds the volume."""


class StorageError(OversegError):
    """The store refused to read or write: disk full, read-only, permission lost."""


class ResourceError(OversegError):
    """The work does not fit the memory or the workers that were given."""


class TaskError(OversegError):
    """A unit of work failed for good; the others were done and kept."""


class MissingPackageError(OversegError, ImportError):
    """An optional package is needed for this and is not installed."""
