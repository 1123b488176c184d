"""The rounds of a run, so that they survive the server's death and any single site.

Flower's `Strategy.start` always begins at round 1, may wait for nodes without end and keeps every reply in memory.
Here a round is

    train -> check and average replies as they arrive -> server step -> checkpoint -> evaluate -> log

and a new process continues after the last checkpoint. A trained round is never trained again; if only its evaluation
is missing, that is made up for. A round with fewer good updates than ``federation.min_sites`` changes nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mmmed.config import RunConfig, to_flat
from mmmed.errors import RunError
from server.checkpoint import Arrays, Checkpoint, load_checkpoint, save_checkpoint
from server.curves import Curves
from server.events import OnEvent, Phase, PhaseStarted, RoundFinished, SiteReplied
from server.optimizer import RunningMean, ServerOptimizer, to_record
from server.replies import Answer, gather, pull_interval, read_reply
from server.run_folder import RunFolder

log = logging.getLogger(__name__)

_SETTLE = 1.0  # seconds for which the number of nodes must not change before the first round


class Rounds:
    """Runs the rounds of ``folder.config`` over a grid, telling ``on_event`` what happens."""

    def __init__(self, grid: Grid, folder: RunFolder, on_event: OnEvent) -> None:
        self.grid = grid
        self.folder = folder
        self.config: RunConfig = folder.config
        self.on_event = on_event
        self._optimizer = ServerOptimizer(folder.config.federation)
        self._run_config = json.dumps(to_flat(folder.config))
        self._names: dict[int, str] = {}  # node id -> the name that its site last gave

    def run(self, initial: Arrays) -> Arrays:
        """All rounds that are not done yet; returns the final model.

        Args:
            initial: the trainable parameters by name, float32, as they are before round 1.

        Raises:
            RunError: too few sites are connected to begin, or the checkpoint is of another model.
        """
        arrays, done = self._resume(initial)
        self._await_sites()
        with Curves(self.folder.tensorboard, first_round=done + 1) as curves:
            for number in range(done + 1, self.config.federation.rounds + 1):
                arrays = self._round(number, arrays, curves)
        return arrays

    def _resume(self, initial: Arrays) -> tuple[Arrays, int]:
        checkpoint = load_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            self.folder.forget_rounds_after(0)
            return initial, 0
        if _shapes(checkpoint.model) != _shapes(initial):
            raise RunError(
                f"{self.folder.checkpoints}: round {checkpoint.round} holds other parameters than this version "
                "builds for the same configuration. Resume with the version that started the run"
            )
        self._optimizer.restore(list(initial), checkpoint.moments)
        self.folder.forget_rounds_after(checkpoint.round)
        if len(self.folder.rounds()) < checkpoint.round:
            self._await_sites()
            with Curves(self.folder.tensorboard, first_round=checkpoint.round) as curves:
                self._finish(checkpoint.record, checkpoint.model, curves)
        return {key: checkpoint.model[key] for key in initial}, checkpoint.round

    def _round(self, number: int, arrays: Arrays, curves: Curves) -> Arrays:
        started = time.monotonic()
        mean = RunningMean()
        train = []
        for answer in self._ask(number, "train", arrays):
            if answer.refused is None:
                mean.add(answer.arrays, answer.weight)
            train.append(self._line(answer))
        changed = mean.count >= self.config.federation.min_sites
        if changed:
            arrays = self._optimizer.step(number, arrays, mean.mean())
        else:
            log.warning("round %d changed nothing: %d good updates", number, mean.count)
        record: dict[str, Any] = {"round": number, "changed": changed, "train": train}
        record["train_seconds"] = round(time.monotonic() - started, 3)
        save_checkpoint(
            self.folder.checkpoints, Checkpoint(number, arrays, self._optimizer.moments(), record)
        )
        self._finish(record, arrays, curves)
        return arrays

    def _finish(self, trained: dict[str, Any], arrays: Arrays, curves: Curves) -> None:
        """Evaluate a trained round and log it. An unchanged model is not evaluated again: that may cost privacy."""
        started = time.monotonic()
        number = trained["round"]
        answers = self._ask(number, "evaluate", arrays) if trained["changed"] else iter(())
        record = trained | {"evaluate": [self._line(answer) for answer in answers]}
        record["evaluate_seconds"] = round(time.monotonic() - started, 3)
        record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.folder.append_round(record)
        curves.write(record)
        self.on_event(RoundFinished(number, self.config.federation.rounds, record))

    def _ask(self, number: int, phase: Phase, arrays: Arrays) -> Iterator[Answer]:
        """Send every node the model; yield its checked answer. Nobody is asked to train if too few are there."""
        nodes = sorted(self.grid.get_node_ids())
        federation = self.config.federation
        if phase == "train" and len(nodes) < federation.min_sites:
            return
        record = to_record(arrays)
        messages = [self._message(number, phase, record, node) for node in nodes]
        self.on_event(PhaseStarted(number, federation.rounds, phase, len(nodes)))
        like = arrays if phase == "train" else {}
        seen: set[str] = set()
        for request, reply, seconds in gather(self.grid, messages, federation.round_timeout):
            answer = read_reply(request, reply, seconds, like).unless_name_in(seen)
            if answer.site is not None:
                self._names[answer.node] = answer.site
            self.on_event(SiteReplied(number, phase, self._name(answer.node), answer.refused))
            yield answer

    def _message(self, number: int, phase: Phase, arrays: ArrayRecord, node: int) -> Message:
        config = ConfigRecord(
            {"server-round": number, "run-id": self.folder.run_id, "run-config": self._run_config}
        )
        content = RecordDict({"arrays": ArrayRecord(dict(arrays)), "config": config})  # each node its own
        kind = MessageType.TRAIN if phase == "train" else MessageType.EVALUATE
        # a message that is fetched after the timeout would cost privacy for nothing: let it expire
        return Message(content, node, kind, ttl=self.config.federation.round_timeout, group_id=str(number))

    def _await_sites(self) -> None:
        """Wait until enough sites are connected and no more are arriving.

        Raises:
            RunError: fewer than ``federation.min_sites`` after ``federation.round_timeout`` seconds.
        """
        federation = self.config.federation
        pause = _SETTLE if pull_interval(self.grid) else 0.0  # 0: the grid's sites are fixed
        deadline = time.monotonic() + (federation.round_timeout if pause else 0.0)
        before = -1
        while (count := len(list(self.grid.get_node_ids()))) < federation.min_sites or (
            pause and count != before
        ):
            if time.monotonic() >= deadline and count < federation.min_sites:
                raise RunError(
                    f"federation.min_sites is {federation.min_sites}, but {count} sites are connected. "
                    "Connect more sites, or lower federation.min_sites"
                )
            before = count
            time.sleep(pause)

    def _name(self, node: int) -> str:
        return self._names.get(node, f"node-{node}")

    def _line(self, answer: Answer) -> dict[str, Any]:
        line: dict[str, Any] = {"site": self._name(answer.node), "seconds": round(answer.seconds, 3)}
        if answer.refused is not None:
            return line | {"refused": answer.refused}
        return line | {"metrics": answer.metrics, "released": answer.released}


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {key: np.shape(value) for key, value in arrays.items()}
