"""The authors' weights of arXiv 2502.01890 as a model of ours, for whoever holds them, to compare."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy.typing as npt

from overseg.errors import InputError, MissingPackageError, ModelError
from overseg.measure import tensors
from overseg.model.geoseg import geoseg_head
from overseg.model.mlp import Model, save

#: Limits: bytes of the file; seconds, and bytes beyond what torch itself takes, of the process that reads it.
LARGEST = 16 << 20
SECONDS = 120
ROOM = 256 << 20

_REMEDY = "give mlp_model_epoch_50.pth of the authors' repository, or a file of torch.save(net.state_dict())"


def import_geoseg(file: str | Path, out: str | Path) -> Model:
    """Make a model of the weights that the authors of arXiv 2502.01890 released.

    Nothing of the file is unpickled here: a process apart reads it with torch's ``weights_only``, and hands
    over tensors alone. The model is used with ``preset="paper"``: candidates, features and threshold are
    those of the authors' code (see `overseg.model.geoseg`), and only gaps are judged.

    Parameters
    ----------
    file : str or Path
        ``.pth`` file with the network's state_dict and nothing else.
    out : str or Path
        ``NAME.safetensors``; the card goes to ``NAME.json`` beside it.

    Returns
    -------
    Model
        With the one head ``geoseg``.

    Raises
    ------
    InputError
        If `out` is no model file.
    ModelError
        If the file cannot be read, holds anything but tensors, or tensors of another network.
    MissingPackageError
        If torch is not installed.
    """
    if Path(out).suffix != ".safetensors":
        raise InputError(
            "a model is a .safetensors file", where=str(out), remedy="name the output NAME.safetensors"
        )
    path = Path(file)
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(
                f"the file has {path.stat().st_size:,} bytes; GeoSeg's weights have about 50,000",
                where=str(path),
                remedy=_REMEDY,
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the weights: {error.strerror}", where=str(path), remedy="check the path"
        ) from None
    head = geoseg_head(_read_apart(content, str(path)), str(path))
    card = {
        "threshold": 0.5,
        "review_from": 0.5,
        "candidate_rule": "paper",
        "max_gap": 1,
        "origin": {
            "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "method": "arXiv 2502.01890, code released as github.com/PeterLauLukChen/GeoSeg",
        },
        "licence": "the authors' affair: ask them before you pass these weights on",
        "note": "imported for comparison; use with --preset paper. Trained by others: range of the features, "
        "training volumes and accuracy are not known, and nothing is calibrated",
    }
    return save(out, {"geoseg": head}, card)


def _read_apart(content: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """Tensors of a file's bytes, read by another process."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(
            "reading a .pth file needs torch, which is not installed", remedy="pip install 'overseg[torch]'"
        )
    program = [sys.executable, "-P", "-W", "ignore", tensors.__file__, str(SECONDS), str(ROOM)]
    quiet = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            program, env=quiet, input=content, capture_output=True, timeout=2 * SECONDS, check=False
        )
        if done.returncode == tensors.REFUSED:
            why = done.stdout[:300].decode(errors="replace")
            raise ModelError(f"the file is refused: {why}", where=where, remedy=_REMEDY)
        if done.returncode == 0:
            return dict(load(done.stdout))
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        what = f"the process that reads it ended with {done.returncode} ({last[0][:200]})"
    except subprocess.TimeoutExpired:
        what = f"it was not read within {2 * SECONDS} s"
    except SafetensorError as error:
        what = f"the process that reads it answered nonsense ({error})"
    raise ModelError(f"the weights could not be read: {what}", where=where, remedy=_REMEDY)
