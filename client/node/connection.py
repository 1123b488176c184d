"""Whether the coordinator can be reached, knows this site and has its time; for `doctor`, and at a site's start."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx

from client.node.folder import NodeFolder
from mmmed.pki.kit import Kit

_CLOCK_WARN, CLOCK_FAIL = 30.0, 300.0  # seconds; Flower refuses a signature whose time differs by more
_PATIENCE = 10.0  # seconds for the coordinator to answer

Verdict = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was examined, what was found, and how to repair it if it is not good."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""


def connection(folder: NodeFolder, kit: Kit) -> Iterator[Finding]:
    """All checks on the way to the coordinator; the first that is bad is the last."""
    where = f"{kit.address}:{kit.port}"
    try:
        found = socket.getaddrinfo(kit.address, kit.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Finding(
            "DNS", "bad", f"{kit.address}: {error}", "ask your network team to resolve this name here"
        )
        return
    yield Finding("DNS", "good", f"{kit.address} is {found[0][4][0]}")
    try:
        socket.create_connection((kit.address, kit.port), timeout=_PATIENCE).close()
    except OSError as error:
        mend = f"let this machine call out to {where} (TCP); is the coordinator up?"
        yield Finding("port", "bad", f"{where}: {error}", mend)
        return
    yield Finding("port", "good", f"{where} accepts connections")
    try:
        answer = _ask(folder, kit)
    except httpx.HTTPError as error:
        mend = "something between here and the coordinator answers in its place (a TLS-inspecting proxy?)"
        if "expired" in str(error):
            mend = "the coordinator renews its certificate: mmmed server renew"
        yield Finding("TLS", "bad", str(error), mend)
        return
    yield Finding("TLS", "good", "the server's certificate is the federation's")
    yield _admitted(answer)
    yield _clock(answer)


def refusals(folder: NodeFolder, kit: Kit) -> list[Finding]:
    """Why the coordinator does not let this site in: not admitted (any more), or clocks apart. None if it is silent."""
    try:
        answer = _ask(folder, kit)
    except (httpx.HTTPError, OSError):
        return []
    return [finding for finding in (_admitted(answer), _clock(answer)) if finding.verdict == "bad"]


def _ask(folder: NodeFolder, kit: Kit) -> httpx.Response:
    """What the coordinator answers to a request without a signature. Raises httpx.HTTPError if nothing."""
    context = ssl.create_default_context(cadata=kit.server_ca)
    context.load_cert_chain(folder.certificate, folder.key)
    with httpx.Client(verify=context, timeout=_PATIENCE, trust_env=False) as client:
        return client.post(
            f"https://{kit.address}:{kit.port}/v1/fleet/pull-messages",
            headers={"content-type": "application/protobuf"},
        )


def _admitted(answer: httpx.Response) -> Finding:
    """Without a signature the SuperLink answers 401 in JSON; whatever else answers is in its way."""
    what = "admission"
    if answer.status_code == 401 and "SuperNode" in answer.text:
        return Finding(what, "good", "the coordinator knows this site's certificate")
    if answer.status_code in (400, 401):
        return Finding(
            what,
            "bad",
            "the coordinator does not accept this site's certificate: it was revoked there, or the kit is an old one",
            "ask there: mmmed site renew with a new kit, or, if revoked, mmmed site init NAME --new-key",
        )
    if answer.status_code in (502, 503, 504):
        return Finding(
            what, "look", "the coordinator's SuperLink is down", "it comes back by itself; else ask there"
        )
    return Finding(
        what, "bad", f"an unexpected answer ({answer.status_code})", "is this the coordinator's address?"
    )


def _clock(answer: httpx.Response) -> Finding:
    stated = answer.headers.get("date")
    if stated is None:
        return Finding("clock", "look", "the coordinator did not say its time", "")
    off = abs(time.time() - parsedate_to_datetime(stated).timestamp())
    mend = "run an NTP client (timedatectl set-ntp true)"
    if off > CLOCK_FAIL:
        return Finding("clock", "bad", f"{off:.0f} s off the coordinator's: signatures are refused", mend)
    if off > _CLOCK_WARN:
        return Finding("clock", "look", f"{off:.0f} s off the coordinator's", mend)
    return Finding("clock", "good", f"{off:.0f} s off the coordinator's")
