"""The privacy report of a run, from what the sites stated in its rounds; written after each of them."""

from __future__ import annotations

import json
import logging
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
from privacy.errors import AccountingError, ReportError
from privacy.ledger import evaluation_id
from privacy.metrics import release_kind
from privacy.report import (
    MAX_BYTES,
    Pooled,
    RunFacts,
    build_report,
    read_statement,
    versions,
    write_report,
)
from server.run_folder import RunFolder

_STATEMENT = f"{PRIVACY}statement"
_UTILITY = "auroc"  # the score that a report's format holds as utility; a task without it has none
_STATEMENTS = "statements.json"  # in the run folder

log = logging.getLogger(__name__)


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


class RunReport:
    """The privacy report of a run's finished rounds. `add` takes in the next one: no round is read twice."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._done = 0
        self._answered: dict[str, list[tuple[int, int]]] = {}
        self._utility: list[tuple[int, float]] = []
        self._evaluated: dict[str, tuple[dict[str, Any], Any]] = {}
        for record in folder.rounds():
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in the round that finished after the newest one."""
        self._done = number = record["round"]
        for line in record["train"]:
            if "released" in line:
                runs = self._answered.setdefault(line["site"], [])
                first = runs.pop()[0] if runs and runs[-1][1] == number - 1 else number
                runs.append((first, number))
        evaluated = record.get("evaluate", ())
        shown = [line.get("metrics", {}).get(_UTILITY) for line in evaluated]
        if known := [value for value in shown if isinstance(value, float) and 0 <= value <= 1]:
            self._utility.append((number, sum(known) / len(known)))
        for line in evaluated:
            text = line.get("released", {}).get(_STATEMENT)
            statement = _statement(text, line["site"], evaluation_id(self._folder.run_id))
            if statement is not None:
                self._evaluated[line["site"]] = (statement, line.get("tables"))

    def body(
        self,
        *,
        tuning: str = "unknown",
        audits: Sequence[Mapping[str, Any]] | None = None,
        attack: Mapping[str, Any] | None = None,
        sweeps: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """The report, with the newest valid statement of each site. The first takes seconds, the next a tenth of one.

        Args:
            tuning: "none" if no earlier run on these patients influenced its settings, "public" if runs on public or
                generated data alone did, "accounted" if `sweeps` did, else "unknown".
            audits: results of `mmmed privacy audit`; None takes the one in the run folder, if there is one.
            attack: the result of `mmmed privacy attack` on the run's model; None as for `audits`.
            sweeps: the statements of sites on their sweeps, as `mmmed privacy tune` writes them.

        Raises:
            ReportError: two sites sign with the same key, or an audit or attack does not belong to the run.
            AccountingError: two accountants disagree.
        """
        statements = signed_statements(self._folder)
        config = self._folder.config
        facts = RunFacts(
            id=self._folder.run_id,
            private=config.privacy.enabled,
            target_epsilon=config.privacy.target_epsilon,
            rounds=config.federation.rounds,
            done=self._done,
            answered=self._answered,
            generated=datetime.now(UTC).isoformat(timespec="seconds"),
            tuning=tuning,
            software=versions(),
            utility=self._utility,
            subject=_subject(config),
            pooled=self._pooled(),
        )
        found = self._beside("audit.json")
        return build_report(
            [statements[site] for site in sorted(statements)],
            facts,
            [self._evaluated[site][0] for site in sorted(self._evaluated)],
            ([] if found is None else [found]) if audits is None else audits,
            self._beside("attack.json") if attack is None else attack,
            sweeps,
        )

    def write(self) -> None:
        """Put the report into the run folder. Where there can be none, the run goes on and the log says why."""
        try:
            write_report(self.body(), self._folder.report)
        except (ReportError, AccountingError) as error:
            log.error("no privacy report of round %d: %s", self._done, error)
        except Exception:  # what a site states may be signed and still be nothing that can be computed with
            log.exception("no privacy report of round %d", self._done)

    def write_if_behind(self) -> None:
        """`write`, if the report that is there is missing or of fewer rounds: a kill came between round and report."""
        try:
            there = json.loads((self._folder.report / "privacy.json").read_text(encoding="utf-8"))
            behind = (
                there["run"].get("done", self._done) < self._done
            )  # 0.1.0 did not say, and wrote it on demand
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            behind = True
        if behind and self._done:
            self.write()

    def _beside(self, name: str) -> Any:
        """A result that another command kept beside the report; None if there is none."""
        path = self._folder.report / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(f"{path}: not JSON: {error}. Make it again, or remove it.") from error

    def _pooled(self) -> Pooled | None:
        """The sum of the noised counts, of the sites that stated what they cost."""
        release = self._folder.config.task.release
        if release is None:
            return None
        tables = {site: np.array(table) for site, (_, table) in sorted(self._evaluated.items()) if table}
        for shape in release_kind(release.kind, release.size).shapes:
            if fitting := {site: table for site, table in tables.items() if table.shape == shape}:
                return Pooled(tuple(fitting), np.sum(list(fitting.values()), axis=0), release.kind)
        return None


def _subject(config: RunConfig) -> dict[str, str]:
    """What the run trains, and on what, in words."""
    training = config.training
    named = [column for name in config.data.modalities for column in MODALITIES[name].columns(config.data)]
    return {
        "predicts": config.task.target().words,
        "reads the columns": ", ".join(named),
        "model": in_words(config),
        "trained part": config.model.trainable,
        "records of a patient in a step": f"{training.records_per_patient} at most",
    }


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
