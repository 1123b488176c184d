"""The rounds of a run, so that they survive the server's death and any single site.

Flower's `Strategy.start` always begins at round 1, may wait for nodes without end and keeps every reply in memory.
Here a round is

    train -> check replies as they arrive and spool them -> aggregate -> server step -> checkpoint -> evaluate -> log

and a new process continues where the last one died: a site whose update is in the spool is not asked again, a trained
round is never trained again, and if only its evaluation is missing, that is made up for. A round with fewer good
updates than ``federation.min_sites`` changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from mmmed.config import RunConfig
from mmmed.errors import RunError
from mmmed.federation.protocol import MODEL, PRIVACY, Phase, Refusal, Request
from mmmed.federation.strategies.base import AtServer, Combined
from mmmed.wire import Encoding, pack
from server.checkpoint import Arrays, Checkpoint, load_checkpoint, save_checkpoint
from server.curves import Curves
from server.events import OnEvent, PhaseStarted, RoundFinished, SiteReplied
from server.gather import gather, pull_interval
from server.receipts import FILE, Receipts
from server.replies import Answer, read_reply
from server.results import pooled_results
from server.run_folder import RunFolder
from server.site_level import SiteLevel
from server.spending import keep_statements
from server.spool import Spool, Update, screen, shapes_of

log = logging.getLogger(__name__)

_SETTLE = 1.0  # seconds for which the number of nodes must not change before the first round


class Rounds:
    """Runs the rounds of ``folder.config`` over a grid, telling ``on_event`` what happens.

    ``frozen`` are the digests of what is not trained, `mmmed.models.frozen_digests`, which the sites compare with
    their own.
    """

    def __init__(
        self, grid: Grid, folder: RunFolder, on_event: OnEvent, frozen: Mapping[str, str] | None = None
    ) -> None:
        self.grid = grid
        self.folder = folder
        self.config: RunConfig = folder.config
        self.on_event = on_event
        self._frozen = dict(frozen or {})
        federation = folder.config.federation
        self._strategy: AtServer
        self._average: Arrays = {}  # over rounds, with `federation.ema`: only noised models are read
        self._site_level = SiteLevel(federation) if federation.site_noise_multiplier else None
        self._receipts = Receipts(folder.path.parent / FILE)
        self._names: dict[int, str] = {}  # node id -> the name that its site last gave

    def run(self, initial: Arrays) -> Arrays:
        """All rounds that are not done yet; returns the final model.

        Args:
            initial: the trainable parameters by name, float32, as they are before round 1.

        Raises:
            RunError: too few sites are connected to begin, or the checkpoint is of another model.
        """
        self._strategy = self.config.federation.strategy.at_server(self.config, initial)
        arrays, done = self._resume(initial)
        self._await_sites()
        with Curves(self.folder.tensorboard, first_round=done + 1) as curves:
            for number in range(done + 1, self.config.federation.rounds + 1):
                arrays = self._round(number, arrays, curves)
        return self._result(arrays)

    def _result(self, arrays: Arrays) -> Arrays:
        """What is evaluated and saved: the average over rounds, if there is one. Training goes on from `arrays`."""
        return self._average or arrays

    def _take_average(self, arrays: Arrays) -> None:
        """Polyak averaging (De et al. 2022, arXiv 2204.13650, section 3.4): post-processing."""
        decay = self.config.federation.ema
        if decay:
            before = self._average or arrays
            self._average = {
                key: (decay * before[key] + (1 - decay) * value).astype(np.float32)
                for key, value in arrays.items()
            }

    def _resume(self, initial: Arrays) -> tuple[Arrays, int]:
        checkpoint = load_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            self.folder.forget_rounds_after(0)
            return initial, 0
        if shapes_of(checkpoint.model) != shapes_of(initial):
            raise RunError(
                f"{self.folder.checkpoints}: round {checkpoint.round} holds other parameters than this version "
                "builds for the same configuration. Resume with the version that started the run"
            )
        self._restore(checkpoint.moments)
        self.folder.forget_rounds_after(checkpoint.round)
        if len(self.folder.rounds()) < checkpoint.round:
            self._await_sites()
            with Curves(self.folder.tensorboard, first_round=checkpoint.round) as curves:
                self._finish(checkpoint.record, self._result(checkpoint.model), curves)
        return {key: checkpoint.model[key] for key in initial}, checkpoint.round

    def _round(self, number: int, arrays: Arrays, curves: Curves) -> Arrays:
        started = time.monotonic()
        spool = Spool(self.folder.path / "updates", number, arrays)
        answers = [update.answer for update in spool.updates]
        for answer in self._ask(number, "train", arrays, answers):
            if answer.refused is None:
                spool.add(answer)
            answers.append(replace(answer, arrays={}))
        # by name: the sum is the same to the last bit in whatever order they came, or come again after a restart
        updates, outliers = sorted(spool.updates, key=lambda one: str(one.answer.site)), set[int]()
        if (
            self._site_level is None
        ):  # it bounds every update itself, and who counts may not depend on the others
            updates, outliers = screen(updates, self.config.federation.max_update_norm)
        record = self._step(number, arrays, updates, len(answers))
        record["train"] = [
            self._line(replace(one, refused=Refusal.OUTLIER) if one.node in outliers else one)
            for one in answers
        ]
        record["train_seconds"] = round(time.monotonic() - started, 3)
        arrays = record.pop("arrays")
        if record["changed"]:
            self._take_average(arrays)
        save_checkpoint(self.folder.checkpoints, Checkpoint(number, arrays, self._moments(), record))
        spool.close()
        self._finish(record, self._result(arrays), curves)
        return arrays

    def _step(self, number: int, arrays: Arrays, updates: Sequence[Update], asked: int) -> dict[str, Any]:
        """The next global model, as ``arrays`` of a round's record that also tells how it came about."""
        federation = self.config.federation
        record: dict[str, Any] = {"round": number, "changed": False, "arrays": arrays}
        if len(updates) < max(federation.min_sites, federation.aggregation.least_updates):
            log.warning("round %d changed nothing: %d good updates", number, len(updates))
            return record
        if self._site_level is not None:
            update = self._site_level.aggregate(updates, asked)
        else:
            update = federation.aggregation.combine(updates)
        combined = Combined(number, arrays, update, updates, asked)
        return record | {"changed": True, "arrays": self._strategy.step(combined)}

    def _moments(self) -> dict[str, Arrays]:
        """All that the next round needs besides the model."""
        moments = self._strategy.state()
        if self._average:
            moments["average"] = self._average
        if self._site_level is not None:
            moments["site-level"] = {"max-norm": np.array(self._site_level.max_norm)}
        return moments

    def _restore(self, moments: Mapping[str, Arrays]) -> None:
        if self._site_level is not None:
            self._site_level.max_norm = float(moments["site-level"]["max-norm"])
        self._average = moments.get("average", {})
        self._strategy.restore(moments)

    def _finish(self, trained: dict[str, Any], arrays: Arrays, curves: Curves) -> None:
        """Evaluate a trained round and log it. An unchanged model is not evaluated again: that may cost privacy."""
        started = time.monotonic()
        number = trained["round"]
        answers = list(self._ask(number, "evaluate", arrays)) if trained["changed"] else []
        if self._site_level is not None:
            changed = sum(one["changed"] for one in self.folder.rounds()) + trained["changed"]
            trained = trained | {"site_level": self._site_level.statement(changed)}
        record = trained | {"evaluate": [self._line(answer) for answer in answers]}
        if (pooled := pooled_results(answers, len(self.config.task.classes))) is not None:
            record["pooled"] = pooled
        record["evaluate_seconds"] = round(time.monotonic() - started, 3)
        record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        record = keep_statements(self.folder, record)
        self.folder.append_round(record)
        curves.write(record)
        self.on_event(RoundFinished(number, self.config.federation.rounds, record))

    def _ask(
        self, number: int, phase: Phase, arrays: Arrays, answered: Collection[Answer] = ()
    ) -> Iterator[Answer]:
        """Send the model to every node that has not ``answered``; yield its checked answer.

        Nobody is asked to train if too few are there.
        """
        federation = self.config.federation
        done = {answer.node for answer in answered}
        seen = {answer.site for answer in answered if answer.site is not None}
        self._names |= {answer.node: answer.site for answer in answered if answer.site is not None}
        nodes = sorted(set(self.grid.get_node_ids()) - done)
        if phase == "train" and len(nodes) + len(done) < federation.min_sites:
            return
        tensors = self._tensors(phase, arrays)
        messages = [self._message(number, phase, tensors, node) for node in nodes]
        self.on_event(PhaseStarted(number, federation.rounds, phase, len(nodes)))
        like = shapes_of(arrays) if phase == "train" else {}
        for request, reply, seconds in gather(self.grid, messages, federation.round_timeout):
            answer = read_reply(request, reply, seconds, like).unless_name_in(seen)
            answer = replace(answer, bytes_down=sum(map(len, tensors.values())))
            if phase == "train" and not self._strategy.accepts(answer.metrics):
                answer = replace(answer, refused=answer.refused or Refusal.BAD_RECORD)
            if answer.site is not None:
                self._names[answer.node] = answer.site
                self._receipts.keep(answer.node, answer.released.get(f"{PRIVACY}receipt"))
            yield answer
            self.on_event(SiteReplied(number, phase, self._name(answer.node), answer.refused))

    def _tensors(self, phase: Phase, arrays: Arrays) -> dict[str, bytes]:
        """What every node is sent: the model and, to train, what the strategy adds."""
        encoding: Encoding = "float32" if self.config.federation.wire == "float32" else "bfloat16"
        tensors = {MODEL: packed(arrays, encoding)}
        if phase == "train":
            tensors |= {name: packed(extra, encoding) for name, extra in self._strategy.extras().items()}
        return tensors

    def _message(self, number: int, phase: Phase, tensors: Mapping[str, bytes], node: int) -> Message:
        request = Request(
            run_id=self.folder.run_id,
            round=number,
            config=self.config,
            frozen=self._frozen,
            tensors=tensors,
            receipt=self._receipts.of(node),
        )
        kind = MessageType.TRAIN if phase == "train" else MessageType.EVALUATE
        # a message that is fetched after the timeout would cost privacy for nothing: let it expire
        ttl = self.config.federation.round_timeout
        return Message(request.to_record(), node, kind, ttl=ttl, group_id=str(number))

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
        line |= {"bytes_down": answer.bytes_down, "bytes_up": answer.bytes_up}
        if answer.refused is not None:
            line |= {"refused": answer.refused}
            return line | ({"released": answer.released} if answer.released else {})
        line |= {"metrics": answer.metrics, "released": answer.released}
        return line if answer.histograms is None else line | {"tables": answer.histograms.tolist()}


def packed(arrays: Arrays, encoding: Encoding) -> bytes:
    """Tensors as they travel."""
    return pack({key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}, encoding)
