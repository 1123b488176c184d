"""Many sites on one machine: a Flower `Grid` that calls a ClientApp itself, in this process or in workers.

No SuperLink and no Ray: the same ServerApp and ClientApp run, with the isolation that they would have there. Each
node has its own Context and sees its own copies of records, and nothing that a site does ends the run.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import TracebackType
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from mmmed.config.schema import Scalar
from simulations.execution import Job, SerialExecutor
from simulations.workers import WorkerPool

_FIRST_NODE = 1001
_RUN_ID = 1


class InProcessGrid(Grid):
    """A fixed set of nodes, each answering with the same ClientApp.

    Args:
        client_app: the ClientApp as ``module:attribute``.
        node_configs: one a node; ``partition-id`` and ``num-partitions`` are added as Flower's simulation does.
        run_config: what clients find in ``context.run_config``.
        workers: worker processes; 0 answers one message after the other in this process.
        threads: threads of each worker process.

    A message is answered within its time to live or with an error reply (``expired``); without workers one that is
    running is not cut short. Close the grid, or use it as a context manager, to end the workers.

    Raises:
        RunError: the ClientApp cannot be loaded (with workers: when the first reply is pulled).
    """

    pull_interval = 0.0  # `pull_messages` itself waits, and no node comes or goes

    def __init__(
        self,
        client_app: str,
        node_configs: Sequence[Mapping[str, Scalar]],
        *,
        run_config: Mapping[str, Scalar] | None = None,
        workers: int = 0,
        threads: int = 1,
    ) -> None:
        self._run = Run.create_empty(_RUN_ID)
        # Flower's Message takes its sender from here
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = _RUN_ID, 1, SUPERLINK_NODE_ID
        self._contexts = {
            _FIRST_NODE + i: Context(
                run_id=_RUN_ID,
                node_id=_FIRST_NODE + i,
                node_config={"partition-id": i, "num-partitions": len(node_configs), **own},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i, own in enumerate(node_configs)
        }
        self._executor: SerialExecutor | WorkerPool = (
            WorkerPool(client_app, min(workers, len(node_configs)), threads)
            if workers
            else SerialExecutor(client_app)
        )
        self._replies: dict[str, Message] = {}  # finished, but not asked for yet

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; busy ones are interrupted and get some seconds to commit."""
        self._executor.close()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; one for an unknown node gets no id."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id in self._contexts:
                message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
                self._executor.submit(Job(message, self._contexts[message.metadata.dst_node_id]))
                ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Work for a moment (without workers: answer one message) and return the replies that are there."""
        for job, outcome in self._executor.take():
            self._contexts[job.context.node_id] = outcome.context
            outcome.reply.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            self._replies[job.message.metadata.message_id] = outcome.reply
        if not self._replies:
            return []
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        return [self._replies.pop(i) for i in list(self._replies) if i in wanted]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield replies as they arrive, so that a strategy need not hold them all."""
        return self._receive(set(self.push_messages(messages)), timeout)

    def _receive(self, waiting: set[str], timeout: float | None) -> Iterator[Message]:
        end = None if timeout is None else time.monotonic() + timeout
        while waiting and (end is None or time.monotonic() < end):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
