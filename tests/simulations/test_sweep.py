"""Sweeps and the comparison of runs: the grid, the table, what is continued, the statistics and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import simulations.sweep
from mmmed.config import RunConfig, resolve, to_toml
from mmmed.errors import ConfigError, RunError
from simulations.compare import (
    check_comparable,
    differences,
    estimate,
    holm,
    paired_p,
    read_runs,
    settings_of,
)
from simulations.compare_page import compare_page
from simulations.pictures import around, calibration, roc
from simulations.scenarios import Scenario, read_scenario
from simulations.sweep import cells_of, parse_seeds, sweep, tidy
from tests.simulations.test_scenarios import TINY

Command = Callable[..., tuple[int, str, str]]


def arguments(hospitals: Path, *more: str) -> list[str]:
    given = {text.partition("=")[0] for text in more}
    fixed = [text for text in TINY if text.partition("=")[0] not in given]
    return [*fixed, f"data.source={hospitals}", "privacy.enabled=false", *more]


# ---------------------------------------------------------------- the grid


def test_seeds_are_read_as_ranges_and_lists() -> None:
    assert (
        parse_seeds("0..3") == [0, 1, 2, 3]
        and parse_seeds("7") == [7]
        and parse_seeds("0..1, 5") == [0, 1, 5]
    )
    for wrong in ("", "a", "3..1", "0..2,1", "-1", "1.5"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(wrong)


def test_the_grid_is_every_combination_and_its_cells_have_names_that_stay() -> None:
    given = (
        "training.learning_rate=0.1,0.2",
        "training.batch_size=16",
        "scenario.alpha=0.1,1",
        "scenario.sites=3",
    )
    cells = cells_of(None, given, ["label-skew"], [0, 4])
    assert len(cells) == len({cell.name for cell in cells}) == 8
    first = cells[0]
    assert dict(first.settings) == {
        "scenario": "label-skew",
        "scenario.alpha": 0.1,
        "training.learning_rate": 0.1,
    }
    assert first.config.training.batch_size == 16 and [cell.config.training.seed for cell in cells[:2]] == [
        0,
        4,
    ]
    assert first.scenario is not None and (first.scenario.alpha, first.scenario.sites) == (0.1, 3)
    again = cells_of(None, given[:1], ["label-skew"], [0])
    assert again[0].name != first.name  # another batch size, another alpha
    assert cells_of(None, given, ["label-skew"], [0])[0].name == first.name
    for wrong, says in (
        (("training.seed=1,2",), "--seeds sets it"),
        (("training.seeed=1,2",), "Did you mean"),
        (("scenario.alpha=1",), "give the --scenario"),
        (("training.learning_rate=1,1",), "values that differ"),
    ):
        with pytest.raises(ConfigError, match=says):
            cells_of(None, wrong, [], [0])
    with pytest.raises(ConfigError, match="same run"):
        cells_of(None, (), ["iid", "iid"], [0])


def test_a_sweep_goes_on_where_it_stopped_and_a_broken_cell_holds_up_nobody(
    mmmed: Command, hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(
        None, arguments(hospitals, "training.batch_size=4,5000", "federation.rounds=1"), [], [0, 1]
    )
    real, ran = simulations.sweep.evaluated_trial, []

    def counted(*given):  # noqa: ANN202
        if not (given[1] / "evaluation.json").is_file():
            ran.append(given)
            if len(ran) == 2:
                raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(simulations.sweep, "evaluated_trial", counted)
    with pytest.raises(KeyboardInterrupt):
        list(sweep(cells, tmp_path / "sweep", workers=0))
    assert len(pd.read_parquet(tmp_path / "sweep" / "results.parquet")["run"].unique()) == 1
    ended = list(sweep(cells, tmp_path / "sweep", workers=0))
    assert [(one.ran, bool(one.error)) for one in ended] == [
        (False, False),
        (True, False),
        (True, True),
        (True, True),
    ]
    assert "training.batch_size is 5000" in ended[-1].error
    table = pd.read_parquet(tmp_path / "sweep" / "results.parquet")
    pd.testing.assert_frame_equal(table, tidy([cells[0], cells[1]], tmp_path / "sweep"))
    assert set(table["scope"]) == {"pooled", "within_site", "site_only", "site", "run"}
    assert table["value"].dtype == np.float64 and set(table["seed"]) == {0, 1}
    assert (table["training.batch_size"] == 4).all()
    one = table[(table["scope"] == "within_site") & (table["seed"] == 0)]["value"].item()
    assert one == pytest.approx(ended[0].score)

    out = tmp_path / "compare.html"
    code, text, err = mmmed("simulate", "compare", tmp_path / "sweep", "--out", out)
    assert code == 0, err
    assert str(out) in text and "2 runs of 1 setting" in out.read_text()


# ---------------------------------------------------------------- the statistics


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_intervals_and_tests_are_students_where_seeds_are_independent(values: list[float]) -> None:
    found = estimate(values, overlap=0.0)
    error = stats.sem(values)
    if not error > 1e-9:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert paired_p(values, 0.0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    wider = estimate(values, overlap=1 / 3)
    ratio = math.sqrt((1 / len(values) + 1 / 3) * len(values))
    assert wider.high - wider.mean == pytest.approx(ratio * (found.high - found.mean))
    assert paired_p(values, 1 / 3) >= paired_p(values, 0.0) - 1e-12


def test_holm_is_what_its_paper_says() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, math.nan, 0.5]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert holm([]) == [] and math.isnan(paired_p([0.1], 0.0)) and math.isnan(paired_p([0.1, 0.1], 0.0))


# ---------------------------------------------------------------- comparing


def finished(folder: Path, config: RunConfig, value: float, scenario: Scenario | None = None) -> Path:
    """A run folder with what a comparison reads of it."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config))
    score = {"value": value, "low": None, "high": None}
    main = {"pooled": score, "within_site": score, "site_only": score, "sites": {"a": value, "b": None}}
    (folder / "evaluation.json").write_text(json.dumps({"auroc": main, "auprc": {"pooled": score}}))
    line = {
        "site": "a",
        "bytes_up": 10**6,
        "bytes_down": 2 * 10**6,
        "metrics": {"auroc": value},
        "released": {},
    }
    record = {
        "train": [line],
        "evaluate": [line],
        "train_seconds": 1.5,
        "evaluate_seconds": 0.5,
        "changed": True,
    }
    rounds = [json.dumps({"round": number, **record}) for number in (1, 2)]
    (folder / "rounds.jsonl").write_text("\n".join(rounds) + "\n")
    if scenario is not None:
        (folder / "scenario.toml").write_text(scenario.to_toml())
    return folder


def some_runs(folder: Path) -> list[Path]:
    runs = []
    for name, bonus in (("iid", 0.1), ("label-skew", 0.0)):
        for seed in range(3):
            config = resolve(None, [f"training.seed={seed}", "privacy.enabled=false"]).config
            value = 0.7 + bonus + 0.01 * seed + 0.004 * (seed == 1) * bool(bonus)
            runs.append(finished(folder / f"{name}{seed}", config, value, read_scenario(name)))
    return runs


def test_runs_are_grouped_by_setting_and_paired_by_seed(tmp_path: Path) -> None:
    runs = read_runs(some_runs(tmp_path))
    check_comparable(runs)
    iid, skewed = settings_of(runs)
    assert dict(skewed.differs) == {"scenario.name": "label-skew"} and list(iid.runs) == [0, 1, 2]
    assert iid.estimate("AUROC within sites").mean == pytest.approx(0.81 + 0.004 / 3)
    assert iid.costs()["MB up"] == 4 and iid.costs()["seconds"] == 4 and [n for n, _ in iid.curve()] == [1, 2]
    [found] = differences([iid, skewed], "AUROC within sites")
    assert found.estimate.mean == pytest.approx(-0.1 - 0.004 / 3) and found.corrected == found.p < 0.01
    page = compare_page(runs)
    assert (
        "6 runs of 2 settings" in page
        and "Holm" in page
        and "Nadeau" in page
        and "scenario label-skew" in page
    )
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_a_run_of_an_earlier_version_lacks_scores(tmp_path: Path) -> None:
    paths = some_runs(tmp_path)
    before = json.loads((paths[3] / "evaluation.json").read_text())
    (paths[3] / "evaluation.json").write_text(json.dumps({"auroc": before["auroc"]}))
    runs = read_runs([paths[3], paths[0]])
    older, newer = settings_of(runs)
    assert math.isnan(older.estimate("auprc").mean) and newer.estimate("auprc").mean == pytest.approx(0.8)
    assert math.isnan(differences([older, newer], "auprc")[0].estimate.mean)
    assert "auprc" in compare_page(runs)


def test_what_cannot_be_compared_is_named(mmmed: Command, tmp_path: Path) -> None:
    first = some_runs(tmp_path)[0]
    other = resolve(None, ["data.test_fraction=0.3", "privacy.enabled=false"]).config
    with pytest.raises(
        RunError, match=r"data\.test_fraction is '0\.25' in the first and '0\.3' in the second"
    ):
        check_comparable(read_runs([first, finished(tmp_path / "other", other, 0.5)]))
    even = finished(tmp_path / "even", read_runs([first])[0].config, 0.5, read_scenario("feature-skew"))
    with pytest.raises(RunError, match=r"scenario\.same_labels"):
        check_comparable(read_runs([first, even]))
    with pytest.raises(RunError, match="same seed 0"):
        settings_of(read_runs([first, first]))
    (tmp_path / "empty").mkdir()
    code, _, err = mmmed("simulate", "compare", tmp_path / "empty")
    assert code == 2 and "holds no run" in err
    for damaged in ("{}", '{"auroc": {"sites": {}}}', '{"auroc": {"sites": {"a": "x"}}}', "[]"):
        (first / "evaluation.json").write_text(damaged)
        assert "is damaged" in mmmed("simulate", "compare", first)[2]
    (first / "evaluation.json").unlink()
    assert "--resume" in mmmed("simulate", "compare", first)[2]
    (tmp_path / "sweep" / "runs").mkdir(parents=True)
    assert "no finished run yet" in mmmed("simulate", "compare", tmp_path / "sweep")[2]


# ---------------------------------------------------------------- pictures


def test_curves_are_those_of_the_predictions() -> None:
    from mmmed.inference.predict import Predictions

    target = resolve().config.task.target()
    score, label = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])
    one = Predictions("a", np.arange(4), label, np.stack([1 - score, score], axis=1), np.array([0.5, 0.5]))
    chance, curve = roc(target, [one]).lines
    assert chance.dashed and list(curve.points) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]
    plot = calibration(target, [one])
    assert [y for _, y in plot.lines[1].points] == [0, 0, 1, 1]
    only_one_kind = Predictions("a", np.arange(2), np.zeros(2), np.full((2, 2), 0.5), np.array([0.5, 0.5]))
    assert len(roc(target, [only_one_kind]).lines) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_an_axis_holds_its_values(values: list[float]) -> None:
    axis = around(values, "x", within=(0, 1))
    assert 0 <= axis.low <= min(values) and max(values) <= axis.high <= 1 and axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 13
