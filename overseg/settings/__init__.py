"""What users type, checked once: one set of models for command line, config file, API and provenance."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from overseg.errors import InputError
from overseg.settings.checked import Checked, parse_size
from overseg.settings.cluster import ClusterSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "PUBLISHED_TILTED",
    "ClusterSettings",
    "RunSettings",
    "Settings",
    "build",
    "canonical",
    "digest",
    "parse_region",
    "parse_size",
    "read_config",
]

Label = Annotated[int, Field(ge=0, lt=2**64)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range = tuple[int, int]

#: Settings that decide something only in the published method for tilted splits.
PUBLISHED_TILTED = ("penalty", "emd_mode")

_REGION = re.compile(r"^\s*(-?\d*)\s*:\s*(-?\d*)\s*$")


def parse_region(text: str) -> tuple[Range, Range, Range]:
    """Half-open voxel ranges (z, y, x) of a region such as ``"0:64,0:512,100:300"``.

    Parameters
    ----------
    text : str
        Three ranges ``start:stop`` joined by commas; all six numbers are needed.

    Returns
    -------
    tuple of tuple of int
        ``((z0, z1), (y0, y1), (x0, x1))`` in voxels.

    Raises
    ------
    ValueError
        If the text is not three non-empty ranges of non-negative numbers.

    Examples
    --------
    >>> parse_region("0:64,0:512,100:300")
    ((0, 64), (0, 512), (100, 300))
    """
    ranges = []
    for part in text.split(","):
        match = _REGION.match(part)
        if match is None or not match[1] or not match[2]:
            raise ValueError(f"{text!r} is not a region: write z0:z1,y0:y1,x0:x1")
        start, stop = int(match[1]), int(match[2])
        if start < 0 or stop <= start:
            raise ValueError(f"range {part.strip()!r} of the region is empty or negative")
        ranges.append((start, stop))
    if len(ranges) != 3:
        raise ValueError(f"{text!r} is not a region: three ranges z0:z1,y0:y1,x0:x1 are needed")
    return ranges[0], ranges[1], ranges[2]


class Settings(Checked):
    """What decides the answer. Every field enters the plan hash.

    Attributes
    ----------
    voxel_size : tuple of float, optional
        (z, y, x), any one unit of length; metadata decide when it is not given.
    background : tuple of int
        Labels that are no cells.
    label : str, optional
        Which labels of an OME-Zarr image group.
    region : tuple of (int, int), optional
        Half-open voxel ranges (z, y, x) to work in.
    kind : {"gap", "tilted", "both"}
        Which splits to look for.
    max_gap : int
        How many layers may be missing between the parts.
    model : str
        A shipped model's name or a model file.
    preset : {"paper"}, optional
        The published method as written, or as the authors' code has it with a `model` of imported weights.
    penalty : float
        Of the published method for tilted splits: taken off the z-scored shape index. The more, the fewer
        merges.
    emd_mode : {"minmax", "q1q3"}
        Of the same: whether least and largest distance within a part count, or its quartiles in their place.
    emd : {"undecided", "all"}
        Which candidates get earth mover's distances.
    transport : {"fast", "exact"}
        How these are computed: within about 1% and exactly near a decision's border, or exactly. The
        published method is always exact.
    threshold : float, optional
        Probability from which parts are merged; the model card's when not given.
    fill : {"all", "free", "none"}
        Which voxels restored masks may take: also swallowed ones, only free ones, none.
    interpolation : {"distance", "contour"}
        How missing masks are interpolated: signed distances over two layers on either side, or optimal
        transport between the contours of the faces (CellStitch).
    """

    voxel_size: tuple[Positive, Positive, Positive] | None = None
    background: tuple[Label, ...] = (0,)
    label: str | None = None
    region: tuple[Range, Range, Range] | None = None
    kind: Literal["gap", "tilted", "both"] = "gap"
    max_gap: Annotated[int, Field(ge=1, le=16)] = 2
    model: str = "default"
    preset: Literal["paper"] | None = None
    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.3
    emd_mode: Literal["minmax", "q1q3"] = "minmax"
    emd: Literal["undecided", "all"] = "undecided"
    transport: Literal["fast", "exact"] = "fast"
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    fill: Literal["all", "free", "none"] = "all"
    interpolation: Literal["distance", "contour"] = "distance"

    @field_validator("region", mode="before")
    @classmethod
    def _region(cls, value: object) -> object:
        return parse_region(value) if isinstance(value, str) else value

    @field_validator("model", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("background", mode="before")
    @classmethod
    def _background(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("background")
    @classmethod
    def _sorted(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _preset_is_whole(self) -> Self:
        if self.preset != "paper" or self.model in ("default", "paper"):
            return self
        if not self.model.endswith(".safetensors"):
            raise ValueError("the preset 'paper' brings its own model: leave out --model")
        if self.kind != "gap":
            raise ValueError("imported weights judge gaps only: leave out --kind, or --model")
        return self

    @model_validator(mode="after")
    def _only_of_the_published_tilted(self) -> Self:
        for name in () if self.published_tilted else PUBLISHED_TILTED:
            if getattr(self, name) != type(self).model_fields[name].default:
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{option} belongs to --preset paper with --kind tilted or both")
        return self

    @property
    def published_tilted(self) -> bool:
        """Whether touching splits are judged by the published method."""
        return self.preset == "paper" and self.kind != "gap"

    @property
    def model_name(self) -> str:
        """The model in force: the preset's own where none is named, else the one asked for."""
        return "paper" if self.preset == "paper" and self.model == "default" else self.model


class RunSettings(Checked):
    """Where and with how much to run. None of it changes the answer.

    Attributes
    ----------
    device : {"auto", "cpu", "cuda"}
        Where distances are computed.
    workers : int, optional
        Worker processes; from affinity, cgroup and SLURM limits when not given.
    memory : int, optional
        Bytes for each worker.
    scheduler : str, optional
        Address of a running Dask scheduler.
    cluster : ClusterSettings, optional
        A batch system or another cluster that gives the workers; a mapping of its fields will do.
    break_lock : bool
        Take over a lock left by a run on another host.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    memory: int | None = None
    scheduler: str | None = None
    cluster: ClusterSettings | None = None
    break_lock: bool = False

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str | int) else value

    @model_validator(mode="after")
    def _one_source_of_workers(self) -> Self:
        cluster = self.cluster
        if cluster is None:
            return self
        if self.scheduler is not None:
            raise ValueError("--scheduler and [cluster] both say where the workers are: leave out one")
        if self.workers is not None and cluster.kind != "local":
            raise ValueError(f"--workers counts processes of this machine: leave it out with {cluster.told}")
        if self.memory is not None and cluster.is_batch:
            raise ValueError(f"--memory is of a worker: with {cluster.told} give the memory of a job there")
        return self

    @property
    def address(self) -> str | None:
        """Of a running Dask scheduler, however it was named."""
        return self.scheduler or (self.cluster.address if self.cluster is not None else None)


def build(**options: Any) -> tuple[Settings, RunSettings]:
    """Check options by name and sort them into the two models.

    Parameters
    ----------
    **options
        Fields of `Settings` and `RunSettings`; ``None`` means not given.

    Returns
    -------
    tuple of Settings and RunSettings

    Raises
    ------
    InputError
        If an option is unknown or has a value that cannot be.
    """
    given = {name: value for name, value in options.items() if value is not None}
    run = {name: given.pop(name) for name in list(given) if name in RunSettings.model_fields}
    try:
        return Settings(**given), RunSettings(**run)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        in_table = place[:1] == ["cluster"]
        name = "--" + place[0].replace("_", "-") if place else "options"
        name = " ".join(["[cluster]", *place[1:2]]) if in_table else name
        raise InputError(
            f"{name}: {_in_words(first)}",
            where=f"value {first['input']!r}",
            remedy="see docs/clusters.md" if in_table else "see `overseg correct --help` for what it may be",
        ) from None


def _in_words(error: ErrorDetails) -> str:
    """What is wrong with a value, for who never heard of the library that found out."""
    if error["type"] == "extra_forbidden":
        of_table = error["loc"][:1] == ("cluster",)
        known = (
            ClusterSettings.model_fields if of_table else [*Settings.model_fields, *RunSettings.model_fields]
        )
        near = difflib.get_close_matches(str(error["loc"][-1]), list(known), 1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
        return "there is no such field" + meant
    if error["type"] == "model_type":
        return 'it is a table: a line [cluster], and below it kind = "slurm" and the other fields'
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")


def build_run(**options: Any) -> RunSettings:
    """Check options that must not decide anything: the plan did.

    Parameters
    ----------
    **options
        Fields of `RunSettings`; ``None`` means not given.

    Returns
    -------
    RunSettings

    Raises
    ------
    InputError
        If an option is one that decides, is unknown, or has a value that cannot be.
    """
    settings, run = build(**options)
    if settings != Settings():
        given = sorted(set(options) & set(Settings.model_fields))
        raise InputError(
            f"{', '.join(given)}: decided when the plan was made",
            where="apply",
            remedy="make a new plan with other settings",
        )
    return run


def read_config(path: str | Path) -> dict[str, Any]:
    """Options of a TOML file, named as on the command line (dashes or underscores).

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    dict
        Option names with underscores, and their values.

    Raises
    ------
    InputError
        If the file is missing, is not TOML, or holds an unknown option.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read the config file: {error.strerror}",
            where=str(path),
            remedy="check the path given to --config",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"the config file is not TOML: {error}", where=str(path), remedy="see docs/settings.md"
        ) from None
    options = _with_underscores(table)
    if isinstance(options.get("cluster"), dict):
        options["cluster"] = _with_underscores(options["cluster"])
    known = sorted([*Settings.model_fields, *RunSettings.model_fields])
    for name in options:
        if name not in known:
            raise InputError(
                f"unknown option {name!r} in the config file",
                where=str(path),
                remedy="move it below a line [cluster]: it says something of jobs"
                if name in ClusterSettings.model_fields
                else f"the options are {', '.join(known)}",
            )
    return options


def _with_underscores(table: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in table.items()}


def canonical(settings: Settings) -> dict[str, Any]:
    """The settings as plain JSON values, for the plan and its hash; without those that decide nothing."""
    idle = () if settings.published_tilted else PUBLISHED_TILTED
    return settings.model_dump(mode="json", exclude=set(idle))


def digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
