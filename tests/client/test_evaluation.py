"""Results leave a hospital by the policy's rule, once a run, and are charged before they are computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

import client.evaluation
from client.app import app
from client.refusal_log import refusals
from client.release import Refusal, Rounded, Shown, evaluation_reply
from client.site_folder import SiteFolder
from mmmed.config import RunConfig
from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier
from privacy.errors import PolicyRefusal
from privacy.ledger import Budget
from privacy.metrics import BINS
from privacy.policy import SimulationPolicy
from privacy.report import read_statement
from tests.client.requests import request

if TYPE_CHECKING:
    from simulations.loopback.hospital import Hospital

Configured = Callable[..., RunConfig]
METRICS = ("auroc", "calibration")
ROUNDED = dict.fromkeys(METRICS, "rounded")


@pytest.fixture
def config(configured: Configured) -> RunConfig:
    return configured(federation={"rounds": 1})


def ask(hospital: Hospital, config: RunConfig, **changes: Any) -> Message:
    own = {"site-dir": str(hospital.path)}
    context = Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})
    return app(request(config, MessageType.EVALUATE, **changes), context)


def charged(hospital: Hospital) -> dict[str, tuple[DpSgdEvent, ...]]:
    folder = SiteFolder(hospital.path)
    with folder.ledger(folder.policy()) as ledger:
        return {plan.run_id: ledger.events(plan.run_id) for plan in ledger.plans()}


def told(reply: Message) -> set[str]:
    return set(reply.content["metrics"]) - {"weight"} | ({"tables"} & set(reply.content))


def test_private_results_leave_once_and_are_charged_to_the_held_out(
    hospital: Hospital, configured: Configured
) -> None:
    config = configured(federation={"rounds": 2})
    assert (
        told(ask(hospital, config, **{"server-round": 1})) == set()
        and not (hospital.state / "ledger.db").exists()
    )
    reply = ask(hospital, config, **{"server-round": 2})
    assert told(reply) == {"tables"}, refusals(hospital.state)
    tables = reply.content["tables"]["tables"].numpy()
    assert tables.shape == (1, 2, BINS) and not np.allclose(tables, tables.round())
    sigma = calibrate_noise_multiplier(1.0, 1e-3, 1.0, 1)
    assert charged(hospital) == {"r/evaluation": (DpSgdEvent(sigma, 1.0, 1),)}
    stated = read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))
    assert stated.run_id == "r/evaluation" and stated.epsilon <= 1.0 and stated.steps == 1
    again = ask(hospital, config, **{"server-round": 2})
    assert np.array_equal(again.content["tables"]["tables"].numpy(), tables)
    other = ask(hospital, config, moved=1.0, **{"server-round": 2})
    assert other.has_error() and other.error.reason == Refusal.BUDGET
    assert len(charged(hospital)) == 1


def test_training_and_testing_patients_are_charged_apart(hospital: Hospital, config: RunConfig) -> None:
    own = {"site-dir": str(hospital.path)}
    context = Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})
    assert not app(request(config), context).has_error()
    assert not ask(hospital, config).has_error()
    folder = SiteFolder(hospital.path)
    with folder.ledger(folder.policy()) as ledger:
        datasets = {plan.purpose: plan.dataset for plan in ledger.plans()}
        assert set(datasets) == {"training", "evaluation"} and len(set(datasets.values())) == 2
        assert ledger.spent(1e-3) == pytest.approx(max(ledger.spent(1e-3, run) for run in charged(hospital)))


@pytest.mark.parametrize(
    ("policy", "sections", "code"),
    [
        ({"evaluation__min_patients": 200}, {}, Refusal.POLICY),
        ({"metrics": {"auroc": "none", "calibration": "private"}}, {}, Refusal.POLICY),
        ({"metrics": {}}, {}, Refusal.POLICY),
        ({"purposes": {"training": 12.0}}, {}, Refusal.POLICY),
        ({"purposes": {"evaluation": 0.9}}, {}, Refusal.BUDGET),
        ({}, {"metrics": "rounded"}, Refusal.POLICY),
        ({}, {"metrics_epsilon": 9.0}, Refusal.POLICY),
        ({}, {"enabled": False}, Refusal.POLICY),
    ],
)
def test_results_that_the_policy_does_not_allow_are_neither_computed_nor_charged(
    hospital: Hospital,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    policy: dict[str, Any],
    sections: dict[str, Any],
    code: Refusal,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(client.evaluation, "predict", never)
    hospital.sign(**policy)
    reply = ask(hospital, configured(federation={"rounds": 1}, privacy={"delta": 1e-3, **sections}))
    assert reply.has_error() and reply.error.reason == code, refusals(hospital.state)
    assert not charged(hospital)


def test_a_run_may_ask_for_nothing(hospital: Hospital, configured: Configured) -> None:
    config = configured(federation={"rounds": 1}, privacy={"delta": 1e-3, "metrics": "none"})
    assert told(ask(hospital, config)) == set() and not (hospital.state / "ledger.db").exists()


def test_a_crash_between_charge_and_release_stays_charged(
    hospital: Hospital, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise ZeroDivisionError("the machine stopped")

    with monkeypatch.context() as patched:
        patched.setattr(client.evaluation, "predict", crash)
        assert ask(hospital, config).error.reason == Refusal.FAILED
    before = charged(hospital)
    assert sum(event.steps for event in before["r/evaluation"]) == 1
    assert ask(hospital, config).error.reason == Refusal.BUDGET
    assert charged(hospital) == before


def test_rounded_results_leave_once_in_coarse_steps(
    hospital: Hospital, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.sign(metrics=ROUNDED)
    config = configured(federation={"rounds": 1}, privacy={"delta": 1e-3, "metrics": "rounded"})
    # fewer than 10 of a class: that nothing is told tells of the labels, so it is noted, once, and has no code
    for code in (Refusal.FAILED, Refusal.BUDGET):
        assert ask(hospital, config, **{"run-id": "small"}).error.reason == code
    monkeypatch.setattr(client.evaluation, "_MIN_OF_GROUP", 1)
    reply = ask(hospital, config)
    assert told(reply) == {"auroc", "calibration"}, refusals(hospital.state)
    for name in METRICS:
        value = float(reply.content["metrics"][name]) * 20
        assert value == pytest.approx(round(value))
    assert reply.content["site"]["results"] == "rounded, not private"
    assert not charged(hospital)
    assert ask(hospital, config).error.reason == Refusal.BUDGET
    folder = SiteFolder(hospital.path)
    with folder.ledger(folder.policy()) as ledger:
        assert ledger.disclosed() == {"small": METRICS, "r": METRICS}
        ledger.verify()


def test_the_gate_itself_holds_to_the_policy(hospital: Hospital, config: RunConfig) -> None:
    message = request(config, MessageType.EVALUATE)
    policy = SiteFolder(hospital.path).policy().policy
    for found in (Shown({"auroc": 0.9}), Rounded({"auroc": 0.9})):
        with pytest.raises(PolicyRefusal, match="metrics"):
            evaluation_reply(message, "north", policy, found, METRICS)
        with pytest.raises(PolicyRefusal, match="metrics"):
            evaluation_reply(message, "north", None, found, METRICS)
    simulated = SimulationPolicy(Budget(1.0, 1e-5))
    shown = evaluation_reply(
        message, "north", simulated, Shown({"auroc": 0.91, "loss": float("nan")}), METRICS
    )
    assert dict(shown.content["metrics"]) == {"weight": 1.0, "auroc": 0.91}
    rounded = evaluation_reply(message, "north", simulated, Rounded({"auroc": 0.91}), METRICS)
    assert rounded.content["metrics"]["auroc"] == 0.9
    with pytest.raises(PolicyRefusal, match="no metric"):  # nothing that a rule could be for
        evaluation_reply(message, "north", simulated, Shown({"auroc": 0.91}), ())
