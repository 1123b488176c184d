"""The rounds of a run, so that they survive the server's death and any single site.

Flower's `Strategy.start` always begins at round 1, may wait for nodes without end and keeps every reply in memory.
Here a round is

    train -> check replies as they arrive and store them -> combine -> server step -> checkpoint -> evaluate -> log

and a new process continues where the last one died: a site whose update is stored is not asked again, a trained round
is never trained again, and if only its evaluation is missing, that is made up for. A round with fewer good updates than
``federation.min_sites`` changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from mmmed.config import FederationConfig
from mmmed.errors import RunError
from mmmed.federation.protocol import Refusal
from mmmed.federation.strategies.base import AtServer, Combined
from server.average import Average
from server.checkpoint import Arrays, Checkpoint, load_checkpoint, save_checkpoint
from server.events import OnEvent, RoundFinished
from server.pooled_evaluation import pooled_results
from server.privacy_report import keep_statements
from server.replies import Answer
from server.roster import Roster
from server.run_folder import RunFolder
from server.secure_steps import SecureSteps
from server.site_level import SiteLevel
from server.sites import Sites
from server.tensorboard import Curves
from server.update_store import ByRule, UpdateStore, shapes_of

log = logging.getLogger(__name__)


class Rounds:
    """The rounds of a run over a grid."""

    def __init__(
        self,
        grid: Grid,
        folder: RunFolder,
        on_event: OnEvent,
        frozen: Mapping[str, str] | None = None,
        roster: Roster | None = None,
    ) -> None:
        """
        Args:
            grid: where the sites are.
            folder: the run's, which holds its configuration.
            on_event: called with what happens.
            frozen: digests of what is not trained, `mmmed.models.frozen_digests`, which the sites compare with their
                own; None for none.
            roster: whose name is whose; None where nobody admits sites.
        """
        federation = folder.config.federation
        self._folder, self._federation, self._on_event = folder, federation, on_event
        self._sites = Sites(grid, folder, on_event, frozen or {}, roster or Roster())
        self._average = Average(federation.ema)
        self._combiner = SiteLevel(federation) if federation.site_noise_multiplier else ByRule(federation)
        self._secure = SecureSteps(folder, self._sites) if federation.release == "secure-steps" else None
        self._changed = 0  # rounds that changed the model

    def run(self, initial: Arrays) -> Arrays:
        """Run all rounds that are not finished; returns the final model.

        Args:
            initial: the trainable parameters by name, float32, as they are before round 1.

        Raises:
            RunError: too few sites are connected to begin, or the checkpoint is of another model.
            ConfigError: the strategy has no code.
        """
        strategy = self._federation.strategy.at_server(self._folder.config, initial)
        model, done = self._resume(strategy, initial)
        self._sites.wait()
        if self._secure is not None:
            self._secure.begin(initial)
        with Curves(self._folder.tensorboard, first_round=done + 1) as curves:
            for number in range(done + 1, self._federation.rounds + 1):
                model, record = self._train(strategy, number, model)
                self._finish(record, self._average.of(model), curves)
        return self._average.of(model)

    def _resume(self, strategy: AtServer, initial: Arrays) -> tuple[Arrays, int]:
        """The model and the number of the last round that was trained; its evaluation is made up for."""
        checkpoint = load_checkpoint(self._folder.checkpoints)
        if checkpoint is None:
            self._folder.forget_rounds_after(0)
            return initial, 0
        if shapes_of(checkpoint.model) != shapes_of(initial):
            raise RunError(
                f"{self._folder.checkpoints}: round {checkpoint.round} holds other parameters than this version "
                "builds for the same configuration. Resume with the version that started the run"
            )
        for part in (strategy, self._average, self._combiner):
            part.restore(checkpoint.moments)
        self._folder.forget_rounds_after(checkpoint.round)
        logged = self._folder.rounds()
        self._changed = sum(one["changed"] for one in logged)
        if len(logged) < checkpoint.round:
            self._sites.wait()
            with Curves(self._folder.tensorboard, first_round=checkpoint.round) as curves:
                self._finish(checkpoint.record, self._average.of(checkpoint.model), curves)
        return {key: checkpoint.model[key] for key in initial}, checkpoint.round

    def _train(self, strategy: AtServer, number: int, model: Arrays) -> tuple[Arrays, dict[str, Any]]:
        """The model after a round, saved, and the round's record so far."""
        started = time.monotonic()
        store = UpdateStore(self._folder.path / "updates", number, model)
        combined, answers = self._gather(strategy, number, model, store)
        if combined is not None:
            model = strategy.step(self._moved(combined))
            self._average.take(model)
        record = {
            "round": number,
            "changed": combined is not None,
            "train": [self._sites.line(answer) for answer in answers],
            "train_seconds": round(time.monotonic() - started, 3),
        }
        state = strategy.state() | self._average.state() | self._combiner.state()
        save_checkpoint(self._folder.checkpoints, Checkpoint(number, model, state, record))
        store.close()
        return model, record

    def _moved(self, combined: Combined) -> Combined:
        """Without what a step gave to parameters that it does not move: it is noise."""
        fusion = self._folder.config.model.fusion
        update = {
            key: value if fusion.moves(combined.number, key) else np.zeros_like(value)
            for key, value in combined.update.items()
        }
        return replace(combined, update=update)

    def _gather(
        self, strategy: AtServer, number: int, model: Arrays, store: UpdateStore
    ) -> tuple[Combined | None, list[Answer]]:
        """A round's updates combined, None if there are too few; and what each site answered."""
        if self._secure is not None:
            change, answers = self._secure.step(number, model)
            combined = None if change is None else Combined(number, model, change, (), len(answers))
            return combined, answers
        answers = [update.answer for update in store.updates]
        for answer in self._sites.train(number, model, strategy, tuple(answers)):
            if answer.refused is None:
                store.add(answer)
            answers.append(replace(answer, arrays={}))
        updates, outliers = self._combiner.choose(store.updates)
        told = [_unless_outlier(answer, outliers) for answer in answers]
        if len(updates) < self._federation.least_updates:
            log.warning("round %d changed nothing: %d good updates", number, len(updates))
            return None, told
        update = self._combiner.combine(updates, len(answers))
        return Combined(number, model, update, updates, len(answers)), told

    def _finish(self, trained: dict[str, Any], model: Arrays, curves: Curves) -> None:
        """Evaluate a trained round and log it. An unchanged model is not evaluated again: that may cost privacy."""
        started = time.monotonic()
        due = trained["changed"] and is_milestone(self._federation, trained["round"])
        answers = list(self._sites.evaluate(trained["round"], model)) if due else []
        self._changed += trained["changed"]
        record = trained | self._combiner.statement(self._changed)
        record["evaluate"] = [self._sites.line(answer) for answer in answers]
        if (pooled := pooled_results(answers, self._folder.config.task.release)) is not None:
            record["pooled"] = pooled
        record["evaluate_seconds"] = round(time.monotonic() - started, 3)
        record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        record = keep_statements(self._folder, record)
        self._folder.append_round(record)
        curves.write(record)
        self._on_event(RoundFinished(trained["round"], self._federation.rounds, record))


def is_milestone(federation: FederationConfig, number: int) -> bool:
    """Whether a round is evaluated and reported on: each is, or every tenth part of a run of single steps."""
    rounds = federation.rounds
    return federation.release == "rounds" or number % max(1, rounds // 10) == 0 or number == rounds


def _unless_outlier(answer: Answer, outliers: set[int]) -> Answer:
    return replace(answer, refused=Refusal.OUTLIER) if answer.node in outliers else answer
