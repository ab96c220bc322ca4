"""What all commands have in common: shared options, one way to answer, one way to fail."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from overseg.cli.options import JSON, Group
from overseg.errors import OversegError

GOES_ON = "to go on, run the same command again:"


@dataclass(frozen=True)
class Answer:
    """What a command has to say.

    Attributes
    ----------
    summary : dict
        For ``--json``.
    lines : list of str
        For people.
    code : int
        Exit code.
    """

    summary: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    code: int = 0


class Stopped(BaseException):
    """Ctrl-C, or the batch system's SIGTERM: a moment is left to end cleanly.

    No `KeyboardInterrupt`, which the parser of the command line would answer without a word.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.code = 128 + number


def command(
    app: typer.Typer, panel: str, example: str, *groups: Group
) -> Callable[[Callable[..., Answer]], None]:
    """Register a command: `groups` are added to its options, its answer is printed, its failures explained.

    Parameters
    ----------
    app : typer.Typer
        Where it belongs.
    panel : str
        Its heading in the help.
    example : str
        Ends its help; more than one line is one example each.
    *groups : dict
        Shared options; the function gets them as keywords, ``None`` where they were not given.
    """

    def register(function: Callable[..., Answer]) -> None:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            as_json = given.pop("as_json")
            # Whoever may meet a lock works step by step, and finds again what is done.
            with _failures(as_json, kept="break_lock" in given):
                answer = function(**_with_config(given))
                typer.echo(
                    json.dumps(_finite(answer.summary), allow_nan=False)
                    if as_json
                    else "\n".join(answer.lines)
                )
            if answer.code:
                raise typer.Exit(answer.code)

        run.__signature__ = _signature(function, *groups, JSON)  # type: ignore[attr-defined]
        epilog = "Example:\n\n" + "\n\n".join(example.splitlines())
        app.command(rich_help_panel=panel, epilog=epilog)(run)

    return register


def _signature(function: Callable[..., Answer], *groups: Group) -> inspect.Signature:
    own = inspect.signature(function, eval_str=True)
    named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=kind,
        )
        for group in groups
        for name, kind in group.items()
    ]
    return own.replace(parameters=[*named, *shared])


def _with_config(given: dict[str, Any]) -> dict[str, Any]:
    """Options of the config file under those of the command line, where the command takes them."""
    if "config" not in given:
        return given
    path = given.pop("config")
    if path is None:
        return given
    from overseg.settings import read_config

    options = read_config(path)
    for name, value in options.items():
        if name in given and given[name] is None:
            given[name] = value
    if "cluster" in options and "scheduler" in given and not given["scheduler"]:
        given["cluster"] = options["cluster"]  # a table, so not among the options; --scheduler wins
    return given


@contextmanager
def _failures(as_json: bool, kept: bool) -> Iterator[None]:
    """Every way to end but a good one, and its exit code."""
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        raise
    except (KeyboardInterrupt, typer.Abort, Stopped) as error:
        stopped = error if isinstance(error, Stopped) else Stopped()
        what = "stopped; what is done is kept" if kept else "stopped"
        _explain(as_json, what, None, f"{GOES_ON}\n          {this_command()}")
        raise typer.Exit(stopped.code) from None
    except OversegError as error:
        _explain(as_json, error.what, error.where, error.remedy)
        raise typer.Exit(1) from None
    except Exception as error:
        if os.environ.get("OVERSEG_DEBUG"):
            raise
        _explain(
            as_json,
            f"overseg failed in a way it should not: {type(error).__name__}: {error}",
            _innermost(error),
            "please report this, with the output of the same command under OVERSEG_DEBUG=1",
        )
        raise typer.Exit(1) from None


def _explain(as_json: bool, what: str, where: str | None, remedy: str | None) -> None:
    error = OversegError(what, where=where, remedy=remedy)
    typer.secho("error: ", nl=False, err=True, fg=typer.colors.RED, bold=True)
    typer.echo(str(error), err=True)
    if as_json:
        typer.echo(json.dumps({"error": {"what": what, "where": where, "remedy": remedy}}))


def _finite(value: Any) -> Any:
    """The value with null for what JSON cannot say: that there is no number."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _innermost(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"


def this_command() -> str:
    """The command line as it was typed."""
    return shlex.join(["overseg", *sys.argv[1:]])


def on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise `Stopped`, unless they are ignored (as in the background of a shell)."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
