"""Worker processes that answer messages: spawned once, replaced when they die, ended together.

A worker leads its own process group, so that Ctrl-C at the terminal reaches it only through the pool: it gets one
SIGINT, which its ClientApp sees as KeyboardInterrupt, and some seconds to commit what it owes (a ledger entry)
before it is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

from flwr.common.constant import ErrorCode

from mmmed.errors import RunError
from mmmed.federation.protocol import Refusal
from mmmed.quiet import quieten
from simulations.execution import Job, Outcome, execute, failure, load_client_app

GRACE = 5.0  # seconds that an interrupted worker has before it is killed
_WAIT = 0.2  # seconds that `take` waits for a worker
_GROUPS = hasattr(
    os, "setpgid"
)  # Windows has neither groups nor SIGINT for one process: it gets the user's Ctrl-C
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    job: Job | None = None
    last_node: int | None = None
    kill_at: float | None = None  # interrupted: whatever it still sends is ignored, and it is killed then

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None and self.kill_at is None

    def interrupt(self) -> None:
        """Ask the worker to stop what it does; after `GRACE` seconds it is killed."""
        self.job, self.kill_at = None, time.monotonic() + GRACE
        if not _GROUPS:
            return
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(self.process.pid, signal.SIGINT)  # type: ignore[arg-type]


@dataclass
class WorkerPool:
    """Runs jobs in ``count`` processes of ``threads`` threads each.

    A job whose worker dies is answered with the error reply ``crashed``; one that outlives its message's time to
    live with ``expired``. A node prefers the worker that it had last, which may still hold its data.
    """

    reference: str
    count: int
    threads: int
    _workers: list[_Worker] = field(default_factory=list)
    _jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._workers = [self._spawn() for _ in range(self.count)]

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def take(self) -> list[tuple[Job, Outcome]]:
        """Hand jobs to idle workers and return what finished, after a moment's wait at most.

        Raises:
            RunError: the ClientApp cannot be loaded.
        """
        finished = self._expire()
        self._dispatch()
        waiting = {worker.pipe: worker for worker in self._workers if not worker.idle}
        for pipe in connection.wait(list(waiting), _WAIT) if waiting else []:
            finished += self._receive(waiting[pipe])  # type: ignore[index]
        return finished

    def close(self) -> None:
        """End all workers: idle ones at once, busy ones interrupted and killed after some seconds."""
        self._jobs.clear()
        for worker in self._workers:
            if worker.job is not None:
                worker.interrupt()
            elif worker.kill_at is None:
                worker.kill_at = time.monotonic() + GRACE
                if not worker.ready:
                    worker.process.terminate()  # still importing: it owes nothing
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(max(0.0, (worker.kill_at or 0.0) - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def _spawn(self) -> _Worker:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=_serve, args=(theirs, self.reference, self.threads), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _replace(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        self._workers[self._workers.index(worker)] = self._spawn()

    def _expire(self) -> list[tuple[Job, Outcome]]:
        now = time.monotonic()
        late = [job for job in self._jobs if now >= job.deadline]
        self._jobs = [job for job in self._jobs if now < job.deadline]
        for worker in list(self._workers):
            if worker.job is not None and now >= worker.job.deadline:
                late.append(worker.job)
                worker.interrupt()
            elif worker.kill_at is not None and now >= worker.kill_at:
                self._replace(worker)
        return [(job, failure(job, ErrorCode.MESSAGE_UNAVAILABLE, Refusal.EXPIRED)) for job in late]

    def _dispatch(self) -> None:
        for worker in self._workers:
            if not self._jobs or not worker.idle:
                continue
            nodes = [job.context.node_id for job in self._jobs]
            job = self._jobs.pop(nodes.index(worker.last_node) if worker.last_node in nodes else 0)
            worker.job, worker.last_node = job, job.context.node_id
            with contextlib.suppress(OSError):  # it died meanwhile: `_receive` sees the end of its pipe
                worker.pipe.send(job)

    def _receive(self, worker: _Worker) -> list[tuple[Job, Outcome]]:
        job = worker.job
        try:
            sent = worker.pipe.recv()
        except (EOFError, OSError):
            if not worker.ready and worker.kill_at is None:
                raise RunError(f"a worker process ended while it loaded {self.reference!r}") from None
            self._replace(worker)
            crashed = (ErrorCode.CLIENT_APP_CRASHED, Refusal.CRASHED)
            return [] if job is None else [(job, failure(job, *crashed))]
        if worker.kill_at is not None:
            return []
        if isinstance(sent, RunError):
            raise sent
        if job is None:
            worker.ready = True
            return []
        worker.job = None
        return [(job, sent)]


def _serve(pipe: Connection, reference: str, threads: int) -> None:
    """A worker's life: say that the app is loaded (None) or why not (RunError), then answer jobs until the end."""
    quieten()
    if _GROUPS:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, _interrupt_once)
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        try:
            app = load_client_app(reference)
        except RunError as error:
            pipe.send(error)
            return
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        pipe.send(None)
        while True:
            pipe.send(execute(app, pipe.recv()))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break what the first one lets finish
    raise KeyboardInterrupt
