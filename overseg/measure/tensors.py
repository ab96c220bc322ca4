"""Read the tensors of one .pth file: a program by itself, run as a process apart by `overseg.measure.geoseg`.

    python tensors.py SECONDS BYTES < FILE.pth

It writes safetensors to standard output and ends with 0, or writes why it does not and ends with `REFUSED`.
torch reads the file with ``weights_only``, which knows tensors and plain containers and calls nothing that a
pickle names. Should that ever fail, little is left to do harm with: before the first byte of the file is
looked at, the process gives up opening files and sockets, writing to files, further memory and further time.
"""

from __future__ import annotations

import io
import resource
import sys
from pathlib import Path
from typing import Any

REFUSED = 3
_MOST_NUMBERS = 1_000_000


def main() -> int:
    """Read, check, write; the exit code."""
    import torch
    from safetensors.numpy import save

    content = sys.stdin.buffer.read()
    # Whatever torch imports only when it reads is imported now: afterwards no file can be opened.
    for legacy in (False, True):
        kept = io.BytesIO()
        torch.save({"x": torch.zeros(1)}, kept, _use_new_zipfile_serialization=not legacy)
        torch.load(io.BytesIO(kept.getvalue()), weights_only=True, map_location="cpu")
    save({"x": torch.zeros(1).numpy()})
    give_up(int(sys.argv[1]), int(sys.argv[2]))
    try:
        found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        tensors = _tensors(found, torch)
    except Exception as error:
        # torch's own words advise to read the file unsafely.
        tensors = f"torch reads nothing but tensors here, and finds something else ({type(error).__name__})"
    if isinstance(tensors, str):
        sys.stdout.buffer.write(tensors.encode())
        return REFUSED
    sys.stdout.buffer.write(save(tensors))
    return 0


def _tensors(found: Any, torch: Any) -> dict[str, Any] | str:
    """Plain arrays by name, or what else is in the file."""
    if not isinstance(found, dict):
        return f"it holds a {type(found).__name__} and not a dictionary of tensors"
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            return f"{str(name)[:80]!r} is a {type(value).__name__} and not a tensor"
        if value.dtype not in (torch.float32, torch.float64) or value.layout != torch.strided:
            return f"{name[:80]!r} is not a plain tensor of float32 or float64"
    if sum(value.numel() for value in found.values()) > _MOST_NUMBERS:
        return f"it holds more than {_MOST_NUMBERS:,} numbers"
    return {name: value.detach().contiguous().numpy() for name, value in found.items()}


def give_up(seconds: int, room: int) -> None:
    """Set limits that cannot be raised again."""
    size = Path("/proc/self/statm")
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + seconds),
    ]
    if size.exists():  # elsewhere the address space says nothing
        held = int(size.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        limits.append((resource.RLIMIT_AS, held + room))
    limits.append((resource.RLIMIT_NOFILE, 0))
    for which, most in limits:
        resource.setrlimit(which, (most, most))


if __name__ == "__main__":
    sys.exit(main())
