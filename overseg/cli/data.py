"""show, convert."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from overseg.cli import pages, text
from overseg.cli.command import Answer, command
from overseg.cli.options import BACKGROUND, COST, LABEL, VOXEL_SIZE
from overseg.errors import command_line

_PANEL = "Look and convert"


def register(app: typer.Typer) -> None:
    """Add the commands of this page."""
    command(
        app,
        _PANEL,
        "overseg show cells.zarr\noverseg show cells.overseg\noverseg show cells.overseg --why 17 4023",
        VOXEL_SIZE,
        BACKGROUND,
        LABEL,
        COST,
    )(show)
    command(
        app,
        _PANEL,
        "overseg convert stack.tif stack.zarr --voxel-size 1 0.25 0.25\noverseg convert stack.zarr fixed.tif",
        LABEL,
        VOXEL_SIZE,
    )(convert)


def show(
    target: Annotated[str, typer.Argument(help="A plan folder or a volume.", metavar="PLAN|VOLUME")],
    why: Annotated[
        list[int] | None,
        typer.Option(
            help="Of a plan: all candidates of a label, or of a pair, and what moved each decision.",
            metavar="LABEL [LABEL]",
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", metavar="", help="Of a plan: how far its running command is, until it ends."
        ),
    ] = False,
    **options: Any,
) -> Answer:
    """Say what a plan or a volume is, what will happen, and what looks odd."""
    from overseg.cluster.progress import open_progress
    from overseg.views.follow import follow as follow_run
    from overseg.views.show import show

    with open_progress() as progress:
        if follow:
            told = follow_run(target, progress, lambda line: typer.echo(line, err=True))
            return Answer(told, [], code=1 if told["why"] else 0)
        said = show(target, why=why or (), progress=progress, **options)
    page = pages.why if "why" in said else pages.plan if "plan_hash" in said else pages.volume
    return Answer(said, page(said))


def convert(
    source: Annotated[str, typer.Argument(help="TIFF, HDF5, npy, npz or Zarr.", metavar="IN")],
    destination: Annotated[
        str, typer.Argument(help="A new .ome.zarr, .zarr, .tif, .ome.tif, .h5, .npy or .npz.", metavar="OUT")
    ],
    **options: Any,
) -> Answer:
    """Turn TIFF, HDF5, npy or npz labels into Zarr or OME-Zarr, and back."""
    from overseg.volume.convert import convert

    said = convert(source, destination, **options)
    lost = [] if said["voxel_size_kept"] else [f"{said['format']} files keep no voxel size: note it down"]
    following = text.steps(("look at it", command_line("show", said["output"])))
    zarr = following if "zarr" in said["format"] else []
    return Answer(said, text.warning_lines(lost) + text.facts(said) + zarr)
