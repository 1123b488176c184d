from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent, Event
from privacy.ledger import Budget, Ledger, dataset_identity
from privacy.report import Asked, Shared, sign_statement

RUN = "run-1"
DELTA = 1e-3
EVENT = DpSgdEvent(1.5, 0.25, 12)
ASKED = Asked(target_epsilon=10.0, rounds=4, patients=32, stated=False)
State = Callable[..., dict[str, Any]]


def state(
    folder: Path,
    site: str = "north",
    event: Event = EVENT,
    *,
    run_id: str = RUN,
    rounds: int = 3,
    steps: int = 3,
    metrics_shown: bool = False,
    key: Ed25519PrivateKey | None = None,
    asked: Asked | None = ASKED,
    shared: Shared | None = None,
) -> dict[str, Any]:
    """A site's signed statement after it was charged for some rounds, in a ledger of its own."""
    key = key or Ed25519PrivateKey.generate()
    with Ledger.open(folder / "ledger.db", key, limit=Budget(100.0, DELTA)) as ledger:
        ledger.record_policy(f"policy of {site}", ledger.limit, officer="aa", replaces=None)
        patients = dataset_identity([f"{site}-{n}" for n in range(40)], b"s" * 32)
        plan = ledger.plan(patients, run_id, event, DELTA, max_grad_norm=1.0)
        for number in range(1, rounds + 1):
            ledger.reserve(plan, number, steps).commit(steps)
        return sign_statement(
            ledger, plan, site=site, key=key, metrics_shown=metrics_shown, asked=asked, shared=shared
        )


@pytest.fixture(scope="session")
def state_run(tmp_path_factory: pytest.TempPathFactory) -> State:
    """`state` in a new folder each time."""
    return lambda *args, **changes: state(tmp_path_factory.mktemp("site"), *args, **changes)
