"""`mmmed privacy tune` as its users type it: for free, or at a site."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import simulations.trial
from mmmed.config import combinations, parse_vary
from mmmed.errors import ConfigError
from mmmed.tasks.base import Score
from simulations.tune import Outcome, front, to_csv
from tests.client.conftest import Hospital
from tests.client.test_tuning import SETTINGS, charged, clinic  # noqa: F401 (a fixture)

Command = Callable[..., tuple[int, str, str]]
EPSILONS = "privacy.target_epsilon=1,8"
RATES = "training.learning_rate=0.001,0.01"


def arguments(table: Path, out: Path, *vary: str) -> list[str]:
    varied = {text.split("=")[0] for text in vary}
    fixed = SETTINGS | {"data.source": str(table), "federation.min_sites": "1", "privacy.delta": "1e-3"}
    options = [f"--set={key}={value}" for key, value in fixed.items() if key not in varied]
    return [
        "privacy",
        "tune",
        *options,
        *(f"--vary={text}" for text in vary),
        f"--out={out}",
        "--seeds=2",
        "--workers=0",
    ]


def test_a_free_sweep_draws_the_front_and_goes_on_where_it_stopped(
    mmmed: Command,
    clinic: Hospital,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "sweep"
    real, runs = simulations.trial.run_trial, []

    def counted(*given):  # noqa: ANN202
        runs.append(given)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(simulations.trial, "run_trial", counted)
    command = [*arguments(tmp_path / "table", out, EPSILONS, RATES), "--public"]
    assert mmmed(*command)[0] == 130 and len(runs) == 3
    code, text, err = mmmed(*command)
    assert code == 0, err
    assert len(runs) == 3 + 6  # 2 of 8 were finished
    assert "8/8" in text and "target_epsilon 8, learning_rate 0.01, seed 1" in text
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [(row["epsilon"], row["training.learning_rate"]) for row in rows] == [
        ("1", "0.001"), ("1", "0.01"), ("8", "0.001"), ("8", "0.01"),
    ]  # fmt: skip
    for row in rows:
        assert float(row["auroc_low"]) <= float(row["auroc_mean"]) <= float(row["auroc_high"])
        assert row["seeds"] == "2"
    assert any(row["on_front"] == "True" for row in rows)
    page = (out / "pareto.html").read_text()
    assert "learning_rate 0.01" in page and "Content-Security-Policy" in page and "cdn" not in page[:2000]
    assert mmmed(*command)[0] == 0 and len(runs) == 9
    evaluation = next((out / "trials").glob("*/evaluation.json"))
    evaluation.write_text("{")
    code, _, err = mmmed(*command)
    assert code == 2 and "evaluation.json" in err and "Traceback" not in err


def test_a_setting_that_cannot_run_is_told_before_any_does(
    mmmed: Command,
    clinic: Hospital,  # noqa: F811
    tmp_path: Path,
) -> None:
    command = arguments(tmp_path / "table", tmp_path / "sweep", "training.batch_size=64,4096")
    code, _, err = mmmed(*command, "--public")
    assert code == 2 and "batch_size is 4096" in err
    assert not (tmp_path / "sweep").exists()


def test_private_data_are_not_swept_for_free_in_silence(
    mmmed: Command, hospitals: Path, tmp_path: Path
) -> None:
    code, _, err = mmmed(*arguments(hospitals, tmp_path / "sweep", RATES))
    assert code == 2 and "--public" in err and "--site FOLDER" in err
    assert not (tmp_path / "sweep").exists()
    code, _, err = mmmed(*arguments(hospitals, tmp_path / "sweep", RATES), "--public", "--site", tmp_path)
    assert code == 2 and "exclude" in err


def test_a_site_sweeps_under_its_own_ledger_and_tells_the_winner_alone(
    mmmed: Command,
    clinic: Hospital,  # noqa: F811
    tmp_path: Path,
) -> None:
    fixed = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    command = [
        "privacy",
        "tune",
        *fixed,
        "--vary",
        "training.learning_rate=0.0001,0.03",
        "--site",
        clinic.path,
    ]
    code, text, err = mmmed(
        *command, "--out", tmp_path / "winner", "--trials", "3", "--stopping", "logarithmic"
    )
    assert code == 0, err
    assert "best: training.learning_rate = 0.0" in text and "the whole sweep" in text
    settings = json.loads((tmp_path / "winner" / "sweep.json").read_text())["settings"]
    (won,) = settings.values()
    (lost,) = {0.0001, 0.03} - {won}
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "ledger" not in path.name]
    assert not any(f"learning_rate = {lost}".encode() in path.read_bytes() for path in written)
    assert len(charged(clinic)) == 2
    state = clinic.state
    code, text, err = mmmed("privacy", "ledger", "show", state)
    assert code == 0 and "1 sweep" in text, err
    assert mmmed("privacy", "ledger", "verify", state)[0] == 0
    assert mmmed("privacy", "ledger", "export", state, tmp_path / "ledger.json")[0] == 0
    run = arguments(tmp_path / "table", tmp_path / "unused", RATES)
    settings = [option for option in run if option.startswith("--set") and "source" not in option]
    code, _, err = mmmed(
        "simulate", "--data", tmp_path / "table", *settings, "--out", tmp_path / "run", "--workers", "0"
    )
    assert code == 0, err
    code, _, err = mmmed(
        "privacy", "report", tmp_path / "run", "--tuned-by", tmp_path / "winner" / "sweep.json"
    )
    assert code == 0, err
    report = tmp_path / "run" / "report" / "privacy.json"
    assert 7.5 < json.loads(report.read_text())["tuning"]["epsilon"] <= 8
    assert mmmed("privacy", "verify", report)[0] == 0
    code, _, err = mmmed("privacy", "report", tmp_path / "run", "--tuned-by", report)
    assert code == 2 and "sweep" in err and "Traceback" not in err
    code, _, err = mmmed(*command, "--out", tmp_path / "other", "--stopping", "never")
    assert code == 2 and "geometric" in err


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["training.learning_rate"], "expected section.key=value"),
        (["training.learning_rate="], "values that differ"),
        (["training.learning_rate=0.1,0.1"], "values that differ"),
        (["training.lerning_rate=0.1"], "Did you mean 'training.learning_rate'"),
        (["training.learning_rate=0.1", "training.learning_rate=0.2"], "varied twice"),
    ],
)
def test_what_cannot_be_varied_is_told(texts: list[str], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        parse_vary(texts)


def test_every_combination_is_a_setting() -> None:
    varied = parse_vary(["training.optimizer=sgd,adam", "model.fusion.dropout=0,0.1", 'data.image=""'])
    assert varied == {
        "training.optimizer": ["sgd", "adam"],
        "model.fusion.dropout": [0, 0.1],
        "data.image": [""],
    }
    found = combinations(varied, None, ["training.batch_size=7"])
    assert len(found) == 4 and len({str(each.settings) for each in found}) == 4
    assert all(each.config.training.batch_size == 7 and each.config.data.image == "" for each in found)
    with pytest.raises(ConfigError, match="both set and varied"):
        combinations(varied, None, ["model.fusion.dropout=0.2"])
    with pytest.raises(ConfigError, match="optimizer"):
        combinations(parse_vary(["training.optimizer=sgd,lion"]))


def test_the_front_holds_what_nothing_beats_at_its_epsilon_or_below() -> None:
    score = Score("auroc", "AUROC", higher=True)

    def outcome(epsilon: float, *values: float, score: Score = score) -> Outcome:
        return Outcome({"privacy.target_epsilon": epsilon}, epsilon, 1e-5, score, values)

    points = [
        outcome(4, 0.7), outcome(1, 0.5, 0.75), outcome(1, 0.6), outcome(2, 0.62), outcome(8, 0.71), outcome(8, 0.7),
    ]  # fmt: skip
    assert [(one.epsilon, one.mean) for one in front(points)] == [(1, 0.625), (4, 0.7), (8, 0.71)]
    rows = list(csv.DictReader(to_csv(points).splitlines()))
    assert [row["on_front"] for row in rows] == ["True", "True", "False", "False", "True", "False"]
    error = Score("mae", "mean absolute error", higher=False)
    points = [outcome(epsilon, value, score=error) for epsilon, value in ((1, 0.3), (2, 0.31), (2, 0.2))]
    assert [one.mean for one in front(points)] == [0.3, 0.2]
    assert "mae_mean" in to_csv(points).splitlines()[0]
