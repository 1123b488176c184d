"""The dashboard as it runs: who gets in, what is shown, and how it is in a browser."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import pytest

from mmmed.dashboard.serve import serve
from mmmed.dashboard.sessions import Sessions
from mmmed.errors import ConfigError
from privacy.accounting import DpSgdEvent
from privacy.audit import AuditResult, Bound, Check
from privacy.report import shown
from tests.web.chromium import COMMAND, Chromium
from tests.web.conftest import TOKEN


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def ask(
    address: str, *, cookie: str = "", method: str = "GET", body: str = "", host: str = ""
) -> HTTPResponse:
    headers = {"Cookie": cookie} | ({"Host": host} if host else {})
    request = urllib.request.Request(address, body.encode() or None, headers, method=method)
    try:
        return urllib.request.build_opener(_Stay).open(request)  # type: ignore[no-any-return]
    except urllib.error.HTTPError as answer:
        return answer  # type: ignore[return-value]


@pytest.fixture(scope="module")
def cookie(dashboard: str) -> str:
    answer = ask(f"{dashboard}/login", method="POST", body=urlencode({"token": TOKEN}))
    sent = answer.headers["Set-Cookie"]
    assert answer.status == 303 and "HttpOnly" in sent and "SameSite=strict" in sent and TOKEN not in sent
    return str(sent).split(";")[0]


PAGES = ["/", "/runs", "/runs/first-run", "/runs/first-run/live", "/runs/first-run/epsilon.json", "/sites/1",
         "/sites/1/live", "/static-plotly.js", "/docs", "/openapi.json"]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_shown_without_the_token(dashboard: str, path: str) -> None:
    for cookie in ("", "mmmed-session=", "mmmed-session=guess"):
        answer = ask(dashboard + path, cookie=cookie)
        assert answer.status == 303 and answer.headers["Location"] == "/login" and answer.read() == b""


def test_a_wrong_token_opens_nothing_and_delays_the_next() -> None:
    sessions = Sessions("right-token")
    assert sessions.open("wrong") is None
    assert sessions.open("right-token") is None  # too soon
    time.sleep(1.1)
    session = sessions.open("right-token")
    assert sessions.known(session) and not sessions.known(None) and not sessions.known("right-token")
    sessions.close(session)
    assert not sessions.known(session)


def test_it_only_reads(dashboard: str, cookie: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert ask(f"{dashboard}/runs", cookie=cookie, method=method, body="x").status == 405


def test_another_host_name_is_refused(dashboard: str, cookie: str) -> None:
    assert ask(f"{dashboard}/runs", cookie=cookie, host="evil.example").status == 400


def test_every_answer_carries_the_content_policy(dashboard: str, cookie: str) -> None:
    for path in (*PAGES, "/login", "/static/charts.js", "/nowhere"):
        policy = ask(dashboard + path, cookie=cookie).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "http" not in policy


def test_runs_sites_and_refusals_are_shown_and_escaped(dashboard: str, cookie: str) -> None:
    runs = ask(f"{dashboard}/runs", cookie=cookie).read().decode()
    assert "first-run" in runs and "3 of 3 rounds" in runs and "privacy budget is used up" in runs
    one = ask(f"{dashboard}/runs/first-run", cookie=cookie).read().decode()
    assert "site-2" in one and "budget-exhausted" in one and "2 of 3" not in one.split("site-1")[0]
    site = ask(f"{dashboard}/sites/1", cookie=cookie).read().decode()
    assert "run-of-today" in site and "&lt;script&gt;" in site and "<script>document" not in site


def test_the_budget_is_the_ledgers(dashboard: str, cookie: str, run_folder: Path) -> None:
    from privacy.accounting import epsilon

    site = ask(f"{dashboard}/sites/1/live", cookie=cookie).read().decode()
    spent, reserved = (epsilon([DpSgdEvent(1.0, 0.1, steps)], 1e-3) for steps in (40, 100))
    left = 8 - float(shown(reserved))
    assert f"{shown(spent)} spent, {shown(reserved)} reserved, {left:.3f} left of 8" in site


def test_an_audit_is_shown_with_its_bounds_and_an_edited_one_is_not_believed(
    dashboard: str, cookie: str, run_folder: Path
) -> None:
    claim = DpSgdEvent(1.0, 0.1, 100)
    checks = (Check("C1", "noise is as large as claimed", "half of it", 0.0),)
    bounds = (Bound("E3", "single steps, composed", 2.345, 4.0, 100),)
    result = AuditResult(claim, 1e-3, 10, True, 400, checks, bounds).to_json()
    file = run_folder / "report" / "audit.json"
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(result))
        page = ask(f"{dashboard}/runs/first-run", cookie=cookie).read().decode()
        assert "found a violation" in page and "VIOLATED" in page and "half of it" in page
        assert "2.345" in page and "4.000" in page
        file.write_text(json.dumps(result | {"passed": True, "violations": []}))
        page = ask(f"{dashboard}/runs/first-run", cookie=cookie).read().decode()
        assert "Not a result of" in page and "All checks passed" not in page
    finally:
        file.unlink()
    assert "No audit was kept" in ask(f"{dashboard}/runs/first-run", cookie=cookie).read().decode()


def test_figures_are_the_rounds(dashboard: str, cookie: str, run_folder: Path) -> None:
    figure = json.load(ask(f"{dashboard}/runs/first-run/score.json", cookie=cookie))
    assert figure["data"] == []  # the stand-in reports a loss, and no AUROC
    assert ask(f"{dashboard}/runs/first-run/epsilon.json", cookie=cookie).status == 200


@pytest.mark.parametrize(
    "path", ["/runs/none", "/runs/..", "/runs/first-run/report/config.toml", "/runs/%2e%2e%2fx"]
)
def test_what_is_not_there_is_told_without_a_trace(dashboard: str, cookie: str, path: str) -> None:
    answer = ask(dashboard + path, cookie=cookie)
    assert answer.status in (200, 303, 404, 409)
    assert "Traceback" not in answer.read().decode()


def test_a_damaged_ledger_is_told_on_the_page(dashboard: str, cookie: str, run_folder: Path) -> None:
    ledger = run_folder / "sites" / "north" / "ledger.db"
    whole = ledger.read_bytes()
    try:
        ledger.write_bytes(b"not a ledger" * 400)
        answer = ask(f"{dashboard}/sites/1", cookie=cookie)
        assert answer.status == 409 and "ledger.db" in answer.read().decode()
    finally:
        ledger.write_bytes(whole)


@pytest.mark.parametrize(
    ("host", "token", "files", "told"),
    [
        ("0.0.0.0", TOKEN, False, "SSH tunnel"),
        ("127.0.0.1", "short", False, "16 characters"),
        ("127.0.0.1", TOKEN, True, "no such file"),
    ],
)
def test_an_unsafe_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, host: str, token: str, files: bool, told: str
) -> None:
    monkeypatch.setenv("MMMED_DASHBOARD_TOKEN", token)
    file = Path("/no/file") if files else None
    with pytest.raises(ConfigError, match=told):
        serve([], host=host, port=0, certificate=file, key=file)


def test_a_taken_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMMED_DASHBOARD_TOKEN", TOKEN)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="Choose another"):
            serve([], host="127.0.0.1", port=taken.getsockname()[1], certificate=None, key=None)


@pytest.mark.skipif(COMMAND is None, reason="no Chromium on this machine (Debian: chromium)")
@pytest.mark.parametrize("dark", [False, True])
def test_a_person_gets_around_by_keyboard_and_screen_reader(
    dashboard: str, tmp_path: Path, dark: bool
) -> None:
    with Chromium(tmp_path / "profile", dark=dark) as browser:
        browser.open(f"{dashboard}/")
        assert browser.run("document.activeElement.id") == "token"
        assert ("textbox", "Token") in browser.names()
        browser.type(TOKEN)
        browser.press("Enter")
        browser.wait_for("location.pathname === '/runs'")
        browser.press("Tab")
        assert browser.run("document.activeElement.textContent") == "Skip to content"
        names = browser.names()
        for expected in (
            ("heading", "Runs"),
            ("navigation", "Sections"),
            ("link", "first-run"),
            ("button", "Log out"),
        ):
            assert expected in names
        browser.open(f"{dashboard}/runs/first-run")
        names = browser.names()
        assert any(role == "status" or "3 of 3 rounds" in name for role, name in names)
        assert all(
            name for role, name in names if role in ("link", "button", "textbox", "progressbar", "meter")
        )
        browser.open(f"{dashboard}/sites/1")
        assert browser.run("document.title") == "Site north - mmmed"  # the reason's markup did nothing
        ink, paper = (
            browser.run(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
        )
        assert _contrast(ink, paper) > 7 and (_light(paper) < 0.2) == dark
        assert browser.complaints == []


@pytest.mark.skipif(COMMAND is None, reason="no Chromium on this machine (Debian: chromium)")
def test_a_page_follows_a_run_as_it_goes(dashboard: str, tmp_path: Path, run_folder: Path) -> None:
    log = run_folder / "rounds.jsonl"
    whole = log.read_text()
    with Chromium(tmp_path / "profile") as browser:
        try:
            log.write_text(whole.split("\n")[0] + "\n")
            browser.open(f"{dashboard}/")
            browser.type(TOKEN)
            browser.press("Enter")
            browser.wait_for("location.pathname === '/runs'")
            browser.open(f"{dashboard}/runs/first-run")
            assert "1 of 3 rounds" in browser.run("document.body.innerText")
            log.write_text(whole)
            browser.wait_for("document.body.innerText.includes('3 of 3 rounds')")
        finally:
            log.write_text(whole)
        assert browser.complaints == []


def _light(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_light(one), _light(other)))
    return (high + 0.05) / (low + 0.05)
