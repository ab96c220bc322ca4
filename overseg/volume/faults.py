"""What the operating system and zarr complain about, said in overseg's own errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from overseg.errors import DamagedError, OversegError, StorageError

_OWNER = "ask its owner for permission, then run the same command again; or work on a copy (`--output COPY`)"
_REMEDIES = {
    errno.ENOSPC: "free some space on that disk, then run the same command again",
    errno.EDQUOT: "your quota is used up: free some space, then run the same command again",
    errno.EFBIG: "no larger files are allowed: raise `ulimit -f`, then run the same command again",
    errno.EROFS: "the file system is mounted read-only: once it can be written, run the same command again; "
    "or work on a copy elsewhere (`--output COPY`)",
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EIO: "the disk or network file system reports a hardware error: check it before anything else",
    errno.ESTALE: "the network file system lost the file: check the mount, then run the same command again",
    errno.EMFILE: "raise the limit on open files (`ulimit -n 4096`), then run the same command again",
}
_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=\?)[^\s'\")]+=[^\s'\")]+")  # user:password, signed queries
_UNKNOWN = ("NoCredentialsError", "PartialCredentialsError")  # botocore's, which need not be installed
_DEFAULT = "check the disk or the connection, then run the same command again"


class Refusal(Exception):
    """A store did not hand over its bytes; all else that goes wrong in a read is the fault of the bytes."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def storage(what: str, where: str, secrets: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn what a store raises into `StorageError`, without the secrets that messages may carry."""
    try:
        yield
    except (OversegError, MemoryError):
        raise
    except Exception as error:
        raise storage_error(what, where, error, secrets) from None


def storage_error(what: str, where: str, error: BaseException, secrets: tuple[str, ...] = ()) -> StorageError:
    """The error of a store that refused to read or write."""
    error = error.cause if isinstance(error, Refusal) else error
    if isinstance(error, NotImplementedError):
        return StorageError(
            f"{what}: this kind of address can only be read",
            where=where,
            remedy="work on a copy (`--output COPY`)",
        )
    if type(error).__name__ in _UNKNOWN:
        return StorageError(
            f"{what}: {reason(error, secrets)}",
            where=where,
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true",
        )
    number = error.errno if isinstance(error, OSError) else None
    if "://" in where and number != errno.EACCES:  # what a disk would mean by it is not what a store does
        number = None
    if number is None and isinstance(error, PermissionError):  # object stores give no number
        number = errno.EACCES
    remedy = _DEFAULT if number is None else _REMEDIES.get(number, _DEFAULT)
    return StorageError(f"{what}: {reason(error, secrets)}", where=where, remedy=remedy)


def corrupt(where: str, error: BaseException, secrets: tuple[str, ...] = ()) -> DamagedError:
    """The error of voxels that are there but cannot be decoded."""
    return DamagedError(
        f"damaged voxels: the stored bytes cannot be decoded ({reason(error, secrets)})",
        where=where,
        remedy="restore that file from a copy, or run the segmentation of that part again",
    )


def reason(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """One line on an exception, with every secret blotted out."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _IN_URL.sub("***", text)
    return " ".join(str(text).split())[:300]
