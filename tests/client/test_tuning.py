"""A sweep at a site: charged whole before its first trial, and of it only the best trial is ever seen."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import client.evaluation
import client.tuning
from client.site_folder import SiteFolder
from client.tuning import FILE, Winner, open_site, plan_sweep, run_sweep
from mmmed.config import Candidate, combinations, parse_vary
from mmmed.errors import ConfigError
from mmmed.models import build_model, load_model
from privacy.accounting import SelectionEvent, claimed_epsilon, epsilon
from privacy.errors import BudgetExceeded, NoiseError, PlanError, PolicyRefusal
from privacy.ledger import Plan
from privacy.metrics import Estimate
from privacy.report import read_statement
from tests.client.conftest import Hospital

PATIENTS = 1600
SETTINGS = {
    "data.image": '""',
    "data.text": '""',
    "data.numbers": "{x = [-3, 3], age = [0, 90]}",
    "data.test_fraction": "0.5",
    "model.fusion.kind": "linear",
    "training.batch_size": "128",
    "training.local_epochs": "1",
    "training.records_per_patient": "1",
    "privacy.target_epsilon": "8",
    "privacy.metrics_epsilon": "8",
    "privacy.delta": "1e-4",
    "federation.rounds": "1",
}


def make_clinic(path: Path, patients: int) -> Hospital:
    """A hospital with a table of numbers alone, whose policy allows a sweep."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, patients)
    data = path / "table"
    data.mkdir(parents=True)
    pd.DataFrame(
        {
            "patient_id": [f"P{i}" for i in range(patients)],
            "study_id": [f"S{i}" for i in range(patients)],
            "site": "north",
            "finding": label,
            "x": np.clip(rng.normal(2 * label - 1, 0.7), -3, 3),
            "age": rng.uniform(20, 90, patients),
        }
    ).to_csv(data / "data.csv", index=False)
    made = Hospital(path / "north", data)
    made.write_site(where={})
    made.sign(
        limit={"epsilon": 20.0, "delta": 1e-3}, period={"days": 365, "epsilon": 20.0, "delta": 1e-3},
        purposes={"training": 12.0, "evaluation": 2.0, "tuning": 20.0},
        run__columns=["finding", "x", "age"], run__epsilon=12.0, by_two=True,
    )  # fmt: skip
    return made


@pytest.fixture
def clinic(tmp_path: Path) -> Hospital:
    return make_clinic(tmp_path, PATIENTS)


def tried(*vary: str, **changes: str) -> list[Candidate]:
    varied = parse_vary(vary or ("training.learning_rate=0.001,0.03",))
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return combinations(
        varied, None, [f"{key}={text}" for key, text in settings.items() if key not in varied]
    )


def swept(clinic: Hospital, out: Path, candidates: list[Candidate], mean: float = 3.0) -> Winner:
    site = open_site(clinic.path, candidates)
    return run_sweep(site, plan_sweep(site, candidates, mean, 1.0), out)


def charged(clinic: Hospital) -> list[tuple[Plan, Any]]:
    folder = SiteFolder(clinic.path)
    with folder.ledger(folder.policy()) as ledger:
        return [(plan, ledger.events(plan.run_id)) for plan in ledger.plans()]


def test_the_winner_is_kept_with_what_the_whole_sweep_cost(clinic: Hospital, tmp_path: Path) -> None:
    out = tmp_path / "winner"
    candidates = tried("training.learning_rate=0.001,0.03", "training.batch_size=64,128")
    winner = swept(clinic, out, candidates)
    assert sorted(path.name for path in out.iterdir()) == ["model", FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "north",
        "table",
        "winner",
    ]  # and nothing else
    (trained, events), (scored, score_events) = charged(clinic)
    assert (trained.purpose, scored.purpose, scored.run_id) == (
        "tuning",
        "tuning",
        f"{trained.run_id}/evaluation",
    )
    assert events == (trained.event,) and score_events == (scored.event,)
    assert isinstance(trained.event, SelectionEvent) and len(trained.event.trials) == 2  # by batch size
    assert 7.5 < trained.epsilon <= 8 and 7.5 < scored.epsilon <= 8
    assert trained.dataset != scored.dataset
    assert (winner.epsilon, winner.scoring_epsilon) == (trained.epsilon, scored.epsilon)
    found = json.loads((out / FILE).read_text())
    assert found["settings"] == dict(winner.candidate.settings)
    _, config = load_model(out / "model")
    assert config.training.learning_rate == found["settings"]["training.learning_rate"]
    trial = next(
        each for each in trained.event.trials if each.sampling_rate == config.training.batch_size / 512
    )
    assert config.privacy.target_epsilon == epsilon([trial], 1e-4) < 8
    for statement, plan in zip(found["statements"], (trained, scored), strict=True):
        stated = read_statement(statement)
        assert (stated.run_id, stated.event, stated.epsilon, stated.steps) == (
            plan.run_id, plan.event, plan.epsilon, 1,
        )  # fmt: skip


def test_a_trial_trains_and_is_scored_on_held_out_patients(clinic: Hospital) -> None:
    candidates = tried("training.learning_rate=0.05,0.1", federation__rounds="3")
    site = open_site(clinic.path, candidates)
    sweep = plan_sweep(site, candidates, 3.0, 1.0)
    _, score = client.tuning._trial(site, sweep, 1)
    assert score is not None and score.auroc is not None and score.auroc > 0.8
    assert score.patients == pytest.approx(len(site.held_out), abs=8 * score.patients_error)
    assert score.patients != round(score.patients)  # noised


def test_what_is_trained_may_vary_and_the_rest_stays_as_built(clinic: Hospital) -> None:
    clinic.sign(run__trainable=["norm-bias", "fusion-head"], by_two=True)
    candidates = tried("model.trainable=norm-bias,fusion-head", training__learning_rate="0.1")
    site = open_site(clinic.path, candidates)
    sweep = plan_sweep(site, candidates, 3.0, 1.0)
    sets = []
    for number in (0, 1):
        built = build_model(candidates[number].config).state_dict()
        model, score = client.tuning._trial(site, sweep, number)
        moved = {name for name, value in model.state_dict().items() if not value.equal(built[name])}
        assert score is not None
        assert moved == {name for name, value in model.named_parameters() if value.requires_grad}
        sets.append(moved)
    assert sets[0] < sets[1]


def test_trials_are_drawn_at_random_and_the_best_score_is_kept(
    clinic: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = tried("training.learning_rate=0.1,0.2,0.3,0.4")
    site = open_site(clinic.path, candidates)
    sweep = plan_sweep(site, candidates, 5.0, 1.0)
    runs: list[list[tuple[int, float | None]]] = []
    rng = np.random.default_rng(0)

    def trial(site: Any, sweep: Any, number: int) -> tuple[Any, Estimate | None]:
        score = None if rng.random() < 0.3 else float(rng.random())
        runs[-1].append((number, score))
        return score, None if score is None else Estimate(1.0, 1.0, auroc=score)

    monkeypatch.setattr(client.tuning, "_trial", trial)
    for _ in range(400):
        runs.append([])
        number, model, _ = client.tuning._best(site, sweep)
        scores = [score for _, score in runs[-1] if score is not None]
        assert model == (max(scores) if scores else None)
        assert (number, model) in runs[-1]
    lengths = [len(run) for run in runs]
    assert min(lengths) == 1 and 4 < np.mean(lengths) < 6  # geometric, mean 5, error 0.22
    counts = Counter(number for run in runs for number, _ in run)
    assert set(counts) == {0, 1, 2, 3} and max(counts.values()) < 1.4 * min(counts.values())


def test_a_broken_model_has_no_score_and_stops_nothing(
    clinic: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = tried()
    site = open_site(clinic.path, candidates)
    sweep = plan_sweep(site, candidates, 5.0, 1.0)

    def breaks(*arguments: Any) -> None:
        raise NoiseError("NaN")

    monkeypatch.setattr(client.tuning, "_train_round", breaks)
    assert client.tuning._best(site, sweep)[2] is None
    monkeypatch.setattr(client.tuning, "_train_round", lambda *arguments: None)
    monkeypatch.setattr(
        client.evaluation, "predict", lambda model, target, records: np.full((len(records), 2), np.nan)
    )
    assert client.tuning._trial(site, sweep, 0)[1] is not None  # a score of noise alone, and no error


def test_a_killed_sweep_stays_charged_in_full_and_leaves_nothing(clinic: Hospital, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; import client.tuning\n"
        "from tests.client.test_tuning import tried\n"
        "client.tuning._trial = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "candidates = tried(); site = client.tuning.open_site(Path(sys.argv[1]), candidates)\n"
        "sweep = client.tuning.plan_sweep(site, candidates, 3.0, 1.0)\n"
        "client.tuning.run_sweep(site, sweep, Path(sys.argv[2]))\n"
    )
    out = tmp_path / "winner"
    ended = subprocess.run(
        [sys.executable, "-c", code, clinic.path, out], cwd=Path(__file__).parents[2], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists() and not list(tmp_path.rglob(FILE)) and not list(tmp_path.rglob("model*"))
    plans = charged(clinic)
    assert len(plans) == 2
    for plan, events in plans:
        assert claimed_epsilon(events, 1e-4) == plan.epsilon > 7.5


def test_the_policy_must_allow_tuning_and_every_setting(clinic: Hospital, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefusal, match=r"run\.trainable"):
        open_site(clinic.path, tried("model.trainable=full,norm-bias"))
    clinic.sign(purposes={"training": 12.0, "evaluation": 2.0})
    with pytest.raises(PolicyRefusal, match=r"purposes.*'tuning'"):
        open_site(clinic.path, tried())
    assert charged(clinic) == []


def test_both_groups_are_charged_or_neither(clinic: Hospital, tmp_path: Path) -> None:
    clinic.sign(purposes={"training": 12.0, "evaluation": 2.0, "tuning": 9.0})
    candidates = tried(privacy__metrics_epsilon="11")
    with pytest.raises(BudgetExceeded, match=r"purposes\.tuning"):
        swept(clinic, tmp_path / "winner", candidates)
    assert charged(clinic) == []
    swept(clinic, tmp_path / "winner", tried(), mean=1.0)
    with pytest.raises(BudgetExceeded):
        swept(clinic, tmp_path / "again", tried(), mean=1.0)
    assert len(charged(clinic)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "north",
        "table",
        "winner",
    ]  # no draft is left


@pytest.mark.parametrize(
    "vary",
    [
        "training.seed=1,2",
        "data.test_fraction=0.2,0.5",
        "privacy.delta=1e-4,1e-5",
        "federation.wire=float32,int8",
    ],
)
def test_what_splits_patients_or_sets_the_budget_cannot_vary(clinic: Hospital, vary: str) -> None:
    candidates = combinations(parse_vary([vary]), None, [])
    with pytest.raises(ConfigError, match="a sweep at a site can vary"):
        open_site(clinic.path, candidates)


def test_a_sweep_takes_no_centring_steps_and_says_so(clinic: Hospital) -> None:
    steps = ["federation.release=steps", "federation.rounds=9", "training.optimizer=sgd"]
    linear = ["model.fusion.kind=linear", "model.fusion.centring_steps=3", "model.trainable=fusion-head"]
    candidates = combinations(parse_vary(["training.learning_rate=1,2"]), None, [*steps, *linear])
    with pytest.raises(ConfigError, match=r"model\.fusion\.centring_steps.*Set it to 0"):
        open_site(clinic.path, candidates)


def test_a_score_that_would_be_noise_is_refused_before_anything_is_charged(clinic: Hospital) -> None:
    candidates = tried(privacy__metrics_epsilon="0.05")
    with pytest.raises(PlanError, match="metrics_epsilon"):
        plan_sweep(open_site(clinic.path, candidates), candidates, 10.0, 1.0)
    assert charged(clinic) == []


def test_a_folder_that_holds_something_is_refused_before_anything_is_charged(
    clinic: Hospital, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        swept(clinic, tmp_path / "taken", tried())
    assert charged(clinic) == []
