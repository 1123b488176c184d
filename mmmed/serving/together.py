"""A network that several threads ask at one time, and that computes what they ask in one batch."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

import torch
from torch import nn

from mmmed.data.batch import Batch, Input
from mmmed.models import MultimodalModel

_MOST = 32  # records of one batch
_WINDOW = 0.004  # seconds that the first of a batch waits for others


class Together(nn.Module):
    """Stands in for a model where predictions are made: answer(batch) gives the same (R, outputs).

    Each call waits for its outputs, so that calls come from several threads. A batch may be filled with copies
    (`mmmed.data.batch.fill`), which have the unit of what they copy: they are not computed.
    """

    def __init__(self, network: MultimodalModel) -> None:
        super().__init__()
        self.network = network.eval()
        self._asked: queue.Queue[tuple[Batch, Future[torch.Tensor]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mmmed-predictions", daemon=True)
        self._thread.start()

    def answer(self, batch: Batch) -> torch.Tensor:
        units, back = torch.unique(batch.unit, return_inverse=True)
        rows = torch.stack([torch.nonzero(batch.unit == unit)[0, 0] for unit in units])
        answer: Future[torch.Tensor] = Future()
        self._asked.put((batch[rows], answer))
        return answer.result()[back]

    def close(self) -> None:
        """End the thread once what was asked is answered: one that outlives the interpreter aborts the process."""
        self._asked.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._asked.get()) is not None:
            asked, last = [first], time.monotonic() + _WINDOW
            while sum(len(batch) for batch, _ in asked) < _MOST:
                try:
                    one = self._asked.get(timeout=max(0, last - time.monotonic()))
                except queue.Empty:
                    break
                if one is None:
                    self._asked.put(None)
                    break
                asked.append(one)
            self._compute([batch for batch, _ in asked], [answer for _, answer in asked])

    @torch.no_grad()
    def _compute(self, batches: list[Batch], answers: list[Future[torch.Tensor]]) -> None:
        try:
            outputs = self.network.answer(_joined(batches))
        except BaseException as error:  # of whoever asked, who waits for it
            for answer in answers:
                answer.set_exception(error)
            return
        parts = outputs.split([len(batch) for batch in batches])
        for answer, part in zip(answers, parts, strict=True):
            answer.set_result(part)


def _joined(batches: list[Batch]) -> Batch:
    inputs = {
        name: Input(
            torch.cat([batch.inputs[name].values for batch in batches]),
            torch.cat([batch.inputs[name].present for batch in batches]),
        )
        for name in batches[0].inputs
    }
    label = torch.cat([batch.label for batch in batches])
    return Batch(inputs, label, torch.arange(len(label)))
