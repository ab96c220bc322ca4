"""simulate, train, evaluate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from overseg.cli import text
from overseg.cli.command import Answer, command
from overseg.cli.options import BACKGROUND, LABEL, VOXEL_SIZE
from overseg.errors import InputError, command_line

_PANEL = "Measure and learn"

Seed = Annotated[int, typer.Option(help="The same seed does the same.", metavar="N")]


def register(app: typer.Typer) -> None:
    """Add the commands of this page."""
    command(
        app, _PANEL, "overseg simulate labelled.zarr practice.zarr --rate 0.3", LABEL, VOXEL_SIZE, BACKGROUND
    )(simulate)
    command(
        app,
        _PANEL,
        "overseg train first.zarr second.zarr --out mine.safetensors\n"
        "overseg train --import-geoseg mlp_model_epoch_50.pth --out theirs.safetensors",
        VOXEL_SIZE,
    )(train)
    command(app, _PANEL, "overseg evaluate result.zarr truth.zarr", LABEL)(evaluate)


def simulate(
    labels: Annotated[str, typer.Argument(help="Any labelled volume; it is not changed.", metavar="LABELS")],
    out: Annotated[str, typer.Argument(help="A new Zarr; the truth goes beside it.", metavar="OUT")],
    kind: Annotated[
        Literal["gap", "tilted"],
        typer.Option(help="Break layers, or cut cells in parts that touch, by planes of any tilt."),
    ] = "gap",
    rate: Annotated[float, typer.Option(help="Part of the cells that is broken, 0 to 1.", metavar="P")] = 0.3,
    hard: Annotated[
        float,
        typer.Option(
            help="For gaps: part of the stacked pairs that one is opened between, 0 to 1.", metavar="P"
        ),
    ] = 0.3,
    layers: Annotated[
        int,
        typer.Option(help="For gaps: whole layers that are blanked, for every cell at once.", metavar="N"),
    ] = 0,
    seed: Seed = 0,
    **options: Any,
) -> Answer:
    """Break cells of a labelled volume in a known way, with the truth beside it."""
    from overseg.measure import simulate

    given = {name: value for name, value in options.items() if value is not None}
    truth = simulate(labels, out, kind=kind, rate=rate, hard=hard, layers=layers, seed=seed, **given)
    beside = Path(out).with_suffix(".truth")
    said: dict[str, Any] = {"volume": out, "truth": str(beside)}
    if kind == "tilted":
        said["cuts"] = len(truth.cuts)
        # Which parts were joined shows only beside the volume as it was broken.
        fixed = Path(out).with_suffix(".fixed.zarr")
        correct = command_line("correct", out, "--kind", kind, "--output", fixed)
        score = command_line("evaluate", fixed, beside, "--broken", out)
    else:
        said["splits"] = len(truth.splits)
        said["natural_gaps"] = len(truth.natural)
        said["hard_gaps"] = len(truth.hard)
        correct, score = command_line("correct", out), command_line("evaluate", out, beside)
    following = text.steps(("correct it", correct), ("score the result", score))
    return Answer(said, text.facts(said) + following)


def train(
    labels: Annotated[
        list[str] | None, typer.Argument(help="Labelled volumes to learn from.", metavar="LABELS...")
    ] = None,
    *,
    out: Annotated[str, typer.Option(help="The new model, NAME.safetensors.", metavar="MODEL")],
    kind: Annotated[
        Literal["gap", "tilted"],
        typer.Option(help="Learn from missing layers, or from cuts between parts that touch."),
    ] = "gap",
    seed: Seed = 0,
    import_geoseg: Annotated[
        str | None,
        typer.Option(
            help="Learn nothing: take the weights that the authors of the published method released.",
            metavar="FILE.pth",
        ),
    ] = None,
    **options: Any,
) -> Answer:
    """Make a model from labelled volumes: their cells are broken in known ways to learn from."""
    from overseg.measure import train

    if import_geoseg is not None:
        return _imported(import_geoseg, out, bool(labels) or options["voxel_size"] is not None, kind)
    volumes = labels or []
    sizes = None if options["voxel_size"] is None else [options["voxel_size"]] * len(volumes)
    model = train(volumes, out, voxel_sizes=sizes, seed=seed, kind=kind)
    said = {
        "model": out,
        "card": str(Path(out).with_suffix(".json")),
        "digest": model.digest,
        "threshold": model.threshold,
        "review_from": model.review_from,
        "left_out_tissue": model.card.get("left_out_tissue"),
    }
    following = text.steps(
        (
            "use it",
            command_line("correct", "VOLUME", *(["--kind", kind] if kind != "gap" else []), "--model", out),
        )
    )
    return Answer(said, text.facts(said) + following)


def _imported(file: str, out: str, volumes: bool, kind: str) -> Answer:
    """A model of weights that others trained."""
    from overseg.measure import import_geoseg

    if volumes or kind != "gap":
        raise InputError(
            "imported weights learn from no volumes"
            if volumes
            else "imported weights judge gaps only: the authors' way with tilted splits is not taken over",
            where=f"--import-geoseg {file}",
            remedy="leave out LABELS and --voxel-size" if volumes else "leave out --kind",
        )
    model = import_geoseg(file, out)
    said = {
        "model": out,
        "card": str(Path(out).with_suffix(".json")),
        "digest": model.digest,
        "threshold": model.threshold,
        "licence": model.card["licence"],
    }
    use = command_line("plan", "VOLUME", "--preset", "paper", "--model", out)
    return Answer(said, text.facts(said) + text.steps(("use it, for comparison", use)))


def evaluate(
    result: Annotated[str, typer.Argument(help="The segmentation.", metavar="RESULT")],
    truth: Annotated[str, typer.Argument(help="The true labels, or a NAME.truth folder.", metavar="TRUTH")],
    broken: Annotated[
        str | None,
        typer.Option(
            help="The segmentation before, to count merges and cuts joined.",
            metavar="VOLUME",
        ),
    ] = None,
    **options: Any,
) -> Answer:
    """Measure how well a segmentation agrees with the truth."""
    from overseg.measure import evaluate

    said = asdict(evaluate(result, truth, broken=broken, **options))
    return Answer(said, _scores(said))


def _scores(said: dict[str, Any]) -> list[str]:
    """One row for each threshold, then what else is known."""
    rows: list[tuple[str, ...]] = [("IoU", "AP", "precision", "recall", "matched", "extra", "missed")]
    for score in said["scores"]:
        rows.append(tuple(text.number(value) for value in score.values()))
    head = ["".join(f"{cell:>11}" for cell in row) for row in rows]
    return [*head, "", *text.facts({name: value for name, value in said.items() if name != "scores"})]
