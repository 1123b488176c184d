"""The epsilon report of a run, from what the sites stated in its rounds."""

from __future__ import annotations

from typing import Any

from privacy.report import EpsilonReport, SiteRound, SiteSpending
from server.run_folder import RunFolder

_PREFIX = "privacy."
_MECHANISM = ("planned_epsilon", "delta", "noise_multiplier", "sampling_rate", "max_grad_norm")


def epsilon_report(folder: RunFolder) -> EpsilonReport:
    """The report of all finished rounds. A round that a site did not answer has no entry of that site."""
    stated: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for record in folder.rounds():
        for line in record["train"]:
            released = line.get("released", {})
            spent = {key.removeprefix(_PREFIX): v for key, v in released.items() if key.startswith(_PREFIX)}
            if spent:
                stated.setdefault(line["site"], []).append((record["round"], spent))
    target = folder.config.privacy.target_epsilon
    sites = tuple(_site(name, target, rounds) for name, rounds in sorted(stated.items()))
    return EpsilonReport(folder.run_id, folder.config.privacy.enabled, sites)


def _site(name: str, target: float, rounds: list[tuple[int, dict[str, Any]]]) -> SiteSpending:
    latest = rounds[-1][1]
    return SiteSpending(
        site=name,
        target_epsilon=target,
        rounds=tuple(
            SiteRound(number, float(spent["epsilon"]), int(spent["steps"])) for number, spent in rounds
        ),
        **{key: float(latest[key]) for key in _MECHANISM},
    )
