"""One task of the site's runner: take a message, judge it, let the installed ClientApp answer, send the answer.

The bundle that came with the run is hashed, and its signature checked if it has one. It is never unpacked, and no code
but what this site has installed is ever imported.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.app import app
from client.gate import APP, SITE_DIR
from client.node.approval import RunApprovals
from client.node.folder import NodeFolder
from client.node.log import SiteLog
from client.refusal_log import record_refusal
from client.release import Refusal, refusal_code, refusal_reply
from client.site_folder import SiteFolder
from mmmed.errors import ConfigError
from mmmed.federation.protocol import CHECK_MESSAGE, run_of

SENDING = b"\0sending"
STALLED = 60.0  # seconds; one part is 5 MB at most
SIGNATURE = "app-signature"  # key of the run config: "ed25519:<public key, hex>:<signature, hex>"


class Stopped(BaseException):
    """The site is shutting down."""


def connect(address: str, token: str) -> RuntimeHttpClient:
    """A client of the node's interface, authorised by the token of one task."""
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def perform(folder: NodeFolder, address: str, token: str, tell: Callable[[bytes], None]) -> None:
    """Do the task that a token stands for.

    A node must get exactly one answer to a message. SIGTERM ends the work in order: what was computed is committed to
    the ledger, and the answer is ``stopped``.

    Args:
        folder: the site's ``node`` folder.
        address: host and port at which the node offers its tasks.
        token: of this task.
        tell: takes the message, as `crashed` reads it, before any work, and `SENDING` before the answer goes out.
    """
    signal.signal(signal.SIGTERM, _stop)
    client = connect(address, token)
    heart = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heart.start()
    client.PullObject = unless_stalled(client.PullObject)  # type: ignore[method-assign]
    message, context, _, bundle = pull_task_input(client)
    tell(message_to_proto(remove_content_from_message(message)).SerializeToString())
    try:
        reply = _answer(folder, message, context, bundle.content)
    except Stopped:
        reply = refusal_reply(message, Refusal.STOPPED)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is to be sent is sent
    tell(SENDING)
    send(client, folder, reply)
    heart.stop()
    client.close()


def unless_stalled(pull: Callable[..., PullObjectResponse]) -> Callable[..., PullObjectResponse]:
    """Wrap `pull` so that it gives up if no part of the message comes for `STALLED` seconds.

    The node drops a message whose run has ended. Flower would ask for the parts that are missing for an hour more, and
    the site do nothing else meanwhile.
    """
    last = time.monotonic()

    def pull_or_give_up(request: PullObjectRequest) -> PullObjectResponse:
        nonlocal last
        reply = pull(request)
        if reply.object_available:
            last = time.monotonic()
        elif time.monotonic() - last > STALLED:
            raise TimeoutError(f"no part of the message came for {STALLED:.0f} s")
        return reply

    return pull_or_give_up


def send(client: RuntimeHttpClient, folder: NodeFolder, reply: Message) -> None:
    """Append the answer's size and decision to the audit log, then hand the answer to the node."""
    left = sum(len(part.deflate()) for part in get_all_nested_objects(reply).values())
    decision = str(reply.error.reason) if reply.has_error() else "answered"
    SiteLog(folder.audit).append(
        "sent", message=reply.metadata.reply_to_message_id, decision=decision, bytes=left
    )
    about = reply.metadata
    push_message(client, reply, Context(about.run_id, about.src_node_id, {}, RecordDict(), {}))
    push_task_output(client, None, "completed", "")


def crashed(told: bytes) -> Message:
    """The refusal for a message whose process was killed. `told` is the message as `perform` passed it on."""
    message = message_from_proto(ProtoMessage.FromString(told))
    return refusal_reply(message, Refusal.CRASHED)


def _answer(folder: NodeFolder, message: Message, context: Context, bundle: bytes) -> Message:
    """The ClientApp's reply, or a refusal. No exception's text leaves."""
    try:
        names = app_names(bundle, context.run_config.get(SIGNATURE))
        run_id, config = run_of(message.content)
        SiteLog(folder.audit).append(
            "asked",
            message=message.metadata.message_id,
            kind=message.metadata.message_type,
            run=run_id,
            round=message.metadata.group_id,
            config=hashlib.sha256(config.encode()).hexdigest(),
            app=names[0],
            bytes=sum(len(part.deflate()) for part in get_all_nested_objects(message).values()),
        )
        asked_only = message.metadata.message_type == CHECK_MESSAGE
        if SiteFolder(folder.site).config.approval and not asked_only:
            decision = RunApprovals(folder.runs).decision(run_id, config)
            if decision != "approved":
                return refusal_reply(message, Refusal.HELD if decision == "waiting" else Refusal.DENIED)
        context.node_config = {SITE_DIR: str(folder.site), APP: " ".join(names)}  # the site's, not the node's
        return app(message=message, context=context)
    except Exception as error:
        code = refusal_code(error)
        record_refusal(SiteFolder(folder.site).logging_state.path, code, error)
        return refusal_reply(message, code)


def app_names(bundle: bytes, signature: object) -> list[str]:
    """What a policy may call the bundle: ``sha256:<digest>`` and, if it is signed, ``ed25519:<public key>``.

    Raises:
        ConfigError: there is a signature that does not hold.
    """
    digest = hashlib.sha256(bundle).hexdigest()
    names = [f"sha256:{digest}"]
    if signature not in (None, ""):
        try:
            scheme, key, signed = str(signature).split(":")
            if scheme != "ed25519":
                raise ValueError(scheme)
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
                bytes.fromhex(signed), digest.encode()
            )
        except (ValueError, InvalidSignature) as error:
            raise ConfigError(f"{SIGNATURE}: does not hold for the bundle {digest}") from error
        names.append(f"ed25519:{key.lower()}")
    return names


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped
