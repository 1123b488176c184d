"""Run one message through a ClientApp as Flower does: on its own copies, an exception becoming an error reply."""

from __future__ import annotations

import copy
import importlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from mmmed.errors import RunError
from mmmed.federation.protocol import Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A message for a node. It expires when its time to live has passed since it was made (monotonic clock)."""

    message: Message
    context: Context
    made: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        return self.made + self.message.metadata.ttl


@dataclass(frozen=True)
class Outcome:
    """The reply to a message and the node's context after it (unchanged if the app failed)."""

    reply: Message
    context: Context


def load_client_app(reference: str) -> ClientApp:
    """Import the ClientApp that ``module:attribute`` names.

    Raises:
        RunError: no such module or attribute, or it is not a ClientApp.
    """
    module, _, attribute = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RunError(
            f"ClientApp {reference!r} cannot be loaded: {error}. Expected module:attribute"
        ) from error
    if not isinstance(app, ClientApp):
        raise RunError(f"{reference!r} must be a flwr ClientApp. Found {type(app).__name__}")
    return app


def execute(app: ClientApp, job: Job) -> Outcome:
    """Answer the job's message. The app sees copies, and if it fails the context stays as it was."""
    message, context = job.message, job.context
    own = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=dict(context.node_config),
        state=copy_content(context.state),
        run_config=dict(context.run_config),
    )
    try:
        copied = Message(content=copy_content(message.content), metadata=message.metadata)  # type: ignore[call-overload]
        reply = app(copied, own)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp must return a Message. Found {type(reply).__name__}")
    except Exception:
        log.exception("the ClientApp failed on node %d", context.node_id)  # the text stays on this machine
        return failure(job, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, Refusal.FAILED)
    return Outcome(reply, own)


def failure(job: Job, code: int, reason: str) -> Outcome:
    """An error reply whose reason is a short code."""
    return Outcome(Message(Error(code, reason), reply_to=job.message), job.context)


def copy_content(content: RecordDict) -> RecordDict:
    """A copy of the records; the arrays' immutable bytes are shared."""
    fresh = RecordDict()
    for name, record in content.items():
        values: dict[str, Any] = {key: copy.copy(value) for key, value in record.items()}
        fresh[name] = type(record)(values)
    return fresh


class SerialExecutor:
    """Runs jobs in this process, one a call of `take`, in the order in which they came."""

    def __init__(self, reference: str) -> None:
        self._app = load_client_app(reference)
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def take(self) -> list[tuple[Job, Outcome]]:
        """Run the next job."""
        if not self._jobs:
            return []
        job = self._jobs.popleft()
        if time.monotonic() >= job.deadline:
            return [(job, failure(job, ErrorCode.MESSAGE_UNAVAILABLE, Refusal.EXPIRED))]
        return [(job, execute(self._app, job))]

    def close(self) -> None:
        """Forget what is queued."""
        self._jobs.clear()
