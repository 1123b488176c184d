"""The site's own runner, in the place of Flower's executor: what turns a coordinator's request into a process here.

It alone holds the secret without which the node gives nobody a task. It takes client tasks and no other kind, and does
each in a fork of itself: everything has been imported once, so a round does not begin with seconds of imports. When a
fork is killed, the runner answers ``crashed`` in its stead.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from client.node import task
from client.node.folder import NodeFolder
from client.node.pace import Pace
from client.node.start import CUT_OFF
from client.site_folder import SiteFolder
from mmmed.errors import MmmedError
from mmmed.quiet import quieten
from privacy.errors import PrivacyError

log = logging.getLogger(__name__)

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class Runner:
    """Does a node's tasks, one at a time, until SIGTERM."""

    def __init__(self, folder: NodeFolder, address: str) -> None:
        self._folder = folder
        self._address = address
        self._stopping = False
        self._child: int | None = None
        self._pace = Pace(0.1, 0.5)
        secret = load_superexec_auth_secret(str(folder.secret))
        assert secret is not None
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE})),
            ],
        )

    def run(self) -> None:
        """Take and do tasks until SIGTERM; a running task may still commit and answer."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Flower's retries send one to whoever has an old token
        gc.freeze()  # what was imported is shared with the forks, untouched by their garbage collections
        print("runner: ready", flush=True)
        while not self._stopping:
            try:
                reply = self._client.AcquireTask(
                    AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
                )
            except httpx.HTTPError:  # the node is starting, or being started again
                time.sleep(self._pace.seconds)
                continue
            if not reply.HasField("task") or not reply.token:
                time.sleep(self._pace.seconds)
            elif reply.task.type != TaskType.CLIENT_APP:
                log.error("the node offered a task of type %r: left undone", reply.task.type)
            else:
                self._do(reply.token)
                self._pace.came()

    def _do(self, token: str) -> None:
        """Do a task in a fork, and answer for it if it is killed."""
        read, write = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(read)
            _tie_to_parent()

            def tell(what: bytes) -> None:
                os.write(write, what)

            os._exit(_forked(lambda: task.perform(self._folder, self._address, token, tell)))
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            told = pipe.read()  # until the fork ends
        _, status = os.waitpid(self._child, 0)
        self._child = None
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return
        print(f"runner: the task's process ended with {code}", flush=True)
        if not told.endswith(task.SENDING):
            if told:  # else Flower notices within a minute
                self._answer_for(token, told)
        elif code < 0:
            print(CUT_OFF, flush=True)

    def _answer_for(self, token: str, told: bytes) -> None:
        client = task.connect(self._address, token)
        try:
            task.send(client, self._folder, task.crashed(told))
        except Exception as error:  # the node has ended too, and with it the message
            log.warning("could not answer for the process that ended: %s", error)
        finally:
            client.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        if self._child:
            os.kill(self._child, signal.SIGTERM)


def _tie_to_parent() -> None:
    """Should the runner be killed, the kernel asks this fork to end, which it does in order."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _forked(work: Callable[[], None]) -> int:
    """Do `work` in this fork; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _note_clock(site: SiteFolder) -> None:
    """Let the ledger, if there is one, see both clocks: time off counts an hour after (`privacy.ledger.clock`)."""
    try:
        if site.state.holds_ledger():
            with site.state.inspect() as ledger:
                ledger.note_clock()
    except (MmmedError, PrivacyError) as error:  # the first request is refused for it, and says so
        log.warning("%s", error)


def main() -> None:
    """``python -m client.node.runner SITE ADDRESS``"""
    quieten()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    _note_clock(SiteFolder(Path(sys.argv[1])))
    Runner(NodeFolder(Path(sys.argv[1])), sys.argv[2]).run()


if __name__ == "__main__":
    main()
