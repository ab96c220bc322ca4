"""A realistic volume with known splits, corrected in place and scored: ``python -m overseg.demo FOLDER``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overseg.errors import InputError, OversegError

if TYPE_CHECKING:
    from overseg.measure.evaluation import Evaluation
    from overseg.measure.truth import Truth

SHAPE = (64, 448, 448)
CELLS = 1200
VOXEL_SIZE = (1.0, 0.5, 0.5)

_MEASURES: tuple[tuple[str, Callable[[Evaluation], float]], ...] = (
    ("average precision, IoU 0.5", lambda found: found.scores[1].ap),
    ("average precision, IoU 0.75", lambda found: found.scores[2].ap),
    ("variation of information", lambda found: found.voi_split + found.voi_merge),
)


def main(folder: str) -> None:
    """Make, correct, score, prove; and say how to go back.

    Parameters
    ----------
    folder : str
        Where the volumes go. An earlier demo in it is replaced; anything else is left alone.
    """
    from rich.console import Console

    say = Console(highlight=False, soft_wrap=True).print
    place = _cleared(Path(folder))
    volume, truth = place / "tissue.zarr", place / "truth.zarr"
    started = time.perf_counter()
    broken, known = _make(volume, truth)
    say(f"\n[bold]A generated tissue[/] of {' x '.join(map(str, SHAPE))} voxels, {volume}  {_since(started)}")
    say(f"  {len(known.splits)} cells were broken, {len(known.hard)} gaps opened between different cells")

    import overseg

    before = overseg.evaluate(volume, truth, broken=broken, table=known)
    started = time.perf_counter()
    plan = overseg.correct(volume)
    said = plan.summary()
    say(f"\n[bold]overseg correct {volume}[/]  {_since(started)}")
    say(
        f"  {said['candidates']} candidates: {said['merged']} merged, {said['filled']} filled, "
        f"{said['kept']} kept, {said['review']} to review"
    )
    say(f"  {said['voxels_filled']:,} voxels restored, {said['units_rewritten']} write units rewritten")
    after = overseg.evaluate(volume, truth, broken=broken, table=known)
    say("\n[bold]Against the truth[/]              before    after")
    for name, value in _MEASURES:
        say(f"  {name:30}{value(before):7.3f}  {value(after):7.3f}")
    say(f"  broken cells repaired         {after.splits_repaired} of {after.splits}")
    say(f"  opened gaps left alone        {after.hard_kept} of {after.hard}")
    say(f"  merges                        {after.merges_right} right, {after.merges_wrong} wrong")
    proof = overseg.verify(plan)
    say(f"\n[bold]overseg verify {said['plan']}[/]")
    say("  only listed voxels changed" if proof.ok else "  [red]problems were found[/]")
    say("\nLook at the decisions:  " + f"overseg show {said['plan']}")
    say("Go back:                " + f"overseg undo {said['plan']}\n")
    if not proof.ok:
        raise SystemExit(1)


def _cleared(place: Path) -> Path:
    ours = {"tissue.zarr", "truth.zarr", "tissue.overseg"}
    if place.exists() and not {child.name for child in place.iterdir()} <= ours:
        raise InputError(
            "the folder holds other things than a demo", where=str(place), remedy="name a new folder"
        )
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _make(volume: Path, truth: Path) -> tuple[Any, Truth]:
    from overseg.measure.simulation import simulate_splits
    from overseg.measure.tissue import generate_tissue
    from overseg.volume.create import create_labels, fill

    tissue = generate_tissue(SHAPE, n_cells=CELLS, seed=7)
    broken, known = simulate_splits(tissue, rate=0.1, hard=0.2, seed=7)
    for path, labels in ((volume, broken), (truth, tissue)):
        made = create_labels(
            path,
            SHAPE,
            "uint32",
            (16, 128, 128),
            voxel_size=VOXEL_SIZE,
            unit="micrometer",
            ome=True,
            levels=2,
        )
        fill(made, labels.astype("uint32").__getitem__)
    return broken, known


def _since(started: float) -> str:
    return f"[dim]{time.perf_counter() - started:.1f} s[/]"


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "demo")
    except OversegError as error:
        sys.exit(str(error))
