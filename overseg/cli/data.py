"""show, convert."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from overseg.cli import text
from overseg.cli.command import Answer, command
from overseg.cli.options import LABEL, VOXEL_SIZE

_PANEL = "Look and convert"


def register(app: typer.Typer) -> None:
    """Add the commands of this page."""
    command(app, _PANEL, "overseg show cells.zarr\noverseg show cells.overseg", LABEL, VOXEL_SIZE)(show)
    command(
        app,
        _PANEL,
        "overseg convert stack.tif stack.zarr --voxel-size 1 0.25 0.25\noverseg convert stack.zarr fixed.tif",
        LABEL,
        VOXEL_SIZE,
    )(convert)


def show(
    target: Annotated[str, typer.Argument(help="A plan folder or a volume.", metavar="PLAN|VOLUME")],
    **options: Any,
) -> Answer:
    """Say what a plan or a volume is, what will happen, and what looks odd."""
    from overseg.show import show

    said = dict(show(target, **options))
    rest = {name: value for name, value in said.items() if name != "warnings"}
    return Answer(said, text.warning_lines(said.get("warnings") or ()) + text.facts(rest))


def convert(
    source: Annotated[str, typer.Argument(help="TIFF, HDF5, npy, npz or Zarr.", metavar="IN")],
    destination: Annotated[str, typer.Argument(help="A new file or Zarr, by its ending.", metavar="OUT")],
    **options: Any,
) -> Answer:
    """Turn TIFF, HDF5, npy or npz labels into Zarr or OME-Zarr, and back."""
    from overseg.cluster.progress import open_progress
    from overseg.volume.convert import convert

    with open_progress() as progress:
        said = convert(source, destination, progress=progress, **options).summary()
    return Answer(said, text.facts(said))
