"""Calibration and doubt from tables: against fits and thresholds on the scores themselves, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from privacy.metrics import Calibration, calibrate
from privacy.metrics.release import edges, exact_tables


def made_up(
    patients: int, *, temperature: float, shift: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1) probabilities of a model that is off by a temperature and a shift, and what is true."""
    rng = np.random.default_rng(seed)
    z = np.clip(rng.normal(-0.3, 1.2, patients), -3, 3)
    true = rng.random(patients) < 1 / (1 + np.exp(-(z / temperature + shift)))
    return 1 / (1 + np.exp(-z))[:, None], true.astype(float)[:, None]


def tables_of(scores: np.ndarray, labels: np.ndarray, std: float = 0.0, seed: int = 0) -> np.ndarray:
    exact = exact_tables(scores, labels, np.arange(len(scores)))
    return exact + np.random.default_rng(seed).normal(0, std or 1e-12, exact.shape)


def fitted(tables: np.ndarray, std: float = 0.0) -> Calibration:
    found = calibrate(tables, std)
    assert isinstance(found, Calibration), found
    return found


@pytest.mark.parametrize(("temperature", "shift"), [(1.0, 0.0), (2.5, -0.8), (0.6, 0.5)])
def test_the_fit_is_that_of_a_logistic_regression_on_the_scores(temperature: float, shift: float) -> None:
    scores, labels = made_up(20_000, temperature=temperature, shift=shift)
    found = fitted(tables_of(scores, labels))
    z = np.log(scores / (1 - scores))
    oracle = LogisticRegression(C=1e9).fit(z, labels[:, 0])
    assert 1 / found.temperature == pytest.approx(float(oracle.coef_[0, 0]), abs=0.03)
    assert found.shifts[0] == pytest.approx(float(oracle.intercept_[0]), abs=0.03)
    assert found.patients == pytest.approx(20_000)
    asked = np.array([0.2])
    value, low, high = found.corrected(asked)
    assert low < value < high and value == pytest.approx(
        oracle.predict_proba(np.log(asked / (1 - asked))[None])[0, 1], abs=0.01
    )


def test_the_interval_of_the_correction_holds_the_truth_in_most_draws() -> None:
    std, asked = 4.0, np.array([0.15])
    truth = 1 / (1 + np.exp(-(np.log(0.15 / 0.85) / 2 + 0.4)))
    held = 0
    for seed in range(60):
        scores, labels = made_up(3000, temperature=2, shift=0.4, seed=seed)
        _, low, high = fitted(tables_of(scores, labels, std, seed), std).corrected(asked)
        held += int(low[0] <= truth <= high[0])
    assert held >= 52  # of 60, of which 57 are expected


def test_without_noise_the_thresholds_are_those_of_split_conformal_prediction() -> None:
    scores, labels = made_up(1000, temperature=1, shift=0)
    found, limits, share = fitted(tables_of(scores, labels)), edges(20), 0.1
    for asked in np.linspace(0.01, 0.99, 60):
        bin_of = np.digitize(asked, limits[1:-1])
        no, yes = (np.digitize(scores[labels[:, 0] == one, 0], limits[1:-1]) for one in (0, 1))
        # the p-value of each answer: the share of its patients, and this one, that are no more typical of it
        p_yes, p_no = (1 + (yes <= bin_of).sum()) / (1 + len(yes)), (1 + (no >= bin_of).sum()) / (1 + len(no))
        expected = [p_no > share, p_yes > share]
        assert found.possible(np.array([asked]), 1 - share)[0].tolist() == (
            expected if any(expected) else [True, True]
        )


def test_the_true_answer_is_among_the_possible_as_often_as_it_is_said() -> None:
    level, std = 0.9, 3.0
    new, truth = made_up(4000, temperature=1.5, shift=0.3, seed=10_001)
    short = 0
    for seed in range(40):
        scores, labels = made_up(1500, temperature=1.5, shift=0.3, seed=seed)
        found = fitted(tables_of(scores, labels, std, seed), std)
        grid = np.array([found.possible(np.array([p]), level)[0] for p in _of_bins()])
        held = grid[np.digitize(new[:, 0], edges(20)[1:-1]), truth[:, 0].astype(int)]
        short += int(min(held[truth[:, 0] == one].mean() for one in (0, 1)) < level - 0.02)
    assert short <= 5  # of 40: two are expected at most


def test_something_is_excluded_and_never_everything() -> None:
    scores, labels = made_up(5000, temperature=0.4, shift=0)
    found = fitted(tables_of(scores, labels))
    grid = np.array([found.possible(np.array([p]), 0.9)[0] for p in _of_bins()])
    assert grid.any(axis=1).all() and not grid.all()
    assert grid[0].tolist() == [True, False] and grid[-1].tolist() == [False, True]


def test_several_questions_have_one_temperature_and_a_shift_each() -> None:
    parts = [made_up(6000, temperature=2, shift=shift, seed=seed) for seed, shift in enumerate((-0.6, 0.9))]
    found = fitted(tables_of(*(np.concatenate([one[i] for one in parts], axis=1) for i in (0, 1))))
    assert found.temperature == pytest.approx(2, rel=0.1)
    np.testing.assert_allclose(found.shifts, (-0.6, 0.9), atol=0.1)


def test_what_cannot_be_calibrated_says_why() -> None:
    scores, labels = made_up(100, temperature=1, shift=0)
    assert "too few patients" in str(calibrate(tables_of(scores, labels), 0.1))
    scores, labels = made_up(300, temperature=1, shift=0)
    assert "noise" in str(calibrate(tables_of(scores, labels, 20), 20))
    rng = np.random.default_rng(0)
    useless = rng.random((1000, 1)), (rng.random((1000, 1)) < 0.5).astype(float)
    assert "do not show" in str(calibrate(tables_of(*useless), 0.1))


def _of_bins() -> np.ndarray:
    limits = edges(20)
    middles: np.ndarray = (limits[:-1] + limits[1:]) / 2
    return middles
