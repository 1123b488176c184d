"""A hospital's policy tried in a simulation: what it forbids is refused, and what it allows is told privately."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.refusal_log import refusals
from mmmed.config import resolve
from mmmed.demo import generate
from mmmed.files import write_atomic
from privacy.accounting import epsilon
from privacy.keys import load_or_create_key
from privacy.ledger import Budget, Ledger, Receipt
from server.events import Event, RoundFinished
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from simulations.loopback.hospital import change, rules
from simulations.simulate import CLIENT_APP, preflight, site_nodes
from tests.simulations.conftest import SMALL, small

Command = Callable[..., tuple[int, str, str]]
LIMIT = Budget(12.0, 1e-3)


def policy(path: Path, **changes: Any) -> Path:
    """A policy file with these rules changed, ``section__key`` or ``key``."""
    own = rules()
    limit = {"epsilon": LIMIT.epsilon, "delta": LIMIT.delta}
    change(own, {"site": "any", "limit": limit, "evaluation__min_patients": 2} | changes)
    path.write_text(tomli_w.dumps(own))
    return path


def rounds(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def ledger(state: Path) -> Ledger:
    return Ledger.open(state / "ledger.db", load_or_create_key(state / "site.key"), limit=LIMIT)


def test_private_results_of_all_sites_are_pooled_charged_and_receipted(
    mmmed: Command, hospitals: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    signed = policy(tmp_path / "policy.toml")
    code, _, err = mmmed(
        *small(hospitals, "federation.rounds=2"), "--policy", signed, "--out", run, "--workers", "0"
    )
    sites = sorted((run / "sites").iterdir())
    assert code == 0, (err, [refusals(site) for site in sites])
    first, last = rounds(run)
    assert "pooled" not in first  # once a run, in its last round
    assert sorted(last["pooled"]["sites"]) == [site.name for site in sites] and len(sites) == 4
    assert (
        last["pooled"]["refused"] == "few-patients" and last["pooled"]["auroc"] is None
    )  # noise, at 40 patients
    for line in [*first["evaluate"], *last["evaluate"]]:
        assert "refused" not in line and not {"auroc", "loss", "calibration"} & set(line.get("metrics", {}))
    receipts = json.loads((tmp_path / "ledger-receipts.json").read_text())
    told = {Receipt.from_json(text) for text in receipts.values()}
    assert len(told) == len(sites)
    for site in sites:
        with ledger(site) as kept:
            kept.verify()
            plans = {plan.run_id: plan for plan in kept.plans()}
            evaluated = next(name for name in plans if name.endswith("/evaluation"))
            assert len(plans) == 2 and plans[evaluated].purpose == "evaluation"
            for name, plan in plans.items():
                charged = epsilon(list(kept.events(name)), plan.delta)
                assert 0 < charged <= (1.0 if name == evaluated else 8.0)
            assert kept.receipt() in told


def test_the_pooled_private_auroc_is_the_models(mmmed: Command, tmp_path: Path) -> None:
    """Of hospitals with patients enough, within the error that is stated with it."""
    run, data = tmp_path / "run", generate(tmp_path / "data", scale=0.25)
    signed = policy(tmp_path / "policy.toml", purposes__evaluation=6.0)
    asked = ("federation.rounds=1", "data.test_fraction=0.7", "privacy.metrics_epsilon=6")
    spread = ("training.local_epochs=8",)  # a model that has learnt: scores that crowd have a wide bin error
    code, _, err = mmmed(*small(data, *asked, *spread), "--policy", signed, "--out", run, "--workers", "0")
    assert code == 0, err
    pooled = rounds(run)[0]["pooled"]
    assert len(pooled["sites"]) == 4 and pooled["refused"] is None
    true = json.loads((run / "evaluation.json").read_text())["auroc"]["pooled"]["value"]
    stated = pooled["noise_error"] + pooled["bin_error"]
    assert 0 < stated < 0.3
    assert abs(pooled["auroc"] - true) < 4 * stated


@pytest.mark.parametrize(
    ("changes", "asked", "rule"),
    [
        ({"run__epsilon": 4.0}, (), "run.epsilon"),
        ({"run__columns": ["finding", "image"]}, (), "run.columns"),
        ({"run__trainable": ["fusion-head"]}, (), "run.trainable"),
        ({}, ("training.records_per_patient=3",), "max_records_per_patient"),
        ({}, ("privacy.enabled=false",), "run.epsilon"),
    ],
)
def test_what_the_policy_forbids_is_refused_and_the_rule_is_named(
    mmmed: Command,
    hospitals: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    asked: tuple[str, ...],
    rule: str,
) -> None:
    run = tmp_path / "run"
    signed = policy(tmp_path / "policy.toml", **changes)
    arguments = small(hospitals, "federation.rounds=1", *asked)
    code, _, err = mmmed(*arguments, "--policy", signed, "--out", run, "--workers", "0")
    assert code == 2 and "nothing was learnt" in err and "site.log" in err and "Traceback" not in err
    assert {line["refused"] for line in rounds(run)[0]["train"]} == {"policy-refused"}
    for site in (run / "sites").iterdir():
        assert "policy-refused" in refusals(site)[0] and rule in refusals(site)[0]
        assert not (site / "ledger.db").exists()


@pytest.mark.parametrize("text", [None, "", "version = 1\n", "\xff"])
def test_a_policy_that_cannot_be_read_is_told_and_nothing_is_written(
    mmmed: Command, hospitals: Path, tmp_path: Path, text: str | None
) -> None:
    file, run = tmp_path / "policy.toml", tmp_path / "run"
    if text is not None:
        file.write_text(text)
    code, _, err = mmmed(*small(hospitals), "--policy", file, "--out", run)
    assert code == 2 and err.strip() and "Traceback" not in err
    assert not run.exists()


def test_a_site_that_was_restored_from_a_backup_is_refused_by_its_own_receipt(
    hospitals: Path, tmp_path: Path
) -> None:
    config = resolve(None, [*SMALL, f"data.source='{hospitals}'", "federation.rounds=3"]).config
    prepared = preflight(config, "inprocess")
    with RunFolder.create(tmp_path / "run", config) as run:
        write_atomic(run.path / "site-policy.toml", policy(tmp_path / "policy.toml").read_text())
        nodes = site_nodes(run, prepared.manifest)
        name, state = next((name, Path(str(node["state-dir"]))) for name, node in nodes.items())

        def restore(event: Event) -> None:
            if isinstance(event, RoundFinished) and event.round == 1:
                shutil.copytree(state, tmp_path / "backup")
            elif isinstance(event, RoundFinished) and event.round == 2:
                shutil.rmtree(state)
                shutil.copytree(tmp_path / "backup", state)

        with InProcessGrid(CLIENT_APP, list(nodes.values())) as grid:
            federate(grid, run, prepared.model, restore)
        refused = [{line["site"]: line.get("refused") for line in one["train"]} for one in run.rounds()]
    assert [one[name] for one in refused[:2]] == [None, None]
    assert "ledger-unusable" in refused[2].values() and list(refused[2].values()).count(None) == 3
    assert "ledger-unusable" in refusals(state)[-1]
