"""cluster check."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from overseg.cli import text
from overseg.cli.command import Answer, command
from overseg.cli.options import CONFIG, COST, SEMANTIC

_PANEL = "Run on a cluster"


def register(app: typer.Typer) -> None:
    """Add the commands of this page."""
    group = typer.Typer(no_args_is_help=True, help="Jobs of SLURM, PBS or LSF: see docs/clusters.md.")
    command(
        group,
        _PANEL,
        "overseg cluster check --config slurm.toml\noverseg cluster check cells.zarr --config slurm.toml",
        CONFIG,
        SEMANTIC,
        COST,
    )(check)
    group.callback()(_group)
    app.add_typer(group, name="cluster", rich_help_panel=_PANEL)


def _group() -> None:
    """Jobs of a batch system: SLURM, PBS or LSF."""


def check(
    volume: Annotated[
        str | None,
        typer.Argument(help="What is to be worked on, to see whether its tasks fit.", metavar="VOLUME"),
    ] = None,
    **options: Any,
) -> Answer:
    """See whether a config file's table of a cluster will do, and print the job scripts; submit nothing."""
    from overseg.pipeline.readiness import readiness
    from overseg.settings import build

    settings, run = build(**options)
    found = readiness(run, settings, volume)
    said = {
        "ok": not found.problems,
        "problems": [
            {"what": each.what, "where": each.where, "remedy": each.remedy} for each in found.problems
        ],
        "warnings": found.warnings,
        **found.facts,
        "scripts": found.scripts,
    }
    lines = []
    for name, script in found.scripts.items():
        lines += [f"# the job script of {name}", *script.splitlines(), ""]
    lines += text.facts(found.facts)
    lines += text.warning_lines(found.warnings)
    lines += [typer.style("problem: ", fg=typer.colors.RED, bold=True) + str(each) for each in found.problems]
    lines.append("" if found.problems else "nothing speaks against it; no job was submitted")
    return Answer(said, lines, code=1 if found.problems else 0)
