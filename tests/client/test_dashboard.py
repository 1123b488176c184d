"""A hospital's own page over its site folder: policy, budget after a round, refusals with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from starlette.testclient import TestClient

from client.app import app
from client.dashboard import deployed_section, is_site
from client.node.approval import RunApprovals
from client.node.folder import NodeFolder
from client.node.log import SiteLog
from mmmed.config import RunConfig
from mmmed.config.sources import to_json
from mmmed.dashboard import create_app
from privacy.keys import load_or_create_key
from simulations.loopback.hospital import Hospital
from tests.client.requests import request

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def browser(hospital: Hospital) -> TestClient:
    application = create_app([deployed_section(hospital.path)], TOKEN, ["testserver"], secure=False)
    client = TestClient(application)
    assert client.post("/login", data={"token": TOKEN}).status_code == 200
    return client


def asked(hospital: Hospital, config: RunConfig) -> Any:
    own = Context(1, 1, {"site-dir": str(hospital.path)}, RecordDict(), {})
    return app(request(config), own)


def test_a_site_that_was_never_asked_shows_its_policy_and_makes_no_ledger(
    hospital: Hospital, browser: TestClient
) -> None:
    assert is_site(hospital.path)
    text = browser.get("/site").text
    assert (
        "No request was answered yet" in text
        and "resnet10+tiny" in text
        and "epsilon 12 at delta 0.001" in text
    )
    assert not (hospital.state / "ledger.db").exists()


def test_spending_and_refusals_are_shown_after_a_round(
    hospital: Hospital, browser: TestClient, configured: Callable[..., RunConfig]
) -> None:
    good = asked(hospital, configured(privacy={"delta": 1e-3}))
    assert not good.has_error(), good
    assert asked(hospital, configured(model={"trainable": "norm-bias"})).has_error()
    text = browser.get("/site").text
    assert "training" in text and " left of 12" in text
    assert "policy-refused" in text and "norm-bias" in text
    for header in (
        {},
        {"Authorization": f"Basic {TOKEN}"},
    ):  # a session's cookie opens pages, not the figures
        assert browser.get("/metrics", headers=header).status_code == 401
    scraped = browser.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    figures = dict(line.rsplit(" ", 1) for line in scraped.splitlines() if not line.startswith("#"))
    assert 0 < float(figures['mmmed_site_epsilon_spent{site="north"}']) < 12
    assert float(figures['mmmed_site_epsilon_limit{site="north"}']) == 12
    assert float(figures['mmmed_site_refusals{site="north",code="policy-refused"}']) == 1
    assert abs(float(figures['mmmed_site_clock_ahead_seconds{site="north"}'])) < 60
    assert browser.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_policy_that_was_changed_after_signing_is_told(hospital: Hospital, browser: TestClient) -> None:
    file = hospital.path / "site-policy.toml"
    file.write_text(file.read_text().replace("12.0", "120.0"))
    text = browser.get("/site").text
    assert "site-policy.toml" in text and "epsilon 120" not in text


def test_a_key_without_its_ledger_is_told(hospital: Hospital, browser: TestClient) -> None:
    hospital.state.mkdir()
    load_or_create_key(hospital.state / "site.key")
    answer = browser.get("/site")
    assert answer.status_code == 409 and "ledger.db" in answer.text


HOSTILE = "<script>document.title = 'broken'</script>\x1b[2J"


@pytest.fixture
def waiting(hospital: Hospital) -> NodeFolder:
    """A site at which two runs wait; the columns of one are markup."""
    hospital.write_site(approval=True)
    folder = NodeFolder(hospital.path)
    folder.runs.mkdir(parents=True)
    approvals = RunApprovals(folder.runs)
    for run_id, label in (("good", "finding"), ("hostile", HOSTILE)):
        approvals.decision(run_id, to_json(RunConfig.model_validate({"task": {"label": label}})))
    return folder


def entered(folder: NodeFolder, *, local: bool = True) -> TestClient:
    application = create_app(
        [deployed_section(folder.site)], TOKEN, ["testserver"], secure=False, local=local
    )
    client = TestClient(application)
    assert client.post("/login", data={"token": TOKEN}).status_code == 200
    return client


def named(folder: NodeFolder, run_id: str) -> str:
    return next(run.name for run in RunApprovals(folder.runs).all() if run.run_id == run_id)


def test_a_person_decides_with_the_officers_token_and_the_log_has_it(waiting: NodeFolder) -> None:
    client, name = entered(waiting), named(waiting, "good")
    assert waiting.approval_token.stat().st_mode & 0o777 == 0o600
    token = waiting.approval_token.read_text()
    assert "waits for you" in client.get("/site").text
    page = client.get(f"/site/runs/{name}").text
    for part in ("epsilon 8 at delta 0.0001", "of finding", "counts with noise", "federation.rounds = 3"):
        assert part in page
    page = client.get(f"/site/runs/{name}/approved").text
    assert f"Approve run {name}" in page and token not in page and TOKEN not in page
    form = page.split('name="form" value="')[1].split('"')[0]
    done = client.post(f"/site/runs/{name}/approved", data={"form": form, "token": token})
    assert done.status_code == 200 and "<strong>approved</strong>" in done.text
    other = named(waiting, "hostile")
    client.post(f"/site/runs/{other}/denied", data={"form": form, "token": token})
    assert {run.run_id: run.decision for run in RunApprovals(waiting.runs).all()} == {
        "good": "approved",
        "hostile": "denied",
    }
    assert [(one["event"], one["run"], one["way"]) for one in SiteLog(waiting.audit).entries()] == [
        ("approved", "good", "dashboard"),
        ("denied", "hostile", "dashboard"),
    ]
    log = client.get("/site/log").text
    assert "The log is whole: 2 entries" in log and SiteLog(waiting.audit).head() in log


def test_nothing_is_decided_by_anybody_else(waiting: NodeFolder) -> None:
    client, name = entered(waiting), named(waiting, "good")
    token, where = waiting.approval_token.read_text(), f"/site/runs/{name}/approved"
    form = client.get(where).text.split('name="form" value="')[1].split('"')[0]
    stranger, other = TestClient(client.app), entered(waiting)
    answers = [
        stranger.post(where, data={"form": form, "token": token}, follow_redirects=False),  # not logged in
        client.post(where, data={"token": token}),  # another site's page, with the cookie and even the token
        client.post(where, data={"form": "", "token": token}),
        other.post(where, data={"form": form, "token": token}),  # another session's form
        client.post(where, data={"form": form + "\u00e9", "token": token}),
        client.post(where, data={"form": form, "token": token, "more": "x" * 5000}),
        client.post(f"/site/runs/{name[:6]}/approved", data={"form": form, "token": token}),
        client.post("/site/runs/good/approved", data={"form": form, "token": token}),  # not what a page shows
        client.post(f"/site/runs/{name}/waiting", data={"form": form, "token": token}),
        client.post(f"/site/runs/{name}", data={"form": form, "token": token}),
        client.post("/site", data={"form": form, "token": token}),
        client.put(where, data={"form": form, "token": token}),
        client.post(where, data={"form": form}),  # one who may look, and no more
        client.post(where, data={"form": form, "token": token}),  # within a second of that
    ]
    assert all(300 <= answer.status_code < 500 for answer in answers), answers
    waiting.approval_token.chmod(0o644)
    fresh = entered(waiting)
    form = fresh.get(where).text.split('name="form" value="')[1].split('"')[0]
    assert "others can read it" in fresh.post(where, data={"form": form, "token": token}).text
    waiting.approval_token.unlink()
    assert fresh.post(where, data={"form": form, "token": ""}).status_code == 409
    abroad = entered(waiting, local=False)  # makes the token anew
    form = abroad.get(where).text.split('name="form" value="')[1].split('"')[0]
    sent = {"form": form, "token": waiting.approval_token.read_text()}
    assert "on this machine alone" in abroad.post(where, data=sent).text
    assert {run.decision for run in RunApprovals(waiting.runs).all()} == {"waiting"}
    assert SiteLog(waiting.audit).entries() == []


def test_text_of_others_is_shown_and_does_nothing(waiting: NodeFolder) -> None:
    client, name = entered(waiting), named(waiting, "hostile")
    SiteLog(waiting.audit).append("asked", run=HOSTILE)
    for path in ("/site", f"/site/runs/{name}", f"/site/runs/{name}/denied", "/site/log"):
        text = client.get(path).text
        assert "&lt;script&gt;" in text and "<script>document" not in text and "\x1b" not in text
    waiting.audit.write_bytes(waiting.audit.read_bytes() * 2)
    broken = client.get("/site/log")
    assert broken.status_code == 409 and "edited or torn" in broken.text
