"""Whatever a server asks, in whatever order: a site never spends or tells more than its officer signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from flwr.app import Context, MessageType, RecordDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from client.app import app
from client.refusal_log import refusals
from client.release import Refusal
from client.site_folder import SiteFolder
from mmmed.config import RunConfig
from mmmed.errors import MmmedError
from privacy.accounting import epsilon
from privacy.ledger import Ledger
from privacy.policy import SitePolicy
from tests.client.requests import request

if TYPE_CHECKING:
    from simulations.loopback.hospital import Hospital

SETTINGS = {
    "privacy": {
        "enabled": st.sampled_from([True, True, True, False]),
        "target_epsilon": st.sampled_from([0.5, 2.0, 4.0, 8.0, 9.0, 1e6]),
        "delta": st.sampled_from([1e-5, 1e-3, 2e-3, 0.5]),
        "max_grad_norm": st.sampled_from([0.1, 1.0]),
        "metrics": st.sampled_from(["none", "private", "rounded"]),
        "metrics_epsilon": st.sampled_from([0.5, 1.0, 100.0]),
    },
    "training": {
        "batch_size": st.sampled_from([2, 8, 10_000]),
        "records_per_patient": st.sampled_from([1, 2, 3]),
        "seed": st.integers(0, 2),
    },
    "model": {
        "trainable": st.sampled_from(["full", "full", "norm-bias"]),
        "image": st.sampled_from(["resnet10", "resnet10", "resnet18"]),
    },
    "data": {
        "patient": st.sampled_from(["patient_id", "study_id"]),
        "text": st.sampled_from(["text", "site", ""]),
    },
    "federation": {"rounds": st.integers(1, 3)},
}
SECTIONS = st.fixed_dictionaries(
    {name: st.fixed_dictionaries({}, optional=keys) for name, keys in SETTINGS.items()}  # type: ignore[arg-type]
)
REQUESTS = st.tuples(
    SECTIONS,
    st.sampled_from([MessageType.TRAIN, MessageType.TRAIN, MessageType.EVALUATE]),
    st.sampled_from(["a", "b", "a/evaluation"]),
    st.integers(-1, 4),
    st.sampled_from([0.0, 1e-3]),
)


def within(ledger: Ledger, policy: SitePolicy) -> None:
    """The policy's budgets, recomputed from the ledger's plans: each in full, whatever was run of it."""
    ledger.verify()
    assert ledger.spent(policy.limit.delta) <= policy.limit.epsilon
    groups: dict[tuple[str, str | None], list[Any]] = {}
    for plan in ledger.plans():
        assert epsilon([plan.event], plan.delta) <= policy.run.epsilon
        assert plan.delta <= policy.run.delta
        assert plan.event.noise_multiplier >= policy.min_noise_multiplier
        assert sum(event.steps for event in ledger.events(plan.run_id)) <= plan.event.steps
        for purpose in (plan.purpose, None):
            groups.setdefault((plan.dataset, purpose), []).append(plan.event)
    for (_, purpose), events in groups.items():
        most = policy.limit.epsilon if purpose is None else policy.purposes[purpose]
        assert epsilon(events, policy.limit.delta) <= most


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(asked=REQUESTS)
def test_no_request_makes_a_site_exceed_its_policy(
    hospital: Hospital, configured: Callable[..., RunConfig], asked: tuple[Any, ...]
) -> None:
    # one hospital for all examples: what it spent for one is not there for the next
    sections, kind, run_id, server_round, moved = asked
    tiny: dict[str, Any] = {"training": {"batch_size": 8, "local_epochs": 0.1, "augment": False}}
    merged = {name: tiny.get(name, {}) | values for name, values in sections.items()}
    try:
        config = configured(**merged)
        message = request(config, kind, moved, **{"run-id": run_id, "server-round": server_round})
    except (ValueError, MmmedError):
        pytest.skip("no such configuration")
    own = {"site-dir": str(hospital.path)}
    reply = app(message, Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={}))
    if reply.has_error():
        assert reply.error.reason in set(Refusal)
        assert refusals(hospital.state)
        assert reply.error.reason != Refusal.FAILED, refusals(hospital.state)[-1]
    elif kind == MessageType.EVALUATE:
        assert set(reply.content["metrics"]) == {"weight"}
    else:
        assert config.privacy.enabled
    folder = SiteFolder(hospital.path)
    signed = folder.policy()
    with folder.ledger(signed) as ledger:
        within(ledger, signed.policy)
