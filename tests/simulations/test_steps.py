"""``federation.release = "steps"``: one optimiser step of the federation is one sum over sites."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from client.model import open_model
from client.simulated import open_simulated, simulated_manifest
from client.training import local_plan, train_round
from mmmed.config import RunConfig, to_toml
from mmmed.data.loader import open_site_data
from mmmed.models import trainable_state
from mmmed.paths import image_cache
from mmmed.training import batch_losses
from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import PolicyRefusal
from privacy.report import verify_report
from simulations.simulate import resume_run, start_run
from tests.simulations.test_simulate import ledgers, start, wait_for

STEPS = 3


def config(hospitals: Path, *, private: bool = False, rate: float = 1.0, **changes: Any) -> RunConfig:
    training = {"batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05, "records_per_patient": 50}
    return RunConfig.model_validate(
        {
            "data": {"source": str(hospitals), "image_size": 32, "text_tokens": 16},
            "model": {"image_width": 8, "fusion": {"width": 16}},
            "training": training | changes.pop("training", {}),
            "privacy": {"enabled": private, "delta": 1e-3},
            "federation": {"release": "steps", "rounds": STEPS, "sampling_rate": rate} | changes,
        }
    )


def pooled(run: RunConfig, absent: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Gradient descent in one place, on the sum over patients of the mean loss of each one's records."""
    model, manifest = copy.deepcopy(open_model(run)).train(), simulated_manifest(run)
    target = run.task.target()
    present = [name for name in manifest.sites if name not in absent]
    sites = [open_site_data(manifest.of_site(name), run, image_cache()).train for name in present]
    parameters = [p for p in model.parameters() if p.requires_grad]
    for _ in range(STEPS):
        for site in sites:
            batch = site.batch(np.arange(len(site)), site.patient)
            (
                batch_losses(model, target, batch, "float32") / torch.bincount(batch.unit)[batch.unit]
            ).sum().backward()
        with torch.no_grad():
            for p in parameters:
                p -= run.training.learning_rate * p.grad / (run.training.batch_size * len(sites))
                p.grad = None
    return {name: value.numpy() for name, value in trainable_state(model).items()}


def apart(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[name] - value).max()) for name, value in wanted.items())


def initial(run: RunConfig) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in trainable_state(open_model(run)).items()}


def trained(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model" / "model.safetensors")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_without_privacy_it_is_training_in_one_place(hospitals: Path, tmp_path: Path) -> None:
    run = config(hospitals)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    assert apart(trained(folder), pooled(run)) < 1e-6 < 1e-2 < apart(trained(folder), initial(run))


def test_a_site_that_drops_out_is_left_out_of_the_sum(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(hospitals)
    gone = simulated_manifest(run).sites[1]

    def drops_out(site: Any, *arguments: Any) -> Any:
        if site.name == gone:
            raise PolicyRefusal("run", "not today")
        return train_round(site, *arguments)

    monkeypatch.setattr("client.app.train_round", drops_out)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    assert apart(trained(folder), pooled(run, absent=[gone])) < 1e-6
    assert apart(trained(folder), pooled(run)) > 1e-4


def test_a_sites_size_changes_nothing_of_what_it_plans(hospitals: Path, tmp_path: Path) -> None:
    run = config(hospitals, private=True, rate=0.3)
    manifest = simulated_manifest(run)
    sites = [open_simulated(manifest.of_site(name), run, tmp_path / name) for name in manifest.sites]
    assert len({site.data.train.patients for site in sites}) > 1
    (event,) = {local_plan(site, run).event for site in sites}
    assert (event.sampling_rate, event.steps) == (0.3, STEPS)
    assert epsilon([event], run.privacy.delta) <= run.privacy.target_epsilon


def test_each_step_is_charged_and_a_run_goes_on(hospitals: Path, tmp_path: Path) -> None:
    run = config(hospitals, private=True, rate=0.5)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    stated = [line["released"] for one in lines(folder) for line in one["train"]]
    assert len(stated) == STEPS * len(simulated_manifest(run).sites)
    assert {one["privacy.steps"] for one in stated} == {1}
    assert {one["privacy.sampling_rate"] for one in stated} == {0.5}
    noise = stated[0]["privacy.noise_multiplier"]
    spent = epsilon([DpSgdEvent(noise, 0.5, STEPS)], run.privacy.delta)
    assert stated[-1]["privacy.epsilon"] == pytest.approx(spent, rel=1e-6)
    report = json.loads((folder / "report" / "privacy.json").read_text())
    assert {json.dumps(one["asked"]["patients"]) for one in report["statements"]} == {"null"}
    assert "The run names the sampling rate" in report["summary"]["condition"]
    assert verify_report(report) == []
    resume_run(folder, engine="inprocess", workers=0)  # nothing is left to do, and nobody is charged again
    assert len(lines(folder)) == STEPS


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training": {"optimizer": "adam"}}, "training.optimizer"),
        ({"training": {"momentum": 0.9}}, "training.momentum"),
        ({"training": {"weight_decay": 0.1}}, "training.weight_decay"),
        ({"training": {"proximal_mu": 0.1}}, "training.proximal_mu"),
        ({"training": {"local_epochs": 2.0}}, "training.local_epochs"),
        ({"aggregation": {"kind": "median"}, "min_sites": 3}, "federation.aggregation.kind"),
        ({"max_update_norm": 1.0}, "federation.max_update_norm"),
        ({"site_noise_multiplier": 1.0}, "federation.site_noise_multiplier"),
        ({"strategy": {"kind": "scaffold"}}, "'scaffold'"),
    ],
)
def test_what_cannot_go_with_single_steps_is_refused_by_name(
    hospitals: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValidationError, match=key.replace(".", r"\.")) as refused:
        config(hospitals, **changes)
    assert "steps" in str(refused.value)


def test_a_run_that_is_killed_between_steps_goes_on_and_charges_no_more_than_planned(
    hospitals: Path, tmp_path: Path
) -> None:
    run, folder = config(hospitals, private=True, rate=0.5, rounds=6), tmp_path / "run"
    (tmp_path / "steps.toml").write_text(to_toml(run), encoding="utf-8")
    process = start(
        hospitals,
        folder,
        "simulate",
        "--config",
        str(tmp_path / "steps.toml"),
        "--out",
        str(folder),
        "--workers",
        "0",
    )
    log = folder / "rounds.jsonl"
    try:
        wait_for(process, lambda: log.exists() and log.read_text().count("\n") >= 2)
        process.kill()  # SIGKILL
        process.wait(600)
    finally:
        process.kill()
        process.wait()
    assert 2 <= len(lines(folder)) < 6
    before = {name: sum(one.steps for one in ledger.events()) for name, ledger in ledgers(folder).items()}
    resume_run(folder, engine="inprocess", workers=0)
    assert [one["round"] for one in lines(folder)] == [1, 2, 3, 4, 5, 6]
    for name, ledger in ledgers(folder).items():
        ledger.verify()
        spent = sum(one.steps for one in ledger.events())
        assert before[name] <= spent <= 6 and spent >= sum(
            line["released"]["privacy.steps"]
            for one in lines(folder)
            for line in one["train"]
            if line["site"] == name and "released" in line
        )
