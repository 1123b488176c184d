"""What `mmmed privacy plan --sites` recommends: lines for a run's TOML file, and what being a federation costs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import tomli_w
from rich.console import Console
from rich.table import Table

from mmmed.config import RunConfig
from mmmed.config.keys import nest
from mmmed.modalities import MODALITIES
from mmmed.models.fusion import Linear
from mmmed.models.head import linear_head
from privacy.accounting import shown
from privacy.planning import delta_is_large
from privacy.planning.releases import REPEATS, SECURE_STEPS, Release, learning_rate, steps_for_mean

WIDTH = 80
_FEATURES = 1280  # of the widest encoder that comes with weights


def recommended(
    config: RunConfig, release: Release, *, patients: int, sites: int, honest: int
) -> dict[str, Any]:
    """The recommended settings, a tree as in a run's TOML file. Data and task are the run's own."""
    privacy = config.privacy
    federation: dict[str, Any] = {
        "release": release.kind,
        "sampling_rate": release.event.sampling_rate,
        "rounds": release.steps,
    }
    if release.kind == SECURE_STEPS:
        federation |= {"honest": honest, "repeats": REPEATS, "min_sites": sites}
    model: dict[str, Any] = dict(linear_head(config))
    if "model.trainable" in model:  # frozen encoders, whose features have a mean
        frozen = sum(not MODALITIES[name].joins_fusion for name in config.data.modalities)
        model["model.fusion.centring_steps"] = steps_for_mean(release, _FEATURES, Linear.share(frozen))
    return {
        **nest(model),
        "training": {
            "optimizer": "sgd",
            "learning_rate": learning_rate(release, privacy.max_grad_norm),
            "batch_size": max(1, round(release.event.sampling_rate * patients / sites)),
        },
        "privacy": {
            "target_epsilon": privacy.target_epsilon,
            "delta": privacy.delta,
            "max_grad_norm": privacy.max_grad_norm,
        },
        "federation": federation,
    }


def show_recommendation(
    tree: dict[str, Any],
    chosen: Release,
    releases: Sequence[Release],
    *,
    patients: int,
    sites: int,
    honest: int,
    agreeing: float,
    missing: str,
) -> None:
    """Print it all, in at most 80 columns.

    Args:
        tree: of `recommended`.
        chosen: the release that it is about.
        releases: all of them, pooled training first.
        patients: of all sites together.
        sites, honest: how many there are, and how many of them are taken to be honest.
        agreeing: share of a patient's gradient that all have in common, for what a budget bears.
        missing: why rounds are not among the releases, "" if they are.
    """
    pooled, target = releases[0], tree["privacy"]["target_epsilon"]
    _say(
        f"Recommended for {patients:,} patients at {sites} sites (about {patients // sites:,} each), epsilon "
        f"{target:g} at delta {tree['privacy']['delta']:g}:"
    )
    print(f"\n{_toml(tree)}")
    _say(
        f"Of {'the sum' if chosen.kind == SECURE_STEPS else 'each site'}: noise multiplier "
        f"{chosen.event.noise_multiplier:.4f}, epsilon "
        f"{shown(chosen.epsilon)} (PLD) for {chosen.event.steps} steps at sampling rate {chosen.event.sampling_rate:g}."
    )
    if chosen.kind == SECURE_STEPS:
        _say(f"That epsilon holds against a server in league with up to {sites - honest} of the sites.")
    _say(
        f"To expect against private training in one place: {chosen.noise / pooled.noise:.2f} times the noise, as if it "
        f"had {chosen.patients:,} of the {patients:,} patients, or epsilon {_like(chosen)} instead of {target:g}."
    )
    _say(
        "batch_size: what a site is expected to draw in a step; its sum is divided by it. learning_rate: to begin "
        "with, 8 / C, or less where noise bounds it; find the best on public or generated data (`mmmed privacy tune`)."
    )
    print()
    Console(width=WIDTH, highlight=False).print(_table(releases, agreeing))
    if delta_is_large(tree["privacy"]["delta"], patients // sites):
        _say(
            f"warning: delta {tree['privacy']['delta']:g} is above a tenth of 1 / patients of a site, "
            f"{0.1 * sites / patients:.2g}: lower --delta."
        )
    if missing:
        _say(f"No figures for rounds as configured: {missing}")
    _say(
        "noise of the run: standard deviation of the noise on the mean clipped gradient, in each coordinate, over the "
        "clipping norm C; exact, for rounds where all sites are of one size (else it is larger). as if pooled: private "
        "training in one place, as in the first line, has that noise with so many patients, or with all of them at "
        "that epsilon. bears: parameters that can be trained before noise outweighs what all patients have in common, "
        f"at most. secure-steps: {honest} of {sites} sites are taken to be honest (--honest)."
    )
    _say(
        "This compares noise, which is known beforehand. What it costs in accuracy depends on the data: measure it on "
        "public or generated data."
    )


def _table(releases: Sequence[Release], agreeing: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="What a federation costs", title_justify="left")
    table.add_column("\n\nrelease", overflow="fold")
    for heading in (
        "\nnoise\nmult.",
        "\n\nsteps",
        "\n\npasses",
        "noise\nof the\nrun",
        "as if\npooled,\npatients",
        "as if\npooled,\nepsilon",
        "\n\nbears",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    for one in releases:
        table.add_row(
            one.kind,
            f"{one.event.noise_multiplier:.4f}",
            str(one.steps),
            f"{one.passes:.3g}",
            f"{one.noise:.2g}",
            f"{one.patients:,}",
            _like(one),
            f"{one.bears(agreeing):,}",
        )
    return table


def _like(one: Release) -> str:
    return f"{one.like_epsilon:.2f}"


def _toml(tree: dict[str, Any]) -> str:
    """The tree with a table for each section, kinds as dotted keys."""
    flat = {section: dict(keys) for section, keys in tree.items()}
    fusion = "".join(f"fusion.{line}\n" for line in tomli_w.dumps(flat["model"].pop("fusion")).splitlines())
    return tomli_w.dumps(flat).replace("[model]\n", f"[model]\n{fusion}", 1)


def _say(text: str) -> None:
    print(textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False))
