"""What a person sees of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmmed.data.source import GENERATED
from mmmed.errors import RunError
from simulations.sweep import TABLE, Cell, sweep


def show_sweep(cells: Sequence[Cell], out: Path, workers: int) -> None:
    """Run a sweep with a bar of what is left and a line for each run that ends, then say what comes next.

    Raises:
        RunError: some runs could not be carried out; the others were.
    """
    source, private = cells[0].config.data.source, cells[0].config.privacy.enabled
    if private and source not in GENERATED:
        print(
            f"note: the epsilon of a run is of that run alone. These are {len(cells)} runs on the same patients: if "
            "they are neither generated nor public, all count, and so does choosing among them (docs/planning.md)"
        )
    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    failed = 0
    with Progress(
        TextColumn("runs"), *columns, console=Console(highlight=False), speed_estimate_period=3600
    ) as bar:
        task, told = bar.add_task("runs", total=len(cells)), bar.console.print
        try:
            for one in sweep(cells, out, workers):
                bar.advance(task)
                failed += bool(one.error)
                score = one.cell.config.task.target().score.title
                said = "-" if one.score is None else f"{one.score:.3f}"
                end = f"{score} within sites {said}{'' if one.ran else ' (was finished)'}"
                told(
                    f"{one.cell.described}: {one.error or end}",
                    style="red" if one.error else None,
                    markup=False,
                    soft_wrap=True,
                )
        except KeyboardInterrupt:
            told(f"{bar.tasks[0].completed:.0f} of {len(cells)} runs are finished: the same command goes on")
            raise
    print(f"{out / TABLE} (and .csv)\nnext: mmmed simulate compare {out} --out compare.html")
    if failed:
        raise RunError(
            f"{failed} of {len(cells)} runs have no result, for the reasons above. The others stay"
        )
