"""A site's own records and checks: audit log, approvals, kit, doctor."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from hypothesis import given
from hypothesis import strategies as st

from client.node import approval, task
from client.node.approval import RunApprovals
from client.node.doctor import Finding, examine
from client.node.folder import NodeFolder, alone
from client.node.log import SiteLog
from client.refusal_log import record_refusal, refusals
from client.site_folder import SiteFolder
from mmmed.config import RunConfig
from mmmed.config.sources import to_json
from mmmed.errors import ConfigError, DeployError
from mmmed.federation.protocol import run_name
from mmmed.pki.kit import Kit
from server.deployment.folder import Folder, Settings
from server.deployment.provision import provision
from server.deployment.sites import admit
from simulations.loopback.hospital import Hospital
from simulations.loopback.processes import free_port, mmmed


@pytest.fixture
def site(tmp_path: Path, hospitals: Path) -> NodeFolder:
    """A hospital that made its key and was admitted, but was never started."""
    hospital = Hospital(tmp_path / "north", hospitals)
    folder = NodeFolder(hospital.path)
    request = folder.create("north")
    federation = Folder(tmp_path / "federation")
    provision(federation, Settings("localhost", port=free_port()))
    admit(federation, request, "north")
    return folder


@pytest.fixture
def kit(site: NodeFolder, tmp_path: Path) -> Path:
    return tmp_path / "federation" / "kits" / "north.kit"


# -- audit log ----------------------------------------------------------------------------------------------------


def test_every_edit_of_the_audit_log_shows(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "audit.jsonl")
    for number in range(4):
        log.append("asked", round=number)
    whole = (tmp_path / "audit.jsonl").read_bytes()
    head = log.head()
    assert [entry["round"] for entry in log.entries()] == [0, 1, 2, 3]
    lines = whole.splitlines(keepends=True)
    for edited in (
        whole.replace(b'"round": 1', b'"round": 7'),
        b"".join(lines[:1] + lines[2:]),
        b"".join([lines[1], lines[0], *lines[2:]]),
        b"".join(lines[1:]),
        whole[:-5],
    ):
        (tmp_path / "audit.jsonl").write_bytes(edited)
        with pytest.raises(DeployError, match="line"):
            log.entries()
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines[:-1]))  # cutting off the end shows against the head
    assert len(log.entries()) == 3 and log.head() != head


def test_a_torn_last_line_is_cut_off_and_the_log_goes_on(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "audit.jsonl")
    log.append("asked", round=1)
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"time": "2026')
    log.append("asked", round=2)
    assert [entry["round"] for entry in log.entries()] == [1, 2]


def _append_many(path: Path) -> None:
    for number in range(40):
        SiteLog(path).append("asked", round=number)


def test_processes_that_append_at_once_keep_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(tmp_path / "a",)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(600)
    assert len(SiteLog(tmp_path / "a").entries()) == 160


def _append_on_a_full_disk(path: Path, told: Path) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, resource.RLIM_INFINITY))
    try:
        SiteLog(path).append("asked", round=2)
    except DeployError as error:
        os.write(1, b"")
        told.write_text(str(error)[:30])


def test_a_full_disk_is_told_and_leaves_no_half_entry(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    SiteLog(path).append("asked", round=1)
    process = multiprocessing.get_context("fork").Process(
        target=_append_on_a_full_disk, args=(path, tmp_path / "t")
    )
    process.start()
    process.join(600)
    assert (tmp_path / "t").read_text()
    SiteLog(path).append("asked", round=3)
    assert [entry["round"] for entry in SiteLog(path).entries()] == [1, 3]


# -- approvals ----------------------------------------------------------------------------------------------------

CONFIG = to_json(RunConfig())


def test_what_is_approved_is_one_run_with_one_configuration(tmp_path: Path) -> None:
    runs = RunApprovals(tmp_path)
    assert runs.decision("r1", CONFIG) == "waiting"
    (seen,) = runs.all()
    log = SiteLog(tmp_path / "audit.jsonl")
    runs.decide(seen.name, "approved", log, "command")
    assert runs.decision("r1", CONFIG) == "approved"
    other = to_json(RunConfig.model_validate({"privacy": {"target_epsilon": 9.0}}))
    assert runs.decision("r1", other) == "waiting"
    assert runs.decision("r2", CONFIG) == "waiting"
    settings = next(run for run in runs.all() if run.config == other).settings()
    assert [line for line in settings if line.startswith("*")] == ["* privacy.target_epsilon = 9.0"]
    assert "  privacy.delta = 0.0001" in settings and "  task.label = finding" in settings
    runs.decide(seen.name, "denied", log, "dashboard")
    assert runs.decision("r1", CONFIG) == "denied"
    assert [(one["event"], one["way"]) for one in log.entries()] == [
        ("approved", "command"),
        ("denied", "dashboard"),
    ]
    with pytest.raises(DeployError, match="cannot be written"):  # what cannot be logged is not decided
        runs.decide(seen.name, "approved", SiteLog(tmp_path / "none" / "audit.jsonl"), "command")
    assert runs.decision("r1", CONFIG) == "denied"


def test_a_name_must_be_one_runs(tmp_path: Path) -> None:
    runs = RunApprovals(tmp_path)
    runs.decision("abc-1", CONFIG)
    runs.decision("abc-2", CONFIG)
    for name, why in (("abc", "several runs"), ("zzz", "no run")):
        with pytest.raises(DeployError, match=why):
            runs.decide(name, "approved", SiteLog(tmp_path / "audit.jsonl"), "command")


@given(st.text(max_size=80))
def test_no_run_id_reaches_the_file_system(run_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = RunApprovals(Path(folder) / "runs")
        (Path(folder) / "runs").mkdir()
        try:
            runs.decision(run_id, CONFIG)
        except ConfigError:
            assert not list((Path(folder) / "runs").iterdir())
        assert [path.name for path in Path(folder).iterdir()] == ["runs"]


def test_runs_without_end_do_not_fill_the_disk(tmp_path: Path) -> None:
    runs = RunApprovals(tmp_path)
    for number in range(205):
        assert runs.decision(f"run-{number}", "{}") == "waiting"
    assert len(runs.all()) == 200


# -- kit ----------------------------------------------------------------------------------------------------------


def test_a_kit_is_taken_if_it_is_for_this_key_name_and_software(
    site: NodeFolder, kit: Path, tmp_path: Path
) -> None:
    site.join(kit)
    assert site.kit() == Kit.read(kit)
    good = kit.read_text()
    for edit, why in (
        (lambda text: text.replace('site = "north"', 'site = "south"'), "names 'north'"),
        (lambda text: text.replace('flower = "1.41.0"', 'flower = "1.40.0"'), "same version"),
        (lambda text: text.replace(Kit.read(kit).certificate, Kit.read(kit).server_ca), "not for the key"),
    ):
        (tmp_path / "bad.kit").write_text(edit(good))
        with pytest.raises(DeployError, match=why):
            site.join(tmp_path / "bad.kit")
    assert site.kit() == Kit.read(kit)  # what was joined stays


def test_a_site_that_has_not_joined_or_has_a_key_already_is_told_so(site: NodeFolder) -> None:
    with pytest.raises(DeployError, match="has not joined"):
        site.kit()
    with pytest.raises(DeployError, match="there already"):
        site.create("north")
    code, told = mmmed("site", "start", "--site", site.site, cwd=site.site, check=False)
    assert code == 2 and "has not joined" in told and "Traceback" not in told


def test_a_new_key_keeps_ledger_and_audit_log_and_needs_a_new_kit(site: NodeFolder, kit: Path) -> None:
    site.join(kit)
    SiteLog(site.audit).append("asked", round="1")
    old = site.key.read_bytes()
    code, told = mmmed("site", "init", "north", "--new-key", "--site", site.site, cwd=site.site)
    assert code == 0 and site.key.read_bytes() != old
    (aside,) = site.path.glob("replaced-*")
    assert (aside / "node.key").read_bytes() == old and (aside / "federation.kit").exists()
    assert len(SiteLog(site.audit).entries()) == 1
    with pytest.raises(DeployError, match="not for the key"):
        site.join(kit)
    with alone(site):
        code, told = mmmed(
            "site", "init", "north", "--new-key", "--site", site.site, cwd=site.site, check=False
        )
    assert code == 2 and "is running" in told


def test_renewing_takes_a_newer_certificate_for_the_same_key(site: NodeFolder, kit: Path) -> None:
    site.join(kit)
    before = Kit.read(site.kit_file).certificate
    admit(Folder(kit.parents[1]), site.path / "north.request", "north")
    code, told = mmmed("site", "renew", kit, "--site", site.site, cwd=site.site)
    assert code == 0 and "holds for 73" in told
    assert Kit.read(site.kit_file).certificate != before


def test_a_site_that_runs_is_not_started_twice(site: NodeFolder, kit: Path) -> None:
    site.join(kit)
    with alone(site):
        code, told = mmmed("site", "start", "--site", site.site, cwd=site.site, check=False)
    assert code == 2 and "is running" in told


# -- doctor -------------------------------------------------------------------------------------------------------


def bad(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings if finding.verdict == "bad"}


Break = Callable[[NodeFolder], object]


@pytest.mark.parametrize(
    ("broken", "what", "mend"),
    [
        (lambda site: site.key.unlink(), "key", "site init"),
        (lambda site: site.key.chmod(0o644), "key", "chmod 600"),
        (lambda site: site.kit_file.unlink(), "software and kit", "mmmed site start"),
        (lambda site: (site.site / "site-policy.toml.sig").unlink(), "policy and budget", ""),
        (lambda site: (site.site / "site.toml").write_text("version = 2"), "data", ""),
        (
            lambda site: (
                (site.site / "state").mkdir(exist_ok=True)
                or (site.site / "state" / "ledger.db").write_text("x")
            ),
            "policy and budget",
            "",
        ),
    ],
)
def test_doctor_names_what_is_broken(
    site: NodeFolder, kit: Path, broken: Break, what: str, mend: str
) -> None:
    site.join(kit)
    broken(site)
    found = bad(examine(site))
    assert what in found
    assert mend in found[what].mend


def test_doctor_tells_a_closed_port_and_an_unknown_name(site: NodeFolder, kit: Path) -> None:
    site.join(kit)
    assert "call out to localhost" in bad(examine(site))["port"].mend  # the coordinator is not up
    text = kit.read_text().replace('address = "localhost"', 'address = "nowhere.invalid"')
    site.kit_file.write_text(text)
    assert "resolve" in bad(examine(site))["DNS"].mend


def test_doctor_finds_the_wrong_authority_and_an_expired_server(
    site: NodeFolder, kit: Path, tmp_path: Path
) -> None:
    """A real TLS server with a certificate of another authority, or one that has ended."""
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from mmmed.pki.certificates import load_key
    from server.deployment.authority import Authority

    site.join(kit)
    federation = tmp_path / "federation"
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    other.create("elsewhere")
    key = load_key(federation / "server.key").public_key()
    for certificate, words in (
        (other.issue_server(key, ["localhost"]), "TLS-inspecting"),
        (Authority(federation / "ca").issue_server(key, ["localhost"], days=-1), "server renew"),
    ):
        (tmp_path / "shown.crt").write_bytes(certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "shown.crt", federation / "server.key")
        server = HTTPServer(("127.0.0.1", Kit.read(kit).port), BaseHTTPRequestHandler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert words in bad(examine(site))["TLS"].mend
        finally:
            server.shutdown()
            server.server_close()


def test_a_site_that_is_let_in_no_more_or_whose_clock_is_off_is_told_so_at_its_start(
    site: NodeFolder, kit: Path, tmp_path: Path
) -> None:
    import ssl
    import threading
    from email.utils import formatdate
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from client.node.connection import refusals
    from mmmed.pki.certificates import load_key
    from server.deployment.authority import Authority

    class Coordinator(BaseHTTPRequestHandler):
        answer, ahead = (401, b"this SuperNode is not known"), 0.0

        def do_POST(self) -> None:
            self.send_response_only(self.answer[0])
            self.send_header("Date", formatdate(time.time() + self.ahead, usegmt=True))
            self.end_headers()
            self.wfile.write(self.answer[1])

        def log_message(self, *arguments: object) -> None: ...

    site.join(kit)
    assert refusals(site, site.kit()) == []  # a coordinator that is down: the node tries again
    federation = tmp_path / "federation"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = load_key(federation / "server.key").public_key()
    (tmp_path / "shown.crt").write_bytes(Authority(federation / "ca").issue_server(key, ["localhost"]))
    context.load_cert_chain(tmp_path / "shown.crt", federation / "server.key")
    server = HTTPServer(("127.0.0.1", site.kit().port), Coordinator)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert refusals(site, site.kit()) == []
        Coordinator.ahead = 2 * 86_400.0
        (clock,) = refusals(site, site.kit())
        assert clock.what == "clock" and "NTP" in clock.mend
        Coordinator.answer, Coordinator.ahead = (400, b"no required SSL certificate was sent"), 0.0
        (admission,) = refusals(site, site.kit())
        assert "revoked" in admission.found and "--new-key" in admission.mend
    finally:
        server.shutdown()
        server.server_close()


def test_doctor_shows_both_clocks_and_judges_the_policy_by_them(
    site: NodeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SiteFolder(site.site)
    folder.ledger(folder.policy()).close()

    def told() -> dict[str, Finding]:
        return {one.what: one for one in examine(site)}

    assert told()["the ledger's time"].verdict == "good"
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall + 80 * 365 * 86_400.0)
    assert (
        told()["the ledger's time"].verdict == "look" and "set the clock" in told()["the ledger's time"].mend
    )
    assert told()["policy"].verdict == "bad" and "mend the clock" in told()["policy"].mend
    monkeypatch.setattr(time, "time", lambda: wall)
    assert told()["policy"].verdict == "good"


def test_doctor_makes_no_ledger_and_its_exit_code_tells(site: NodeFolder, kit: Path) -> None:
    site.join(kit)
    code, told = mmmed("site", "doctor", "--site", site.site, cwd=site.site, check=False)
    assert code == 1 and "BAD" in told and "nothing charged yet" in told
    assert not (site.site / "state" / "ledger.db").exists()


def test_the_log_command_verifies(site: NodeFolder) -> None:
    SiteLog(site.audit).append("asked", round="1")
    code, told = mmmed("site", "log", "--site", site.site, cwd=site.site)
    assert code == 0 and "whole" in told and "note:" not in told
    code, former = mmmed("site", "audit", "--site", site.site, cwd=site.site)
    assert code == 0 and former.replace("note: `mmmed site audit` is now `mmmed site log`\n", "") == told
    entry = json.loads(site.audit.read_text())
    site.audit.write_text(json.dumps(entry | {"before": "1" * 64}) + "\n")
    code, told = mmmed("site", "log", "--site", site.site, cwd=site.site, check=False)
    assert code == 2 and "edited" in told


# -- tasks --------------------------------------------------------------------------------------------------------


def test_a_message_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node drops what it has of a message whose run has ended."""
    monkeypatch.setattr(task, "STALLED", 0.05)
    comes = [True, False, False]
    pull = task.unless_stalled(lambda _: PullObjectResponse(object_found=True, object_available=comes.pop(0)))
    asked = PullObjectRequest()
    assert pull(asked).object_available
    assert not pull(asked).object_available  # not there yet
    time.sleep(0.1)
    with pytest.raises(TimeoutError, match="no part of the message"):
        pull(asked)


# -- what the coordinator sends -------------------------------------------------------------------------------------


def test_a_long_text_breaks_no_log(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "audit.jsonl")
    log.append("asked", run="r" * 70_000, kind="\x1b[2J\ntrain")
    log.append("sent", decision="answered")
    first, second = log.entries()
    assert len(first["run"]) < 300 and first["kind"] == "\\x1b[2J\\ntrain" and second["event"] == "sent"


def test_a_log_with_a_long_line_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    line = json.dumps({"time": "then", "event": "asked", "run": "r" * 300_000, "before": "0" * 64})
    (tmp_path / "audit.jsonl").write_text(line + "\n")
    log = SiteLog(tmp_path / "audit.jsonl")
    log.append("sent", decision="answered")
    log.append("asked", run="s")
    assert [entry["event"] for entry in log.entries()] == ["asked", "sent", "asked"]


def test_runs_that_wait_are_bounded_in_number_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "_MOST_BYTES", 500_000)
    runs = RunApprovals(tmp_path)
    with pytest.raises(ConfigError, match="run-config"):
        runs.decision("r", "x" * 200_000)
    for number in range(6):
        assert runs.decision(f"r{number}", "x" * 120_000) == "waiting"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 600_000
    assert runs.decision("r0", "x" * 120_000) == "waiting" and len(runs.all()) == 4


def test_text_of_others_reaches_no_terminal_raw(site: NodeFolder) -> None:
    """Escape sequences and line feeds forge lines in the engineer's terminal."""
    forged = "\x1b[2J\x1b[31mok\n2026-01-01T00:00:00 asked    run=mine\u202e"
    SiteLog(site.audit).append("asked", run=forged)
    with site.audit.open("a") as file:  # as an earlier version wrote it
        before = SiteLog(site.audit).head()
        file.write(json.dumps({"time": "t", "event": "asked", "run": forged, "before": before}) + "\n")
    config = to_json(
        RunConfig.model_validate({"data": {"where": {"finding\x1b[2J\nforged": "a\x1b[2J\nforged"}}})
    )
    RunApprovals(site.runs).decision("r1", config)
    for command in ("log", "runs"):
        _, told = mmmed("site", command, "--site", site.site, cwd=site.site)
        assert "\x1b" not in told and "\u202e" not in told
        assert not any(line.startswith(("forged", "2026-01-01T00:00:00")) for line in told.splitlines())


def test_a_refusal_of_the_coordinators_words_is_one_line(tmp_path: Path) -> None:
    record_refusal(tmp_path, "request-invalid", ConfigError("a\x1b[2J\u2028b\x0bc" + "x" * 5000))
    (line,) = refusals(tmp_path)
    assert line.isprintable() and len(line) < 1200
    assert "\x1b" not in (tmp_path / "site.log").read_text()


def test_approval_shows_in_words_what_is_read_predicted_released_and_spent(tmp_path: Path) -> None:
    def told(**sections: Any) -> str:
        runs = RunApprovals(Path(tempfile.mkdtemp(dir=tmp_path)))
        config = RunConfig.model_validate(sections)
        runs.decision("r1", to_json(config))
        (run,) = runs.all()
        assert run.name == run_name("r1", to_json(config))
        return "\n".join(run.in_words())

    usual = told()
    for part in (
        *(
            "image (image)",
            "text (text)",
            "of finding",
            "resnet10+tiny",
            "full, in 3 rounds",
            "this site's noise",
        ),
        *("counts with noise", "epsilon 8 at delta 0.0001", "and 1 of those held out"),
    ):
        assert part in usual
    assert "NOT PRIVATE" in told(privacy={"metrics": "rounded"})
    assert "WITHOUT PRIVACY" in told(privacy={"enabled": False})
    assert "only rows where {'ward': 'a'}" in told(data={"where": {"ward": "a"}})
    assert "\x1b" not in told(data={"image": "a\x1b[2J\nspends epsilon 0"})
    assert not any(
        line.startswith("spends epsilon 0") for line in told(data={"image": "\nspends epsilon 0"}).split("\n")
    )
