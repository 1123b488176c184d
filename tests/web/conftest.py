from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.refusal_log import record_refusal
from privacy.accounting import DpSgdEvent
from privacy.errors import BudgetExceeded
from privacy.keys import load_or_create_key
from privacy.ledger import Budget, Ledger, dataset_identity
from tests.server.test_loop import config, run

TOKEN = "a-token-of-the-tests"
MARKUP = "<script>document.title = 'broken'</script>"


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which a site refused, with one simulated site's state."""
    path = tmp_path_factory.mktemp("dashboard") / "first-run"
    run(path, [{}, {}, {"behaviour": "refuse", "from-round": 2}], config(rounds=3))
    state = path / "sites" / "north"
    state.mkdir(parents=True)
    key = load_or_create_key(state / "site.key")
    with Ledger.open(state / "ledger.db", key, limit=Budget(8.0, 1e-3)) as ledger:
        patients = dataset_identity([f"p{i}" for i in range(20)], b"0" * 32)
        plan = ledger.plan(patients, "run-of-today", DpSgdEvent(1.0, 0.1, 100), 1e-3, 1.0)
        ledger.reserve(plan, 1, 40).commit(40)
    record_refusal(state, "budget-exhausted", BudgetExceeded(f"patient {MARKUP}"))
    return path


@pytest.fixture(scope="session")
def dashboard(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command, serving that run; yields its address."""
    log = tmp_path_factory.mktemp("dashboard-log") / "out"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmmed.cli", "dashboard", str(run_folder), "--port", "0"],
            env=os.environ | {"MMMED_DASHBOARD_TOKEN": TOKEN}, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 600
            while not log.read_text().endswith("\n"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield log.read_text().split()[1].rstrip("/")
        finally:
            process.terminate()
            process.wait(300)
