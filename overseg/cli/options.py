"""The options that commands share, in groups; `overseg.settings` checks their values, like everybody's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

Group = dict[str, Any]

_ANSWER = "What decides the answer"
_RUNNING = "Where and how it runs"


def _answer(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_ANSWER)


def _running(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_RUNNING)


JSON: Group = {
    "as_json": Annotated[
        bool | None,
        typer.Option("--json", metavar="", help="Print one JSON object, and only that, on standard output."),
    ],
}

CONFIG: Group = {
    "config": Annotated[
        str | None,
        typer.Option(help="A TOML file of the options below; those given here win.", metavar="FILE.toml"),
    ],
}

LABEL: Group = {
    "label": Annotated[str | None, _answer("Which labels of an OME-Zarr image.", "NAME")],
}

VOXEL_SIZE: Group = {
    "voxel_size": Annotated[
        tuple[float, float, float] | None,
        _answer("Size of a voxel, in any one unit. By default the volume's metadata, else 1 1 1.", "Z Y X"),
    ],
}

BACKGROUND: Group = {
    "background": Annotated[
        list[int] | None, _answer("Labels that are no cells, such as 0 5. By default 0.", "ID")
    ],
}

SEMANTIC: Group = {
    **VOXEL_SIZE,
    **BACKGROUND,
    **LABEL,
    "region": Annotated[
        str | None,
        _answer("Voxels to work in; cells cut by its border go to review.", "Z0:Z1,Y0:Y1,X0:X1"),
    ],
    "kind": Annotated[
        Literal["gap", "tilted", "both"] | None,
        _answer("Which splits to look for: with layers missing, at surfaces of any tilt, or both."),
    ],
    "max_gap": Annotated[int | None, _answer("How many layers may be missing. By default 2.", "N")],
    "model": Annotated[str | None, _answer("What decides: a shipped model or a file.", "NAME|FILE")],
    "preset": Annotated[Literal["paper"] | None, _answer("The published method as written.")],
    "penalty": Annotated[
        float | None,
        _answer(
            "Of the published method for tilted splits: the more, the fewer merges. By default 1.3.", "P"
        ),
    ],
    "emd_mode": Annotated[
        Literal["minmax", "q1q3"] | None,
        _answer("Of the same: whether extremes of the distances count, or quartiles in their place."),
    ],
    "emd": Annotated[
        Literal["undecided", "all"] | None, _answer("Which candidates get earth mover's distances.")
    ],
    "transport": Annotated[
        Literal["fast", "exact"] | None,
        _answer("Distances within about 1%, and exact near a decision's border; or all exact."),
    ],
    "threshold": Annotated[
        float | None, _answer("Merge from this probability on. By default the model card's.", "P")
    ],
    "fill": Annotated[
        Literal["all", "free", "none"] | None,
        _answer("Which voxels restored masks may take: swallowed ones too, only free ones, or none."),
    ],
    "interpolation": Annotated[
        Literal["distance", "contour"] | None,
        _answer("How missing masks are drawn: by distances over four layers, or CellStitch's way."),
    ],
}

BREAK_LOCK: Group = {
    "break_lock": Annotated[
        bool | None,
        typer.Option(
            "--break-lock",
            metavar="",
            help="Take over the lock of a run on another host that is surely dead.",
            rich_help_panel=_RUNNING,
        ),
    ],
}

COST: Group = {
    "device": Annotated[Literal["auto", "cpu", "cuda"] | None, _running("Where distances are computed.")],
    "workers": Annotated[
        int | None, _running("Worker processes. By default what affinity, cgroup and SLURM allow.", "N")
    ],
    "memory": Annotated[str | None, _running("Memory for each worker, such as 4GiB.", "SIZE")],
    "scheduler": Annotated[str | None, _running("A running Dask scheduler to work on.", "ADDRESS")],
}

RUNNING: Group = {**COST, **BREAK_LOCK}
