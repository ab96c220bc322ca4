"""The program ``overseg``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from overseg.cli import cluster, data, learning, repair
from overseg.cli.command import GOES_ON, Stopped, on_signals, this_command

_ANY_LENGTH = ("--background", "--why")
_NUMBERS = ("--background", "--voxel-size")


class _Program(TyperGroup):
    """Options of any length: ``--background 0 5`` is ``--background 0 --background 5``, and so is ``0,5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        apart: list[str] = []
        for word in args:
            apart += word.split(",") if apart and apart[-1] in _NUMBERS else [word]
        words: list[str] = []
        for word in apart:
            again = word.isdigit() and len(words) > 1 and words[-2] in _ANY_LENGTH and words[-1].isdigit()
            words += [words[-2], word] if again else [word]
        return super().parse_args(ctx, words)


app = typer.Typer(
    cls=_Program,
    help="Find and repair oversegmented cells in 3D label volumes.",
    epilog="Start with:\n\noverseg show cells.zarr\n\noverseg plan cells.zarr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
repair.register(app)
data.register(app)
learning.register(app)
cluster.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        import overseg

        typer.echo(f"overseg {overseg.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Options of the program itself."""


class _Notes(logging.Handler):
    """What happens on the way, such as a worker that died, a line each on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)  # between the bars, if there are any


def main() -> None:
    """Run the program; the entry point of the console script."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' notes to programmers; what users need is in the answer
    # POT would load torch and its kin, if they are there, for seconds; a program of its own may say no.
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    logging.getLogger("overseg").addHandler(_Notes())
    logging.getLogger("overseg").setLevel(logging.INFO)
    on_signals()
    try:
        app()
    except Stopped as stopped:  # before or after a command proper
        typer.echo(f"stopped; {GOES_ON}\n  {this_command()}", err=True)
        raise SystemExit(stopped.code) from None
