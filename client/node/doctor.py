"""What may keep a site from taking part, checked one by one, each with how to mend it."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx
import torch

from client.node.folder import NodeFolder
from client.opt_outs import list_in_force, unfinished
from client.run_request import INSTALLED
from client.site_folder import SiteFolder
from mmmed.data.counts import rounded
from mmmed.data.image_approvals import ImageApprovals
from mmmed.errors import MmmedError
from mmmed.pki.certificates import days_left, parse_certificate
from mmmed.pki.kit import Kit
from privacy.errors import PrivacyError
from privacy.ledger import Budget

_SOON = 30  # days before a certificate or policy ends
_CLOCK_WARN, _CLOCK_FAIL = 30.0, 300.0  # seconds; Flower refuses a signature whose time differs by more
_DISK_WARN, _DISK_FAIL = 5e9, 5e8  # bytes
_PATIENCE = 10.0  # seconds for the coordinator to answer

Verdict = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was examined, what was found, and how to repair it if it is not good."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""


def examine(folder: NodeFolder) -> list[Finding]:
    """Make all checks. A fault is reported once, by the check that finds its cause."""
    findings = [*_guarded("software and kit", lambda: _kit(folder))]
    if all(finding.verdict != "bad" for finding in findings):
        findings += _guarded("connection", lambda: _connection(folder, folder.kit()))
    findings += _guarded("disk", lambda: _disk(folder))
    findings += _guarded("GPU", _gpu)
    findings += _guarded("data", lambda: _data(SiteFolder(folder.site)))
    findings += _guarded("policy and budget", lambda: _policy(folder, SiteFolder(folder.site)))
    return findings


def _guarded(what: str, checks: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings; an error that says how to mend it becomes one."""
    findings = []
    try:
        for finding in checks():
            findings.append(finding)  # noqa: PERF402 - keeps those before the error
    except (MmmedError, PrivacyError, OSError) as error:
        text, _, mend = str(error).partition(". ")
        findings.append(Finding(what, "bad", text, mend))
    return findings


def _kit(folder: NodeFolder) -> Iterator[Finding]:
    if not folder.key.exists():
        yield Finding("key", "bad", f"{folder.key} is missing", "mmmed site init NAME")
        return
    mode = stat.S_IMODE(folder.key.stat().st_mode)
    if mode & 0o077:
        yield Finding(
            "key", "bad", f"{folder.key} can be read by others ({mode:o})", f"chmod 600 {folder.key}"
        )
    kit = folder.kit()
    yield Finding("software and kit", "good", f"{kit.site}, Flower {kit.flower}")
    left = days_left(parse_certificate(kit.certificate.encode(), "the kit"))
    yield Finding(
        "this site's certificate",
        "good" if left > _SOON else "look",
        f"ends in {left:.0f} days",
        ""
        if left > _SOON
        else "ask the coordinator for a new kit (add-site with the same request), then: mmmed site renew",
    )


def _connection(folder: NodeFolder, kit: Kit) -> Iterator[Finding]:
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
    context = ssl.create_default_context(cadata=kit.server_ca)
    context.load_cert_chain(folder.certificate, folder.key)
    try:
        with httpx.Client(verify=context, timeout=_PATIENCE, trust_env=False) as client:
            answer = client.post(
                f"https://{where}/v1/fleet/pull-messages", headers={"content-type": "application/protobuf"}
            )
    except httpx.HTTPError as error:
        mend = "something between here and the coordinator answers in its place (a TLS-inspecting proxy?)"
        if "expired" in str(error):
            mend = "the coordinator renews its certificate: mmmed server renew"
        yield Finding("TLS", "bad", str(error), mend)
        return
    yield Finding("TLS", "good", "the server's certificate is the federation's")
    yield _admitted(answer)
    yield _clock(answer)


def _admitted(answer: httpx.Response) -> Finding:
    """Without a signature the SuperLink answers 401 in JSON; whatever else answers is in its way."""
    what = "admission"
    if answer.status_code == 401 and "SuperNode" in answer.text:
        return Finding(what, "good", "the coordinator knows this site's certificate")
    if answer.status_code in (400, 401):
        return Finding(
            what,
            "bad",
            "the coordinator does not accept this site's certificate",
            "ask it: revoked, or an old kit?",
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
    if off > _CLOCK_FAIL:
        return Finding("clock", "bad", f"{off:.0f} s off the coordinator's: signatures are refused", mend)
    if off > _CLOCK_WARN:
        return Finding("clock", "look", f"{off:.0f} s off the coordinator's", mend)
    return Finding("clock", "good", f"{off:.0f} s off the coordinator's")


def _disk(folder: NodeFolder) -> Iterator[Finding]:
    free = shutil.disk_usage(folder.site).free
    verdict: Verdict = "bad" if free < _DISK_FAIL else "look" if free < _DISK_WARN else "good"
    yield Finding(
        "disk", verdict, f"{free / 1e9:.1f} GB free", "" if verdict == "good" else "free some space"
    )


def _gpu() -> Iterator[Finding]:
    if torch.cuda.is_available():
        yield Finding("GPU", "good", torch.cuda.get_device_name(0))
    else:
        yield Finding(
            "GPU", "look", "none: training runs on the CPU", "fine for small models; else install a driver"
        )


def _data(site: SiteFolder) -> Iterator[Finding]:
    table = site.dataset / site.config.table
    if not table.is_file():
        mend = "mmmed site ingest SOURCES --out DATASET, and say in site.toml where it is"
        yield Finding("data", "bad", f"{table} is missing", mend)
        return
    yield Finding("data", "good", f"{table}; look closer with `mmmed site check {site.path}`")
    yield from _withdrawn(site)
    if waiting := len(ImageApprovals.load(site.dataset).of_status("waiting")):
        found = f"{rounded(waiting)} with masked text wait for a human's approval; nothing learns from them before"
        yield Finding("images", "look", found, f"mmmed site images {site.dataset}")


def _withdrawn(site: SiteFolder) -> Iterator[Finding]:
    """Whether an opt-out list is in force, and whether its last command has come to its end."""
    if count := len(list_in_force(site)):
        left = unfinished(site)
        yield Finding(
            "withdrawals",
            "look" if left else "good",
            f"{count} on the opt-out list" + (f"; of {left} not everything is erased yet" if left else ""),
            f"mmmed site withdraw --site {site.path}" if left else "",
        )


def _policy(folder: NodeFolder, site: SiteFolder) -> Iterator[Finding]:
    signed = site.policy()
    policy = signed.policy
    days = (policy.expires - datetime.now(UTC).date()).days
    if days < 0:
        yield Finding("policy", "bad", f"ended on {policy.expires}", "the privacy officer signs a new one")
    else:
        soon = "the privacy officer signs a new one" if days < _SOON else ""
        yield Finding("policy", "look" if soon else "good", f"signed, until {policy.expires}", soon)
    yield _budget(site, policy.limit)
    yield from _number(site, policy.patients)
    if (
        folder.kit_file.exists()
        and INSTALLED not in policy.apps
        and Kit.read(folder.kit_file).app not in policy.apps
    ):
        yield Finding(
            "app",
            "bad",
            "the policy allows no bundle of this coordinator",
            f'apps = ["{INSTALLED}"] or its digest',
        )


def _number(site: SiteFolder, stated: int | None) -> Iterator[Finding]:
    """Whether the site has the patients that its policy states. Reads the ledger, if there is one."""
    if stated is None or not site.state.holds_ledger():
        return
    with site.state.inspect() as ledger:
        most = ledger.most_patients
    if most:
        kept = most >= stated
        yield Finding(
            "patients",
            "good" if kept else "look",
            "as many as the policy states, or more" if kept else "fewer than the policy states",
            ""
            if kept
            else "epsilon holds; the noise counts for more: the officer signs a smaller run.patients",
        )


def _budget(site: SiteFolder, limit: Budget) -> Finding:
    """Reads the ledger if there is one; makes none."""
    if not site.state.holds_ledger():
        return Finding("budget", "good", f"nothing charged yet, of epsilon {limit.epsilon:g}")
    with site.state.inspect() as ledger:
        spent = ledger.spent(limit.delta)
    enough = spent < 0.9 * limit.epsilon
    found = f"epsilon {spent:.3g} of {limit.epsilon:g} charged"
    return Finding(
        "budget", "good" if enough else "look", found, "" if enough else "the next run may be refused"
    )
