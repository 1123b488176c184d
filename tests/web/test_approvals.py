"""A run is approved in a browser, on the dashboard as it runs at a hospital."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from client.node.approval import RunApprovals
from client.node.folder import NodeFolder
from client.node.log import SiteLog
from mmmed.config import RunConfig
from mmmed.config.sources import to_json
from tests.web.chromium import COMMAND, Chromium
from tests.web.conftest import MARKUP, TOKEN


@pytest.mark.skipif(COMMAND is None, reason="no Chromium on this machine (Debian: chromium)")
def test_a_run_is_read_and_approved_by_keyboard(tmp_path: Path) -> None:
    site = tmp_path / "north"
    site.mkdir()
    (site / "site.toml").write_text(tomli_w.dumps({"version": 1, "name": "north", "approval": True}))
    folder = NodeFolder(site)
    folder.runs.mkdir(parents=True)
    config = RunConfig.model_validate({"task": {"label": MARKUP}})
    assert RunApprovals(folder.runs).decision("run-1", to_json(config)) == "waiting"
    (run,) = RunApprovals(folder.runs).all()
    said = tmp_path / "said"
    with said.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "mmmed.cli", "dashboard", str(site), "--port", "0"],
            env=os.environ | {"MMMED_DASHBOARD_TOKEN": TOKEN},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while "approval.token" not in said.read_text():
            assert server.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        token = folder.approval_token.read_text()
        assert token not in said.read_text()
        address = said.read_text().split()[1].rstrip("/")
        with Chromium(tmp_path / "profile") as browser:
            browser.open(f"{address}/")
            browser.type(TOKEN)
            browser.press("Enter")
            browser.wait_for("location.pathname === '/site'")
            assert ("link", run.name) in browser.names()
            browser.open(f"{address}/site/runs/{run.name}")
            for shows in ("epsilon 8 at delta 0.0001", "privacy.max_grad_norm", "<script>"):
                assert shows in browser.run("document.body.innerText")
            browser.screenshot(tmp_path / "run.png")
            browser.run("document.querySelector('a.button').click()")
            browser.wait_for("document.activeElement.id === 'token'")
            assert ("textbox", "Token of whoever approves runs") in browser.names()
            browser.screenshot(tmp_path / "confirm.png")
            browser.type("not the token")
            browser.press("Enter")
            browser.wait_for("document.body.innerText.includes('Nothing was decided')")
            assert RunApprovals(folder.runs).all() == [run]
            time.sleep(1.1)  # a second after a wrong token
            browser.open(f"{address}/site/runs/{run.name}/approved")
            browser.type(token)
            browser.press("Enter")
            browser.wait_for("document.body.innerText.includes('This run is approved')")
            browser.open(f"{address}/site/log")
            assert "way=dashboard" in browser.run("document.body.innerText")
            assert browser.run("document.title") == "Log - mmmed"
            assert [one for one in browser.complaints if "403" not in str(one)] == []
    finally:
        server.terminate()
        server.wait(30)
    assert [one.decision for one in RunApprovals(folder.runs).all()] == ["approved"]
    assert [one["event"] for one in SiteLog(folder.audit).entries()] == ["approved"]
