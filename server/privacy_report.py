"""The privacy reports of a run, from what the sites stated in its rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mmmed.config import RunConfig
from mmmed.federation.protocol import PRIVACY
from mmmed.files import write_atomic
from mmmed.modalities import MODALITIES
from mmmed.models.names import in_words
from privacy.accounting import DpSgdEvent
from privacy.errors import ReportError
from privacy.ledger import evaluation_id
from privacy.metrics import BINS, EQUAL_BINS, tables_shape
from privacy.report import (
    MAX_BYTES,
    EpsilonReport,
    Pooled,
    RunFacts,
    SiteRound,
    SiteSpending,
    build_report,
    read_statement,
    versions,
)
from server.run_folder import RunFolder

_STATEMENT = f"{PRIVACY}statement"
_STATEMENTS = "statements.json"  # in the run folder
_MECHANISM = ("planned_epsilon", "delta", "noise_multiplier", "sampling_rate", "max_grad_norm")


class SpendingLog:
    """What every site stated after each round, kept as rounds finish: no round is read twice."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._stated: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for record in folder.rounds():
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a finished round, in place of what a lost run of it stated. Who did not answer has no entry."""
        for rounds in self._stated.values():
            while rounds and rounds[-1][0] >= record["round"]:
                rounds.pop()
        for line in record["train"]:
            released = line.get("released", {})
            spent = {key.removeprefix(PRIVACY): v for key, v in released.items() if key.startswith(PRIVACY)}
            if spent:
                self._stated.setdefault(line["site"], []).append((record["round"], spent))

    def report(self) -> EpsilonReport:
        """The report of all rounds so far."""
        privacy = self._folder.config.privacy
        sites = tuple(
            _site(name, privacy.target_epsilon, rounds)
            for name, rounds in sorted(self._stated.items())
            if rounds
        )
        return EpsilonReport(self._folder.run_id, privacy.enabled, sites)


def keep_statements(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """Put the round's valid statements where the newest of each site is kept; the round without any statement.

    A statement repeats what the site's earlier ones said: all of them would make the log of a long run large.
    """
    kept = signed_statements(folder)
    train = []
    for line in record["train"]:
        released = dict(line.get("released", {}))
        text = released.pop(_STATEMENT, None)
        if (statement := _statement(text, line["site"], folder.run_id)) is not None:
            kept[line["site"]] = statement
        train.append(line | {"released": released} if "released" in line else line)
    write_atomic(folder.path / _STATEMENTS, json.dumps(kept, sort_keys=True) + "\n")
    return {**record, "train": train}


def signed_statements(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The newest valid statement of each site, by its name.

    Raises:
        ReportError: the file that keeps them is not readable.
    """
    path = folder.path / _STATEMENTS
    if not path.exists():
        return {}
    try:
        kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for statement in kept.values():
            read_statement(statement)
    except (ValueError, AttributeError) as error:
        raise ReportError(f"{path}: not the statements of a run's sites: {error}. Restore it.") from error
    return kept


def privacy_report(
    folder: RunFolder,
    *,
    tuning: str = "unknown",
    audits: Sequence[Mapping[str, Any]] = (),
    attack: Mapping[str, Any] | None = None,
    sweeps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The full report of all finished rounds, with the newest valid statement of each site. Takes seconds.

    Args:
        folder: the run.
        tuning: "none" if no earlier run on these patients influenced its settings, "public" if runs on public or
            generated data alone did, "accounted" if `sweeps` did, else "unknown".
        audits: results of `mmmed privacy audit`.
        attack: the result of `mmmed privacy attack` on the run's model.
        sweeps: the statements of sites on their sweeps, as `mmmed privacy tune` writes them.

    Raises:
        ReportError: two sites sign with the same key, or an audit or attack does not belong to the run.
        AccountingError: two accountants disagree.
    """
    answered: dict[str, list[tuple[int, int]]] = {}
    utility = []
    for record in folder.rounds():
        shown = [line.get("metrics", {}).get("auroc") for line in record.get("evaluate", [])]
        if known := [value for value in shown if isinstance(value, float) and 0 <= value <= 1]:
            utility.append((record["round"], sum(known) / len(known)))
        for line in record["train"]:
            if "released" in line:
                runs = answered.setdefault(line["site"], [])
                first = runs.pop()[0] if runs and runs[-1][1] == record["round"] - 1 else record["round"]
                runs.append((first, record["round"]))
    statements = signed_statements(folder)
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
        utility=utility,
        subject=_subject(config),
        pooled=_pooled(folder),
    )
    signed = [statements[site] for site in sorted(statements)]
    return build_report(signed, facts, _evaluations(folder), audits, attack, sweeps)


def _subject(config: RunConfig) -> dict[str, str]:
    """What the run trains, and on what, in words."""
    training = config.training
    named = [column for name in config.data.modalities for column in MODALITIES[name].columns(config.data)]
    return {
        "predicts": f"{config.task.label}: {', '.join(config.task.classes)}",
        "reads the columns": ", ".join(named),
        "model": in_words(config),
        "trained part": config.model.trainable,
        "records of a patient in a step": f"{training.records_per_patient} at most",
    }


def _evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """The statements of the sites that released noised counts of their held-out patients."""
    found = _evaluated(folder)
    return [found[site][0] for site in sorted(found)]


def _pooled(folder: RunFolder) -> Pooled | None:
    """The sum of those counts, of the sites that stated what they cost."""
    tables = {site: np.array(table) for site, (_, table) in sorted(_evaluated(folder).items()) if table}
    for bins in (BINS, EQUAL_BINS):
        shape = tables_shape(len(folder.config.task.classes), bins)
        if fitting := {site: table for site, table in tables.items() if table.shape == shape}:
            return Pooled(tuple(fitting), np.sum(list(fitting.values()), axis=0))
    return None


def _evaluated(folder: RunFolder) -> dict[str, tuple[dict[str, Any], Any]]:
    """By site, its statement on its evaluation and the noised counts that it released."""
    found = {}
    for record in folder.rounds():
        for line in record.get("evaluate", ()):
            text = line.get("released", {}).get(_STATEMENT)
            if (statement := _statement(text, line["site"], evaluation_id(folder.run_id))) is not None:
                found[line["site"]] = (statement, line.get("tables"))
    return found


def _statement(text: object, site: str, run_id: str) -> dict[str, Any] | None:
    """A site's statement if it is one, of this site and this run; the report tells what is then missing."""
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        return None
    try:
        value: dict[str, Any] = json.loads(text)
        stated = read_statement(value)
    except (ValueError, RecursionError, ReportError):
        return None
    of_this_run = (stated.site, stated.run_id) == (site, run_id) and isinstance(stated.event, DpSgdEvent)
    return value if of_this_run else None


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
