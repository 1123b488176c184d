"""A whole private run of a task that is no classification, through the command: its own score names everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmmed.config import resolve
from mmmed.inference import evaluate
from mmmed.models.names import policy_name
from privacy.metrics import errors
from privacy.report import render_report, verify_report
from server.dashboard.runs import read_run
from tests.simulations.test_trial_policy import policy

Command = Callable[..., tuple[int, str, str]]
TASKS = '{severity={kind="regression"}, findings={kind="multilabel", labels=["effusion"]}, back={kind="survival"}}'


def test_several_tasks_train_and_tell_their_own_scores(
    mmmed: Command, hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "MIN_PATIENTS", 1)  # the hospitals are small
    monkeypatch.setitem(evaluate.__kwdefaults__, "resamples", 100)
    settings = (
        *("data.image=", "data.text=", "data.numbers={age=[18, 95]}", "training.batch_size=8"),
        *("task.kind=several", f"task.tasks={TASKS}", "task.main=severity", "task.uncertainty=true"),
        *(
            "federation.rounds=1",
            "training.local_epochs=1",
            "privacy.delta=1e-3",
            "privacy.metrics_epsilon=8",
        ),
    )
    config = resolve(None, settings).config
    columns = ["age", *config.task.columns.values()]
    rules = {
        "run__columns": columns,
        "run__models": [policy_name(config)],
        "purposes": {"training": 8.0, "evaluation": 8.0},
    }
    rules |= {"metrics": {"mae": "private", "r2": "private"}}
    signed = policy(tmp_path / "policy.toml", **rules)
    told = [f"--set={one}" for one in settings]
    run = tmp_path / "run"
    code, out, err = mmmed(
        "simulate", "--data", hospitals, *told, "--policy", signed, "--workers=0", "--out", run
    )
    assert code == 0, out + err
    title = "mean absolute error (share of the range)"
    assert f"{title} on held-out patients" in out and "AUROC" not in out
    assert "private mean absolute error, share of the range of 4 sites 0." in out
    result = json.loads((run / "evaluation.json").read_text())
    assert 0 < result["mae"]["pooled"]["low"] < result["mae"]["pooled"]["high"] < 1
    assert set(result["mae"]) == {"pooled", "site_only", "within_site", "sites"}
    others = {
        "r2",
        "rmse",
        "findings.auroc",
        "findings.auprc",
        "findings.brier",
        "findings.ece",
        "back.c_index",
    }
    assert others <= set(result) and all(set(result[name]) == {"pooled"} for name in others)

    body = json.loads((run / "report" / "privacy.json").read_text())
    assert verify_report(body) == []
    told = {score["name"]: score for score in body["results"]["scores"]}
    assert body["run"]["pooled"]["kind"] == "errors" and told["mae"]["low"] <= told["mae"]["value"]
    value = result["mae"]["pooled"]["value"]
    assert (
        told["mae"]["low"] - 0.3 < value < told["mae"]["high"] + 0.3
    )  # there patients weigh 1, here records
    page = render_report(body)
    assert "mean absolute error, share of the range" in page and "hold no AUROC" in page
    body["results"]["scores"][0]["value"] += 0.01
    assert any("results/scores/0/value" in finding for finding in verify_report(body))

    view = read_run(run)
    assert view.score.name == "mae" and view.scored == {}  # no site shows its own
    code, out, err = mmmed("evaluate", run)
    assert code == 0, out + err
    assert f"{value:.3f} [" in out and "other scores, all sites pooled: " in out and "back.c_index" in out
