"""Every command and the site itself know the layout of a site's folder from one place, and so agree.

Each test has the site's state on another disk, as site.toml may say: whoever has the layout by heart looks in the
wrong place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from client.app import app as client_app
from client.dashboard import deployed_section
from client.node import task
from client.node.folder import NodeFolder
from client.site_folder import SiteFolder
from mmmed.cli.ledger import app as ledger
from mmmed.cli.policy import app as policy
from mmmed.config import RunConfig
from mmmed.dashboard import create_app
from privacy.accounting import DpSgdEvent
from privacy.errors import PolicyRefusal
from privacy.ledger import dataset_identity
from simulations.loopback.hospital import Hospital
from tests.client.requests import request

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def elsewhere(hospital: Hospital, tmp_path: Path) -> Hospital:
    """A hospital whose state is on another disk."""
    hospital.write_site(state=str(tmp_path / "disk" / "north"))
    return hospital


def open_ledger(hospital: Hospital) -> SiteFolder:
    """Make the site's key and ledger, as its first request does."""
    folder = SiteFolder(hospital.path)
    folder.ledger(folder.policy()).close()
    return folder


def check(hospital: Hospital) -> Result:
    return CliRunner().invoke(policy, ["check", str(hospital.path)])


def page(hospital: Hospital) -> str:
    """The site's own page."""
    application = create_app([deployed_section(hospital.path)], TOKEN, ["testserver"], secure=False)
    browser = TestClient(application)
    assert browser.post("/login", data={"token": TOKEN}).status_code == 200
    return browser.get("/site").text


def ask_runner(hospital: Hospital, config: RunConfig) -> str:
    """The code with which the site's runner refuses a bundle whose signature does not hold."""
    own = Context(1, 1, {}, RecordDict(), {task.SIGNATURE: "ed25519:00:00"})
    folder = NodeFolder(hospital.path)
    folder.path.mkdir(exist_ok=True)
    return str(task._answer(folder, request(config), own, b"a bundle").error.reason)


def test_a_policy_that_the_site_refuses_is_not_in_force(elsewhere: Hospital) -> None:
    folder = open_ledger(elsewhere)
    assert check(elsewhere).exit_code == 0
    elsewhere.sign(limit__epsilon=20.0)
    with pytest.raises(PolicyRefusal, match=r"limit\.epsilon"):
        folder.ledger(folder.policy())
    told = check(elsewhere)
    assert told.exit_code == 1 and "limit.epsilon would be widened" in told.output
    assert "in force: the site acts under it" not in told.output


def test_a_policy_of_another_site_is_not_in_force(elsewhere: Hospital) -> None:
    elsewhere.sign(site="south")
    told = check(elsewhere)
    assert told.exit_code != 0 and "'south'" in str(told.exception)


def test_a_policy_is_not_in_force_while_the_ledger_is_gone(elsewhere: Hospital) -> None:
    open_ledger(elsewhere)
    for file in elsewhere.state.glob("ledger.db*"):
        file.unlink()
    told = check(elsewhere)
    assert told.exit_code != 0 and "restore the newest ledger" in str(told.exception)


def test_a_delta_is_warned_of_by_the_patients_that_the_site_has(elsewhere: Hospital) -> None:
    folder = open_ledger(elsewhere)
    assert "warning: run.delta" not in check(elsewhere).output
    with folder.ledger(folder.policy()) as opened:
        opened.plan(
            dataset_identity(map(str, range(507)), b"k" * 32), "run", DpSgdEvent(5.0, 0.1, 10), 1e-3, 8.0
        )
    told = check(elsewhere).output
    assert "warning: run.delta" in told and "507" not in told


def test_the_ledger_is_found_from_the_sites_folder(elsewhere: Hospital) -> None:
    open_ledger(elsewhere)
    for command in ("show", "verify"):
        told = CliRunner().invoke(ledger, [command, str(elsewhere.path)])
        assert told.exit_code == 0, told.exception


def test_what_the_runner_refuses_is_on_the_sites_page(
    elsewhere: Hospital, configured: Callable[..., RunConfig]
) -> None:
    assert ask_runner(elsewhere, configured()) == "request-invalid"
    assert "app-signature" in page(elsewhere)  # before there is a ledger
    open_ledger(elsewhere)
    assert "app-signature" in page(elsewhere)
    assert not (elsewhere.path / "state").exists()


def test_what_is_refused_while_the_folder_cannot_be_read_is_on_the_sites_page(
    elsewhere: Hospital, configured: Callable[..., RunConfig]
) -> None:
    open_ledger(elsewhere)
    (elsewhere.path / "site.toml").write_text("version = 2")
    own = Context(1, 1, {"site-dir": str(elsewhere.path)}, RecordDict(), {})
    assert client_app(request(configured()), own).has_error()
    elsewhere.write_site()
    assert "site.toml" in page(elsewhere)
