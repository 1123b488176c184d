"""A hospital's own page over its site folder: policy, budget after a round, refusals with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from starlette.testclient import TestClient

from client.app import app
from client.dashboard import deployed_section, is_site
from mmmed.config import RunConfig
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
