"""What `mmmed privacy plan` prints: the settings, the trainable sets that they can carry, what a ledger allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from rich.console import Console
from rich.table import Table

from mmmed.config import ModelConfig, RunConfig
from privacy.accounting import DpSgdEvent, epsilon, shown
from privacy.ledger import Budget
from privacy.planning import TrainingPlan, delta_is_large
from privacy.planning.settings import Setting

_SHOWN = 15


def trainable_sizes(config: RunConfig) -> dict[str, int]:
    """Trained parameters of the configured model by trainable set, fewest first. Builds it, which is slow."""
    from mmmed.models import build_model

    sizes = {}
    for name in get_args(ModelConfig.model_fields["trainable"].annotation):
        model = build_model(
            config.model_copy(update={"model": config.model.model_copy(update={"trainable": name})})
        )
        sizes[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def show_plan(
    config: RunConfig,
    solved: TrainingPlan,
    settings: Sequence[Setting],
    sizes: Mapping[str, int],
    allowed: tuple[Budget, float | None] | None,
    patients: int,
) -> None:
    """Print it all.

    Args:
        config: the run's configuration.
        solved: the plan that it gives.
        settings: what that is worth, then the alternatives, best first.
        sizes: trained parameters by trainable set; empty if the model was not built.
        patients: the site's number of patients to train on, or the number that its policy states.
        allowed: a ledger's limit, and the least noise multiplier that it admits as asked, if any; None without ledger.
    """
    console, privacy = Console(highlight=False), config.privacy
    title = f"Ways to spend epsilon {privacy.target_epsilon:g} at delta {privacy.delta:g}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))  # fits 80 columns
    headings = [
        "",
        "sampl.\nrate",
        "steps",
        "records",
        "noise\nmult.",
        "epsilon",
        "in a\nledger" if allowed is None else f"ledger,\nof {allowed[0].epsilon:g}",
        "passes",
        "signal /\nnoise",
    ]
    headings += [""] * (allowed is not None)
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right", overflow="fold")
    for number, one in enumerate(settings[: _SHOWN + 1]):
        table.add_row(
            "" if number else "as asked",
            f"{one.sampling_rate:.4g}",
            str(one.steps),
            str(one.records_per_patient),
            f"{one.noise_multiplier:.4f}",
            shown(one.epsilon),
            shown(one.ledger_epsilon),
            f"{one.passes:,.0f}" if one.passes >= 100 else f"{one.passes:.3g}",
            f"{one.signal_to_noise:.3g}",
            *(["admits" if one.admitted else "refuses"] * (allowed is not None)),
        )
    console.print(table)
    worth, best = settings[0], max(settings, key=lambda one: one.signal_to_noise)
    update = ""
    if sizes:
        trained = sizes[config.model.trainable]
        update = (
            f"; the signal of a round's update of {trained:,} parameters is expected to be "
            f"{worth.update_signal_to_noise(solved.steps_per_round, trained):.2g} times as long as its noise, at most"
        )
    console.print(
        f"As asked: {solved.steps_per_round} steps in each of {solved.rounds} rounds, noise multiplier "
        f"{worth.noise_multiplier:.4f}{update}. More in --csv, --json and --html."
    )
    if delta_is_large(privacy.delta, patients):
        console.print(
            f"warning: delta {privacy.delta:g} is above a tenth of 1 / patients, {0.1 / patients:.2g}: lower --delta. "
            "At 1 / patients publishing one patient's record outright would satisfy it."
        )
    console.print(
        "epsilon: the claim, by PLD. Noise mult.: noise standard deviation over the clipping norm. Ledger: what all "
        "runs together come to for the worst patient by the filter that admits further runs. Records: of a patient, in "
        "a step, at most; they cost compute and no budget. Passes: over the patients' records. Signal / noise: of the "
        "whole run, for one coordinate, at most."
    )
    if sizes:
        carried = Table(title="What can be trained", title_justify="left")
        for heading in ("trainable set", "parameters", "as asked", "best setting"):
            carried.add_column(heading, justify="left" if heading == "trainable set" else "right")
        for name, size in sizes.items():
            carried.add_row(name, f"{size:,}", _verdict(size, worth), _verdict(size, best))
        console.print(carried)
    console.print(
        f"Beyond {worth.largest_dimension:,} trained parameters (best setting: {best.largest_dimension:,}) the noise "
        "of the whole run is longer than its signal. Training then still moves the right way, but slowly: prefer fewer "
        "trained parameters on pretrained features."
        + ("" if sizes else " --model counts those of the configured model.")
    )
    if allowed is not None:
        console.print(_left(worth, privacy.delta, allowed[1]))


def _verdict(size: int, one: Setting) -> str:
    ratio = one.signal_to_noise / size**0.5
    return f"{'fits' if ratio >= 1 else 'too large'} ({ratio:.2g})"


def _left(worth: Setting, delta: float, noise: float | None) -> str:
    if noise is None:
        return "The ledger admits no run of so many steps at this sampling rate, whatever its noise."
    cost = shown(epsilon([DpSgdEvent(noise, worth.sampling_rate, worth.steps)], delta))
    if worth.admitted:
        return (
            "The ledger admits the run as asked. For one run of so many steps it would admit a noise multiplier down "
            f"to {noise:.4f}, epsilon {cost}, and then nothing more."
        )
    return (
        f"The ledger refuses the run as asked. With so many steps it admits a noise multiplier of {noise:.4f} or more, "
        f"which is epsilon {cost} for this run: ask for that with --epsilon."
    )
