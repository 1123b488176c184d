"""What holds for every task in the registry, and for one that a test adds through the registry alone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from torch import nn
from typer.testing import CliRunner

import client.evaluation
import mmmed
from client.app import app
from client.refusal_log import refusals
from client.release import Refusal
from client.run_request import run_request
from client.simulated import simulated_manifest
from mmmed.check import check
from mmmed.cli import app as command
from mmmed.config import DataConfig, RunConfig, from_flat, resolve, to_flat, to_toml
from mmmed.data.manifest import read_manifest
from mmmed.errors import ConfigError, DataError
from mmmed.models import build_model, load_model, save_model
from mmmed.tasks import TASKS, Task
from privacy.errors import PlanError, PolicyRefusal
from privacy.metrics import release_kind
from privacy.policy import EVALUATION, SitePolicy
from privacy.report import render_report
from server.dashboard.runs import read_run
from server.privacy_report import RunReport
from server.run_folder import RunFolder
from simulations.loopback.hospital import Hospital
from simulations.simulate import evaluate_run, start_run
from tests.client.conftest import configured, hospital  # noqa: F401 (fixtures)
from tests.client.requests import request
from tests.contracts.bounded import Bounded
from tests.contracts.steps import SMALL_TASK, check_private_step, exact
from tests.mmmed.models.test_models import a_batch
from tests.mmmed.models.test_models import configured as small

Configured = Callable[..., RunConfig]
EVERY = pytest.mark.parametrize("kind", [*TASKS.sections, "bounded"])
N = 40


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(TASKS.sections, "bounded", Bounded)
    yield


def of(kind: str) -> Task:
    task = TASKS.sections[kind](**SMALL_TASK.get(kind, {}))
    assert isinstance(task, Task)
    return task


def run_of(kind: str, **sections: Any) -> RunConfig:
    metrics = "none" if of(kind).release is None else "private"
    task = {"kind": kind, **SMALL_TASK.get(kind, {})}
    return small(task=task, privacy={"metrics": metrics}, **sections)


# ---------------------------------------------------------------- every task


@EVERY
def test_made_up_labels_are_valid_and_of_every_group(kind: str) -> None:
    target = of(kind).target()
    labels = target.made_up(N)
    assert len(labels) == N and labels.dim() <= 2 and labels.dtype in (torch.int64, torch.float32)
    groups, members = target.group_of(labels.numpy()), target.members(labels.numpy())
    assert set(np.unique(groups)) - {-1} == set(range(len(target.groups)))
    assert groups.reshape(N, -1).shape[1] == len(target.questions)
    assert (
        members.shape == (N, len(target.groups)) and members.any(axis=0).all() and members.any(axis=1).all()
    )
    assert torch.isfinite(target.losses(torch.randn(N, target.outputs), labels)).all()


@EVERY
def test_nobody_belongs_to_no_group(kind: str) -> None:
    """Whether anybody has a label must not show by an error."""
    target = of(kind).target()
    labels = target.made_up(N).numpy()
    assert target.members(labels[:0]).shape == (0, len(target.groups))
    if labels.dtype == np.float32 and labels.ndim == 2:
        assert not target.members(np.full_like(labels, np.nan)).any()


@EVERY
def test_a_records_loss_and_prediction_are_its_own(kind: str) -> None:
    target = of(kind).target()
    outputs = torch.randn(N, target.outputs, dtype=torch.float64, requires_grad=True)
    labels = target.made_up(N)
    losses, predictions = target.losses(outputs, labels), target.predictions(outputs)
    assert losses.shape == (N,) and predictions.shape == (N, len(target.names))
    for row in range(N):
        alone = outputs[row : row + 1]
        torch.testing.assert_close(target.losses(alone, labels[row : row + 1])[0], losses[row])
        torch.testing.assert_close(target.predictions(alone)[0], predictions[row])
        (gradient,) = torch.autograd.grad(losses[row], outputs, retain_graph=True)
        assert (gradient != 0).any(1).nonzero().tolist() == [[row]]


@EVERY
def test_less_loss_is_a_better_score(kind: str) -> None:
    target = of(kind).target()
    labels = target.made_up(N)
    outputs = torch.zeros(N, target.outputs, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    values = [_score(kind, outputs, labels)]
    for _ in range(50):
        optimizer.zero_grad()
        target.losses(outputs, labels).sum().backward()
        optimizer.step()
    values.append(_score(kind, outputs, labels))
    assert (values[1] > values[0]) == target.score.higher and values[1] != values[0]


def _score(kind: str, outputs: torch.Tensor, labels: torch.Tensor) -> float:
    target = of(kind).target()
    return target.scores(target.predictions(outputs).detach().numpy(), labels.numpy())[target.score.name]


@EVERY
def test_scores_have_the_names_that_policies_let_out_and_values_that_can_be_rounded(kind: str) -> None:
    target = of(kind).target()
    labels = target.made_up(N).numpy()
    predictions = target.predictions(3 * torch.randn(N, target.outputs)).numpy()
    found = target.scores(predictions, labels)
    assert set(target.told) <= set(found) and target.told[0] == target.score.name
    assert all(abs(found[name]) <= 1 for name in target.told)
    assert "weight" not in found  # the name of another number of a reply
    assert target.within_sites(predictions, labels, np.zeros(N)) == pytest.approx(found[target.score.name])
    assert np.isfinite(target.confidences(predictions, labels)).all()
    guess = target.guess(labels)
    assert guess.shape == (len(target.names),) and target.words
    assert np.isfinite(list(target.scores(np.tile(guess, (N, 1)), labels).values())).all()


@EVERY
def test_what_is_released_privately_fits_the_predictions(kind: str) -> None:
    task = of(kind)
    target, release = task.target(), task.release
    if release is None:
        with pytest.raises(ConfigError, match="no release of results under privacy"):
            from_flat({"task.kind": kind, "privacy.metrics": "private"})
        with pytest.raises(PlanError, match="no release"):
            client.evaluation.release_of(run_of(kind))
        return
    labels, mechanism = target.made_up(N).numpy(), release_kind(release.kind, release.size)
    patient = np.arange(N) // 3
    predictions = target.predictions(3 * torch.randn(N, target.outputs)).double().numpy()
    broken = target.evidence(
        np.zeros_like(predictions), labels
    )  # as NaN is read: it must not refuse after the charge
    assert mechanism.exact(*broken, patient).shape == mechanism.shape
    score, label = target.evidence(predictions, labels)
    whole = mechanism.exact(score, label, patient)
    for gone in range(patient.max() + 1):
        rest = patient != gone
        codes = np.unique(patient[rest], return_inverse=True)[1]
        moved = np.linalg.norm(whole - mechanism.exact(score[rest], label[rest], codes))
        assert 0 < moved <= mechanism.sensitivity * (1 + 1e-12)


@EVERY
def test_evidence_of_a_record_is_its_own(kind: str) -> None:
    if of(kind).release is None:
        return
    target = of(kind).target()
    labels = target.made_up(N).numpy()
    predictions = target.predictions(torch.randn(N, target.outputs)).double().numpy()
    every = target.evidence(predictions, labels)
    for row in range(N):
        for one, whole in zip(target.evidence(predictions[[row]], labels[[row]]), every, strict=True):
            np.testing.assert_allclose(one[0], whole[row])


@EVERY
def test_a_prediction_with_its_own_evidence_stays_and_what_is_true_of_it_is_possible(kind: str) -> None:
    release, target = of(kind).release, of(kind).target()
    if release is None or release.kind != "tables":
        pytest.skip("has no probabilities that a release could correct")
    labels = target.made_up(N).numpy()
    predictions = target.predictions(torch.randn(N, target.outputs)).double().numpy()
    for row in range(N):
        own, label = predictions[row : row + 1], labels[row : row + 1]
        score, true = target.evidence(own, label)
        if np.isnan(true).all():  # a record that lacks what is released
            continue
        np.testing.assert_allclose(target.corrected(own[0], score[0]), own[0], atol=1e-6)
        answers = np.stack([true[0] == 0, true[0] == 1], axis=1)
        answers[np.isnan(true[0])] = True
        everything = target.possible(np.ones_like(answers))
        assert set(target.possible(answers)) <= set(everything) or "or no" in str(everything)
        assert target.possible(answers) and 1 <= target.together <= release.size
        if not np.isnan(true).any() and np.asarray(label).size == 1:
            (group,) = target.group_of(label)
            assert target.possible(answers) == (target.groups[int(group)],)


@EVERY
def test_an_answer_is_said_with_its_number(kind: str) -> None:
    target = of(kind).target()
    prediction = target.predictions(torch.randn(1, target.outputs)).double().numpy()[0]
    number = target.answer(prediction)
    said = target.said(number, prediction[number])
    assert 0 <= number < len(target.names) and said.endswith(target.shown(number, prediction[number]))
    assert target.moved(number, 0.25)[0] == "+" and target.moved(number, -0.25)[0] == "-"


@EVERY
def test_a_private_step_is_the_definitions(kind: str) -> None:
    config = run_of(kind)
    target, rows = config.task.target(), 4
    model, batch = exact(build_model(config), replace(a_batch(rows), label=target.made_up(rows)))
    nn.init.normal_(model.head.weight)
    check_private_step(model, target, replace(batch, unit=torch.tensor([0, 1, 0, 1])))


@EVERY
def test_its_section_travels_and_its_model_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    config = run_of(kind)
    assert config.task.kind == kind
    assert from_flat(to_flat(config)) == config and hash(from_flat(to_flat(config))) == hash(config)
    assert RunConfig.model_validate(tomllib.loads(to_toml(config))).digest == config.digest
    model, batch = build_model(config), a_batch()
    batch = replace(batch, label=config.task.target().made_up(len(batch)))
    save_model(tmp_path, model, config)
    loaded, again = load_model(tmp_path)
    assert again == config
    with torch.no_grad():
        outputs = loaded(batch)
        torch.testing.assert_close(outputs, model.eval()(batch), rtol=0, atol=0)
        torch.testing.assert_close(loaded.answer(batch), model.answer(batch), rtol=0, atol=0)
    assert outputs.shape == loaded.answer(batch).shape == (len(batch), config.task.target().outputs)


@EVERY
def test_no_label_reaches_an_answer(kind: str) -> None:
    config = run_of(kind)
    model, target, batch = build_model(config).eval(), config.task.target(), a_batch()
    nn.init.normal_(model.head.weight)
    with torch.no_grad():
        answers = [model.answer(replace(batch, label=one)) for one in target.made_up(6).split(3)]
        nothing = model.answer(replace(batch, label=torch.full((3,), torch.nan)))
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
    torch.testing.assert_close(answers[0], nothing, rtol=0, atol=0)


@EVERY
def test_a_policy_is_asked_for_its_columns_and_scores(kind: str) -> None:
    task = of(kind)
    config = small(task={"kind": kind}, privacy={"metrics": "rounded"})
    asked = run_request(config, EVALUATION, "installed")
    assert set(task.columns.values()) <= asked.columns
    assert dict(asked.metrics) == dict.fromkeys(task.target().told, "rounded")


@EVERY
def test_what_is_predicted_cannot_be_an_input(kind: str) -> None:
    for column in of(kind).columns.values():
        with pytest.raises(ConfigError, match="cannot be an input"):
            from_flat({"task.kind": kind, "privacy.metrics": "none", "data.text": column})


# ---------------------------------------------------------------- the task that a test adds


def test_a_task_that_is_registered_is_valid_everywhere() -> None:
    chosen = ["task.kind=bounded", "task.high=90", "privacy.metrics=none"]
    config = resolve(None, chosen).config
    assert config.task == Bounded(high=90)
    shown = CliRunner().invoke(command, ["config", "show", *(f"--set={one}" for one in chosen)]).output
    assert "task.high" in shown and "task.classes" not in shown
    with pytest.raises(
        ConfigError, match=r"'bounded', which has no key 'classes'\. Its keys: column, low, high"
    ):
        resolve(None, [*chosen, "task.classes=['a', 'b']"])


def test_a_task_that_is_not_registered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TASKS.sections, "bounded")
    with pytest.raises(ConfigError, match=r"task\.kind: Input should be 'classification'"):
        resolve(None, ["task.kind=bounded"])


def test_its_labels_are_read_from_a_table(tmp_path: Path) -> None:
    ages: list[Any] = [30, "", 62.5, 130, 7]
    rows = [
        {"patient_id": f"p{n}", "study_id": n, "site": "a", "text": "a note", "age": age}
        for n, age in enumerate(ages)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "data.csv", index=False)
    data, noted = DataConfig(image=""), list[str]()
    with pytest.raises(DataError, match=r"'age' is not within task\.low and task\.high in row 4"):
        read_manifest(tmp_path, data, Bounded())
    manifest = read_manifest(tmp_path, data, Bounded(), noted.append)
    assert manifest.records["label"].tolist() == [30, 62.5, 7] and manifest.unlabelled == {"a": 1}
    assert len(noted) == 1
    pd.DataFrame(rows).assign(age=40).to_csv(tmp_path / "data.csv", index=False)
    with pytest.raises(DataError, match=r"the same label \(age below 50\)"):
        read_manifest(tmp_path, data, Bounded())
    pd.DataFrame(rows).assign(age="").to_csv(tmp_path / "data.csv", index=False)
    with pytest.raises(
        DataError, match=r"'age' is empty in every row: no labels\. Name another with task\.column"
    ):
        read_manifest(tmp_path, data, Bounded())


def test_a_data_steward_sees_its_kinds_of_label(hospitals: Path) -> None:
    result = check(hospitals, DataConfig(), Bounded())
    balance = dict(result.facts["Label balance"])
    assert set(balance) == {"age below 50", "age from 50"} and all(
        "patients" in one for one in balance.values()
    )


@pytest.fixture
def ages(configured: Configured) -> Configured:  # noqa: F811
    """Configurations of runs that predict the generated patients' age."""

    def build(**privacy: Any) -> RunConfig:
        return configured(
            task={"kind": "bounded"},
            privacy={"delta": 1e-3, "metrics": "none", **privacy},
            federation={"rounds": 2},
        )

    return build


def test_a_whole_private_run(
    ages: Configured, tmp_path: Path, hospitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ages()
    path = start_run(config, folder=tmp_path / "run", engine="inprocess", workers=0)
    told = capsys.readouterr().out
    assert "mean site mean absolute error 0." in told
    assert "mean absolute error on held-out patients" in told and "AUROC" not in told
    result = json.loads((path / "evaluation.json").read_text())["mae"]
    assert 0 < result["pooled"]["low"] < result["pooled"]["value"] < 1
    assert set(result["sites"]) == set(simulated_manifest(config).sites)

    view = read_run(path)
    assert all(set(line["metrics"]) == {"mae", "worst"} for one in view.rounds for line in one["evaluate"])
    assert {len(course) for course in view.scored.values()} == {2}
    with RunFolder.open(path) as run:
        report = RunReport(run).body()
    assert report["run"]["subject"]["predicts"] == "age: a number from 0 to 100"
    assert report["summary"]["status"] == "complete" and report["utility"] == [] and report["results"] is None
    assert "no AUROC on held-out patients has left a site" in render_report(report)

    assert evaluate_run(path, None).pooled.value == pytest.approx(result["pooled"]["value"])
    predicted = mmmed.predict(mmmed.load_model(path), hospitals)
    assert predicted["age"].between(0, 100).all() and len(predicted) > 0


def evaluated(hospital: Hospital, config: RunConfig) -> Message:  # noqa: F811
    own = {"site-dir": str(hospital.path)}
    context = Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})
    return app(request(config, MessageType.EVALUATE, **{"server-round": 2}), context)


def test_a_hospitals_policy_decides_on_its_columns_and_score(
    hospital: Hospital,  # noqa: F811
    ages: Configured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ages(metrics="rounded")
    policy = SitePolicy.parse((hospital.path / "site-policy.toml").read_text())
    with pytest.raises(PolicyRefusal, match="age"):
        policy.check(run_request(config, EVALUATION, "installed"), now=0)
    monkeypatch.setattr(client.evaluation, "_MIN_OF_GROUP", 1)
    columns = ["age", "image", "text"]
    for metrics in ({"auroc": "rounded"}, {"mae": "private"}):
        hospital.sign(by_two=True, run__columns=columns, metrics=metrics)
        assert evaluated(hospital, config).error.reason == Refusal.POLICY
        assert "mae: allowed is" in refusals(hospital.state)[-1]
    hospital.sign(by_two=True, metrics={"mae": "rounded"})
    reply = evaluated(hospital, config)
    assert not reply.has_error(), refusals(hospital.state)
    assert set(reply.content["metrics"]) == {"weight", "mae"}
    twentieths = float(reply.content["metrics"]["mae"]) * 20
    assert twentieths == pytest.approx(round(twentieths))


def test_too_few_of_a_kind_of_label_and_nothing_is_told(hospital: Hospital, ages: Configured) -> None:  # noqa: F811
    hospital.sign(run__columns=["age", "image", "text"], metrics={"mae": "rounded"})
    assert evaluated(hospital, ages(metrics="rounded")).error.reason == Refusal.FAILED
    assert "fewer than 10 patients of a kind of label" in refusals(hospital.state)[-1]
