"""What may keep a site from taking part, checked one by one, each with how to mend it."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import torch

from client.node.connection import CLOCK_FAIL, Finding, Verdict, connection
from client.node.folder import NodeFolder
from client.opt_outs import list_in_force, unfinished
from client.run_request import INSTALLED
from client.site_folder import SiteFolder
from mmmed.data.counts import rounded
from mmmed.data.image_approvals import ImageApprovals
from mmmed.errors import MmmedError
from mmmed.pki.certificates import days_left, parse_certificate
from mmmed.pki.kit import Kit
from privacy.accounting import shown as rounded_up
from privacy.errors import PrivacyError
from privacy.ledger import Budget, Clock

_SOON = 30  # days before a certificate or policy ends
_DISK_WARN, _DISK_FAIL = 5e9, 5e8  # bytes


def examine(folder: NodeFolder) -> list[Finding]:
    """Make all checks. A fault is reported once, by the check that finds its cause."""
    findings = [*_guarded("software and kit", lambda: _kit(folder))]
    if all(finding.verdict != "bad" for finding in findings):
        findings += _guarded("connection", lambda: connection(folder, folder.kit()))
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
        found = (
            f"{rounded(waiting)} held for review wait for a human's approval; nothing learns from them before"
        )
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
    clock = _ledger_clock(site)
    today = datetime.fromtimestamp(time.time() if clock is None else clock.latest, UTC).date()
    days = (policy.expires - today).days
    if days < 0:
        found = f"ended on {policy.expires}; today is {today}, as far as this site knows"
        yield Finding(
            "policy", "bad", found, "if that is not the date, mend the clock; else the officer signs anew"
        )
    else:
        soon = "the privacy officer signs a new one" if days < _SOON else ""
        yield Finding("policy", "look" if soon else "good", f"signed, until {policy.expires}", soon)
    if clock is not None:
        yield _two_clocks(clock)
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


def _ledger_clock(site: SiteFolder) -> Clock | None:
    """What the ledger knows of the time, if there is one."""
    if not site.state.holds_ledger():
        return None
    with site.state.inspect() as ledger:
        return ledger.clock()


def _two_clocks(clock: Clock) -> Finding:
    """Both readings: this machine's clock, and the time that the ledger knows to have passed."""
    what, ahead = "the ledger's time", clock.wall - clock.passed
    passed, wall = (
        datetime.fromtimestamp(each, UTC).strftime("%Y-%m-%d %H:%M") for each in (clock.passed, clock.wall)
    )
    both = f"this machine's clock says {wall}; {passed} has passed for certain (UTC)"
    if abs(ahead) <= CLOCK_FAIL:
        return Finding(what, "good", both)
    if ahead > 0 and clock.settles is not None:
        mend = f"if the machine was off for so long, nothing: that counts {clock.settles / 60:.0f} min after a request"
        return Finding(what, "look", both, f"{mend}. Else set the clock before (timedatectl set-ntp true)")
    if ahead > 0:
        mend = (
            "set the clock if it is wrong (timedatectl set-ntp true); else a `period` ends so much later here"
        )
    else:
        mend = "set the clock if it is wrong; if the ledger is, two officers sign a policy with a later `expires`"
    return Finding(what, "look", both, mend)


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
    found = f"epsilon {rounded_up(spent)} of {limit.epsilon:g} charged"
    return Finding(
        "budget", "good" if enough else "look", found, "" if enough else "the next run may be refused"
    )
