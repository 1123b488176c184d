"""The sites of a run: wait for them, ask them, and tell what each answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from mmmed.errors import RunError
from mmmed.federation.protocol import MODEL, PRIVACY, Phase, Refusal, Request, SumRequest
from mmmed.federation.strategies.base import AtServer
from mmmed.wire import Encoding, pack
from privacy.metrics import release_kind
from server.checkpoint import Arrays
from server.events import OnEvent, PhaseStarted, SiteReplied, SiteWaits
from server.ledger_receipts import FILE, Receipts
from server.messaging import gather, pull_interval
from server.replies import TABLES, Answer, read_reply
from server.roster import Roster
from server.run_folder import RunFolder
from server.update_store import shapes_of

_KINDS = {"join": MessageType.QUERY, "train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE}
_SETTLE = 1.0  # seconds for which the number of nodes must not change before the first round


class Sites:
    """The sites that a grid connects to the run of a folder.

    Args:
        grid: where the sites are.
        folder: the run's.
        on_event: called with what happens.
        frozen: digests of what is not trained, `mmmed.models.frozen_digests`, which the sites compare with their own.
        roster: whose name is whose.
    """

    def __init__(
        self, grid: Grid, folder: RunFolder, on_event: OnEvent, frozen: Mapping[str, str], roster: Roster
    ) -> None:
        self._grid, self._folder, self._on_event, self._frozen = grid, folder, on_event, frozen
        self._federation = folder.config.federation
        self._receipts = Receipts(folder.path.parent / FILE)
        self._roster = roster

    def wait(self) -> None:
        """Wait until enough sites are connected and no more are arriving.

        Raises:
            RunError: fewer than ``federation.min_sites`` after ``federation.round_timeout`` seconds.
        """
        least = self._federation.min_sites
        pause = _SETTLE if pull_interval(self._grid) else 0.0  # 0: the grid's sites are fixed
        deadline = time.monotonic() + (self._federation.round_timeout if pause else 0.0)
        before = -1
        while (count := len(list(self._grid.get_node_ids()))) < least or (pause and count != before):
            if time.monotonic() >= deadline and count < least:
                raise RunError(
                    f"federation.min_sites is {least}, but {count} sites are connected. "
                    "Connect more sites, or lower federation.min_sites"
                )
            before = count
            time.sleep(pause)

    def join(self, sum_request: SumRequest) -> Iterator[Answer]:
        """Ask every site who it is, to a run of masked sums; yields each answer as it arrives, checked."""
        yield from self._ask(0, "join", {}, sorted(self._grid.get_node_ids()), sum_request=sum_request)

    def wait_for(self, names: set[str]) -> set[str]:
        """Those of the named sites that are connected, once they are ``federation.min_sites`` or the time is up."""
        pause = _SETTLE if pull_interval(self._grid) else 0.0
        deadline = time.monotonic() + self._federation.round_timeout
        while True:
            known = self._roster.nodes()
            there = {known[node] for node in self._grid.get_node_ids() if node in known} & names
            if len(there) >= self._federation.min_sites or not pause or time.monotonic() >= deadline:
                return there
            time.sleep(pause)

    def masked(self, number: int, model: Arrays, sum_request: SumRequest) -> Iterator[Answer]:
        """Ask a cohort for its masked words; yields each answer as it arrives, checked.

        Args:
            number: the step.
            model: the parameters to start from.
            sum_request: the attempt and its cohort.
        """
        nodes = [node for node, name in self._roster.nodes().items() if name in sum_request.cohort]
        yield from self._ask(number, "train", {MODEL: model}, sorted(nodes), sum_request=sum_request)

    def train(
        self, number: int, model: Arrays, strategy: AtServer, answered: Collection[Answer]
    ) -> Iterator[Answer]:
        """Ask every site that has not ``answered`` to train; nobody is asked if too few are there.

        Args:
            number: the round.
            model: the parameters to train from.
            strategy: sends its extras with them, and refuses a reply without what it needs.
            answered: answers of this round that an earlier process took.

        Yields:
            Each answer as it arrives, checked, with its update.
        """
        connected = set(self._grid.get_node_ids())
        for answer in answered:
            if answer.site is not None:
                self._roster.takes(answer.node, answer.site, lambda: connected)
        nodes = sorted(connected - {answer.node for answer in answered})
        if len(nodes) + len(answered) >= self._federation.least_updates:
            tensors = {**strategy.extras(), MODEL: model}
            yield from self._ask(number, "train", tensors, nodes, answered, strategy.accepts)

    def evaluate(self, number: int, model: Arrays) -> Iterator[Answer]:
        """Ask every site to evaluate; yields each answer as it arrives, checked."""
        yield from self._ask(number, "evaluate", {MODEL: model}, sorted(self._grid.get_node_ids()))

    def line(self, answer: Answer) -> dict[str, Any]:
        """The entry of a round's record for one answer."""
        line: dict[str, Any] = {"site": self._name(answer.node), "seconds": round(answer.seconds, 3)}
        line |= {"bytes_down": answer.bytes_down, "bytes_up": answer.bytes_up}
        if answer.refused is not None:
            line |= {"refused": answer.refused}
            return line | ({"released": answer.released} if answer.released else {})
        line |= {"metrics": answer.metrics, "released": answer.released}
        return line if answer.histograms is None else line | {"tables": answer.histograms.tolist()}

    def _ask(
        self,
        number: int,
        phase: Phase,
        tensors: Mapping[str, Arrays],
        nodes: Collection[int],
        answered: Collection[Answer] = (),
        accepts: Callable[[Mapping[str, float]], bool] = lambda metrics: True,
        sum_request: SumRequest | None = None,
    ) -> Iterator[Answer]:
        federation, seen = self._federation, {one.site for one in answered if one.site is not None}
        encoding: Encoding = "float32" if federation.wire == "float32" else "bfloat16"
        sent = {name: packed(arrays, encoding) for name, arrays in tensors.items()}
        request = Request(
            self._folder.run_id, number, self._folder.config, self._frozen, sent, sum=sum_request
        )
        messages = [self._message(request, phase, node) for node in nodes]
        self._on_event(PhaseStarted(number, federation.rounds, phase, len(nodes)))
        like = self._expected(phase, tensors) if sum_request is None else {}

        def held(message: Message, code: str) -> None:
            self._on_event(SiteWaits(number, phase, self._name(message.metadata.dst_node_id), code))

        for message, reply, seconds in gather(self._grid, messages, federation.round_timeout, held):
            answer = self._named(read_reply(message, reply, seconds, phase, like), seen)
            answer = replace(answer, bytes_down=sum(map(len, sent.values())))
            if answer.refused is None and not accepts(answer.metrics):
                answer = replace(answer, refused=Refusal.BAD_RECORD)
            if answer.site is not None:
                self._receipts.keep(answer.node, answer.released.get(f"{PRIVACY}receipt"))
            yield answer
            self._on_event(SiteReplied(number, phase, self._name(answer.node), answer.refused))

    def _named(self, answer: Answer, seen: set[str]) -> Answer:
        """An answer, or its refusal if the name is not the node's; `seen` are those that answered in this phase."""
        if answer.site is None:
            return answer
        if answer.site in seen or not self._roster.takes(
            answer.node, answer.site, lambda: set(self._grid.get_node_ids())
        ):
            return answer.under_no_name()
        seen.add(answer.site)
        return answer

    def _expected(self, phase: Phase, tensors: Mapping[str, Arrays]) -> dict[str, tuple[int, ...]]:
        """The shapes of what a reply may hold."""
        if phase == "train":
            return shapes_of(tensors[MODEL])
        release = self._folder.config.task.release
        return {} if release is None else {TABLES: release_kind(release.kind, release.size).shape}

    def _message(self, request: Request, phase: Phase, node: int) -> Message:
        content = replace(request, receipt=self._receipts.of(node)).to_record()
        # a message that is fetched after the timeout would cost privacy for nothing: let it expire
        return Message(
            content, node, _KINDS[phase], ttl=self._federation.round_timeout, group_id=str(request.round)
        )

    def _name(self, node: int) -> str:
        return self._roster.name(node) or f"node-{node}"


def packed(arrays: Arrays, encoding: Encoding) -> bytes:
    """Tensors as the bytes in which they are sent."""
    return pack({key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}, encoding)
