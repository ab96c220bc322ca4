"""plan, apply, correct, verify, undo."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overseg.cli import pages, text
from overseg.cli.command import Answer, command
from overseg.cli.options import CONFIG, COST, LABEL, RUNNING, SEMANTIC
from overseg.errors import InputError, command_line

if TYPE_CHECKING:
    from overseg.jobarray import Part
    from overseg.pipeline.batch import Array
    from overseg.pipeline.result import Plan

_PANEL = "Correct"

Volume = Annotated[str, typer.Argument(help="A Zarr array or OME-Zarr group: path or URL.", metavar="VOLUME")]
PlanFolder = Annotated[str, typer.Argument(help="A plan folder, NAME.overseg.", metavar="PLAN")]
Target = Annotated[
    str, typer.Argument(help="A plan folder, or a volume: its last plan.", metavar="PLAN|VOLUME")
]
Out = Annotated[
    str | None,
    typer.Option(help="Where the plan goes. By default NAME.overseg beside the volume.", metavar="PLAN"),
]


_ARRAY = "Job array"
Prepare = Annotated[
    int | None,
    typer.Option(
        help="Cut the work for N tasks of a job array, and end.", metavar="N", rich_help_panel=_ARRAY
    ),
]
Task = Annotated[
    int | None,
    typer.Option(help="Do the share of task I, from 0, and end.", metavar="I", rich_help_panel=_ARRAY),
]
Finish = Annotated[
    bool,
    typer.Option(
        "--finish", metavar="", help="After the tasks: do all that is left.", rich_help_panel=_ARRAY
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this page."""
    command(
        app,
        _PANEL,
        "overseg plan cells.zarr --voxel-size 1 0.25 0.25 --out look.overseg",
        CONFIG,
        SEMANTIC,
        RUNNING,
    )(plan)
    command(app, _PANEL, "overseg apply look.overseg", CONFIG, RUNNING)(apply)
    command(
        app,
        _PANEL,
        "overseg correct cells.zarr --output fixed.zarr\noverseg correct cells.zarr --yes --config mine.toml",
        CONFIG,
        SEMANTIC,
        RUNNING,
    )(correct)
    command(app, _PANEL, "overseg verify look.overseg", CONFIG, COST)(verify)
    command(app, _PANEL, "overseg again look.overseg 'scan/t0-z0-y0-x0-1f2e3d4c'")(again)
    command(app, _PANEL, "overseg undo look.overseg", CONFIG, LABEL, RUNNING)(undo)


def plan(
    volume: Volume,
    out: Out = None,
    prepare: Prepare = None,
    task: Task = None,
    finish: Finish = False,
    **options: Any,
) -> Answer:
    """Find split cells and decide; write a plan and change nothing (the dry run)."""
    from overseg import api, jobarray
    from overseg.cluster.progress import open_progress

    _one_part(prepare, task, finish)
    if prepare is not None:
        place, array = jobarray.prepare_plan(volume, prepare, out=out, **options)
        return _prepared("plan", str(place), array)
    with open_progress() as progress:
        if task is not None:
            return _part(jobarray.plan_task(volume, task, out=out, progress=progress, **options))
        if finish:
            jobarray.check_prepared(volume, out=out, **options)
        made = api.plan(volume, out=out, progress=progress, **options)
    said = made.summary()
    write = ("--allow-partial", made.path) if made.unread else (made.path,)
    following = text.steps(
        ("look at it", command_line("show", made.path)),
        ("write it into the volume", command_line("apply", *write)),
    )
    partial = _partial(said) if made.unread else []
    return Answer(said, pages.numbers(said, planned=True) + partial + following, code=1 if partial else 0)


def apply(
    plan: PlanFolder,
    prepare: Prepare = None,
    task: Task = None,
    finish: Finish = False,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", metavar="", help="Write it though labels near damaged chunks are left alone."
        ),
    ] = False,
    **options: Any,
) -> Answer:
    """Write a plan into its volume, in place. After any interruption, run it again: it goes on."""
    from overseg import api, jobarray
    from overseg.cluster.progress import open_progress

    _one_part(prepare, task, finish)
    with open_progress() as progress:
        if prepare is not None:
            array = jobarray.prepare_apply(
                plan, prepare, allow_partial=allow_partial, progress=progress, **options
            )
            return _prepared("apply", plan, array)
        if task is not None:
            return _part(jobarray.apply_task(plan, task, progress=progress))
        done = api.apply(plan, finish=finish, allow_partial=allow_partial, progress=progress, **options)
    return _corrected(done)


def correct(
    volume: Volume,
    output: Annotated[
        str | None,
        typer.Option(help="Correct a copy and leave the volume alone.", metavar="COPY"),
    ] = None,
    out: Out = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")] = False,
    **options: Any,
) -> Answer:
    """Plan and apply in one go: in place, or on a copy with --output.

    On a terminal it shows what will happen in place, and asks first.
    """
    from overseg import api
    from overseg.cluster.progress import open_progress

    ask = output is None and not yes and sys.stdin.isatty() and sys.stderr.isatty()
    with open_progress() as progress:
        done = api.correct(
            volume, output=output, out=out, progress=progress, confirm=_confirm if ask else None, **options
        )
    if done.phase == "planned":
        lines = [
            "",
            "Nothing was changed. The plan is kept.",
            *text.steps(("write it", command_line("apply", done.path))),
        ]
        return Answer(done.summary(), lines, code=1)
    return _corrected(done)


def verify(plan: PlanFolder, **options: Any) -> Answer:
    """Prove that only the voxels listed in the plan changed, and that they changed as it says."""
    from overseg import api
    from overseg.cluster.progress import open_progress

    with open_progress() as progress:
        found = api.verify(plan, progress=progress, **options)
    said = {**asdict(found), "problems": [asdict(problem) for problem in found.problems]}
    return Answer(said, pages.verification(plan, found), code=0 if found.ok else 1)


def again(
    plan: PlanFolder,
    unit: Annotated[str, typer.Argument(help="STEP/UNIT, as run/quarantine.jsonl names it.", metavar="UNIT")],
) -> Answer:
    """Run one unit of work that failed once more, alone, and show its traceback."""
    from overseg import jobarray
    from overseg.cluster.progress import open_progress

    with open_progress() as progress:
        return _part(jobarray.again(plan, unit, progress=progress))


def undo(
    target: Target,
    only_unchanged: Annotated[
        bool,
        typer.Option(
            "--only-unchanged", metavar="", help="Leave units alone that someone else changed since."
        ),
    ] = False,
    **options: Any,
) -> Answer:
    """Restore every voxel that a plan changed, and the metadata too."""
    from overseg import api
    from overseg.cluster.progress import open_progress

    with open_progress() as progress:
        done = api.undo(target, only_unchanged=only_unchanged, progress=progress, **options)
    said = done.summary()
    lines = [
        f"volume  {said['volume']}",
        f"plan    {said['plan']}",
        "",
        f"Undone; write units restored: {said['units_rewritten']:,}",
    ]
    return Answer(said, lines + pages.following("undone", done.path, bool(done.unread)))


def _partial(said: dict[str, Any]) -> list[str]:
    """What the plan leaves alone, and what to do about it."""
    return [
        "",
        f"This plan is partial: {len(said['unread'])} write units cannot be decoded.",
        *(f"  {each['unit']}: {each['why']}" for each in said["unread"][:5]),
        "Restore them from a copy and run the same command again for the whole plan.",
    ]


def _one_part(prepare: int | None, task: int | None, finish: bool) -> None:
    if (prepare is not None) + (task is not None) + finish > 1:
        raise InputError(
            "only one of --prepare, --task and --finish can be done at a time",
            where="the command line",
            remedy="first --prepare N, then --task 0 to N - 1, then --finish",
        )


def _prepared(verb: str, place: str, array: Array) -> Answer:
    said = {"plan": place, "tasks": array.tasks, "units": array.units, "memory_bytes": array.memory}
    if not array.tasks:
        return Answer(said, [f"plan    {place}", "", "There is nothing left to do."])
    idle = f"Tasks from {array.units} on have nothing to do: so many are not needed."
    return Answer(
        said,
        [
            f"plan    {place}",
            "",
            f"Prepared: {array.units:,} units of work for {array.tasks:,} tasks, "
            f"{array.memory / 2**30:.1f} GiB each.",
            *([idle] if array.tasks > array.units else []),
            "",
            f"next: --task 0 to {array.tasks - 1}, each in a job of its own, then --finish; "
            "all else as in this command (deploy/slurm has the scripts)",
        ],
    )


def _part(done: Part) -> Answer:
    said = vars(done)
    return Answer(said, [f"plan    {done.plan}", "", f"Done: {done.units:,} units of step '{done.step}'."])


def _corrected(done: Plan) -> Answer:
    said = done.summary()
    return Answer(said, pages.numbers(said, planned=False) + pages.following("applied", done.path))


def _confirm(made: Plan) -> bool:
    typer.echo("\n".join(pages.numbers(made.summary(), planned=True)), err=True)
    typer.echo("", err=True)
    return typer.confirm("Change the volume in place? (It can be undone.)", err=True)
