"""The privacy reports of a run, from what the sites stated in its rounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from privacy.errors import ReportError
from privacy.ledger import evaluation_id
from privacy.report import (
    MAX_BYTES,
    EpsilonReport,
    RunFacts,
    SiteRound,
    SiteSpending,
    build_report,
    read_statement,
    versions,
)
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


def privacy_report(folder: RunFolder, *, tuning: str = "unknown") -> dict[str, Any]:
    """The full report of all finished rounds, with the newest valid statement of each site. Takes seconds.

    Args:
        folder: the run.
        tuning: "none" if no earlier run on these patients influenced its settings, else "unknown".

    Raises:
        ReportError: two sites sign with the same key.
        AccountingError: two accountants disagree.
    """
    answered: dict[str, list[tuple[int, int]]] = {}
    statements: dict[str, dict[str, Any]] = {}
    for record in folder.rounds():
        for line in record["train"]:
            if "released" not in line:
                continue
            runs = answered.setdefault(line["site"], [])
            first = runs.pop()[0] if runs and runs[-1][1] == record["round"] - 1 else record["round"]
            runs.append((first, record["round"]))
            text = line["released"].get(f"{_PREFIX}statement")
            if (statement := _statement(text, line["site"], folder.run_id)) is not None:
                statements[line["site"]] = statement
    config = folder.config
    facts = RunFacts(
        id=folder.run_id,
        private=config.privacy.enabled,
        target_epsilon=config.privacy.target_epsilon,
        rounds=config.federation.rounds,
        answered=answered,
        generated=datetime.now(UTC).isoformat(timespec="seconds"),
        tuning=tuning,
        software=versions(),
    )
    return build_report([statements[site] for site in sorted(statements)], facts, _evaluations(folder))


def _evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """The statements of the sites that released noised counts of their held-out patients."""
    found = {}
    for record in folder.rounds():
        for line in record.get("evaluate", ()):
            text = line.get("released", {}).get(f"{_PREFIX}statement")
            if (statement := _statement(text, line["site"], evaluation_id(folder.run_id))) is not None:
                found[line["site"]] = statement
    return [found[site] for site in sorted(found)]


def _statement(text: object, site: str, run_id: str) -> dict[str, Any] | None:
    """A site's statement if it is one, of this site and this run; the report tells what is then missing."""
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        return None
    try:
        value: dict[str, Any] = json.loads(text)
        stated = read_statement(value)
    except (ValueError, RecursionError, ReportError):
        return None
    return value if (stated.site, stated.run_id) == (site, run_id) else None


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
