"""The noised counts: bounded by brute force, unbiased, and with errors that are as large as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier, epsilon
from privacy.errors import NoiseError
from privacy.metrics import BINS, concordance, errors, estimate, evaluation_event, release_kind, sensitivity
from privacy.metrics.release import EQUAL_BINS, edges


def asked(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities (N, K) and indices (N,) as each class against the rest; of two the second alone."""
    classes = np.array([1]) if score.shape[1] == 2 else np.arange(score.shape[1])
    return score[:, classes], (label[:, None] == classes).astype(float)


def exact_tables(score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
    questions = asked(score, label)
    return release_kind("tables", questions[0].shape[1]).exact(*questions, patient)


def private_tables(score: np.ndarray, label: np.ndarray, patient: np.ndarray, noise: float) -> np.ndarray:
    questions = asked(score, label)
    return release_kind("tables", questions[0].shape[1]).private(*questions, patient, noise)


def tables_shape(classes: int) -> tuple[int, int, int]:
    return release_kind("tables", 1 if classes == 2 else classes).shape


def cohort(classes: int, patients: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, label, patient) of patients with one to five records each."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    label = rng.integers(0, classes, len(patient))
    score = rng.dirichlet(np.ones(classes), len(patient)) + 0.5 * np.eye(classes)[label]
    return score / score.sum(axis=1, keepdims=True), label, patient


@settings(max_examples=100, deadline=None)
@given(classes=st.integers(2, 5), patients=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_no_patient_moves_the_tables_by_more_than_the_sensitivity(
    classes: int, patients: int, seed: int
) -> None:
    score, label, patient = cohort(classes, patients, seed)
    whole = exact_tables(score, label, patient)
    assert whole.shape == tables_shape(classes)
    assert whole.sum() == pytest.approx(patients * len(whole))
    for gone in range(patients):
        rest = patient != gone
        codes = np.unique(patient[rest], return_inverse=True)[1]
        moved = np.linalg.norm(whole - exact_tables(score[rest], label[rest], codes))
        assert moved <= sensitivity(len(whole)) * (1 + 1e-12)


def test_the_sensitivity_is_reached() -> None:
    for classes in (2, 4):
        score, label, patient = np.eye(classes)[[0]], np.array([0]), np.array([0])
        tables = exact_tables(score, label, patient)
        assert np.linalg.norm(tables) == pytest.approx(sensitivity(len(tables)))


def test_the_noise_is_that_of_the_event_and_fresh() -> None:
    score, label, patient = cohort(3, 20, 0)
    exact = exact_tables(score, label, patient)
    noise = np.stack([private_tables(score, label, patient, 2.0) - exact for _ in range(400)])
    assert noise.std() == pytest.approx(2.0 * math.sqrt(3), rel=0.03)
    assert abs(noise.mean()) < 0.05 and len(np.unique(noise)) > 0.9 * noise.size
    assert evaluation_event(2.0) == DpSgdEvent(2.0, 1.0, 1)
    assert epsilon([evaluation_event(5.0)], 1e-5) == pytest.approx(0.73, abs=0.01)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_a_score_that_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(NoiseError):
        private_tables(np.array([[1 - bad, bad]]), np.array([0]), np.array([0]), 1.0)


def auroc_by_pairs(score: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """The oracle: every pair, weighted."""
    won = total = 0.0
    for s, w in zip(score[label], weight[label], strict=True):
        others, weights = score[~label], weight[~label]
        won += w * (weights * ((others < s) + 0.5 * (others == s))).sum()
        total += w * weights.sum()
    return float(won / total)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_stated_error_covers_the_truth(classes: int) -> None:
    patients = 250 * classes  # fewer of a class, and the noise now and then hides whether there is any
    score, label, patient = cohort(classes, patients, 1)
    weight = 1 / np.bincount(patient)[patient]
    columns = [1] if classes == 2 else range(classes)
    truth = float(np.mean([auroc_by_pairs(score[:, k], label == k, weight) for k in columns]))
    share = np.array([weight @ (label == k) - weight @ score[:, k] for k in columns]) / patients
    off = share[0] if classes == 2 else np.abs(share).mean()
    sigma = calibrate_noise_multiplier(1.0, 1e-4, 1.0, 1)
    std = sigma * sensitivity(tables_shape(classes)[0])
    binned = estimate(exact_tables(score, label, patient), 1e-9)
    assert binned.auroc is not None and binned.bin_error is not None
    assert abs(binned.auroc - truth) <= binned.bin_error
    found = [estimate(private_tables(score, label, patient, sigma), std) for _ in range(300)]
    assert not any(one.refused for one in found)
    # the noise's own error, without the bins' bound, is as large as stated
    scaled = np.array([(one.auroc - binned.auroc) / one.noise_error for one in found])  # type: ignore[operator]
    assert 0.8 < scaled.std() < 1.2 and abs(scaled.mean()) < 0.3
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.95  # type: ignore[operator]
    if classes == 2:
        reached = [abs(one.calibration - off) <= one.calibration_error for one in found]  # type: ignore[operator]
        assert np.mean(reached) >= 0.95
        for one in found[:5]:
            for middle, observed, error in one.reliability[0]:
                limits = edges(BINS)
                low = np.flatnonzero(limits < middle)[-1]
                inside = (limits[low] <= score[:, 1]) & (score[:, 1] < limits[low + 1])
                true_share = weight[inside] @ (label[inside] == 1) / weight[inside].sum()
                assert abs(observed - true_share) < 5 * error


def test_noise_that_moves_a_share_to_the_middle_does_not_shrink_its_error() -> None:
    table = np.zeros((1, 2, BINS))
    table[0, :, 0] = 500.0
    table[0, :, 4] = 4.3, 6.0  # a bin where all are positive, as it looks when the noise adds negatives
    middle = edges(BINS)[4:6].mean()
    ((share, error),) = [
        row[1:] for row in estimate(table, 1.0).reliability[0] if row[0] == pytest.approx(middle)
    ]
    assert share < 0.6 and abs(share - 1) < 4.31 * error


@pytest.mark.parametrize("centre", [-1.6, -0.4, 1.0])
def test_scores_that_crowd_are_told_apart_better_than_by_equal_bins(centre: float) -> None:
    """As a model has them that has learnt little: within a logit around the log-odds of the finding."""
    rng = np.random.default_rng(3)
    label = (rng.random(2000) < 0.3).astype(int)
    positive = 1 / (1 + np.exp(-(centre + 0.3 * rng.normal(size=2000) + 0.4 * label)))
    score, patient = np.stack([1 - positive, positive], axis=1), np.arange(2000)
    truth = auroc_by_pairs(positive, label == 1, np.ones(2000))
    found = estimate(exact_tables(score, label, patient), 1e-9)
    limits = edges(EQUAL_BINS)
    equal = estimate(np.stack([np.histogram(positive[label == k], limits)[0] for k in (0, 1)])[None], 1e-9)
    assert found.auroc is not None and found.bin_error is not None and equal.bin_error is not None
    assert abs(found.auroc - truth) <= found.bin_error < 0.9 * equal.bin_error
    off = label.mean() - positive.mean()
    assert found.calibration is not None and found.calibration_error is not None
    assert abs(found.calibration - off) <= found.calibration_error < 0.06


@given(st.floats(0.0, 1.0))
def test_every_score_falls_into_the_bin_that_its_edges_name(score: float) -> None:
    (cell,) = np.flatnonzero(exact_tables(np.array([[1 - score, score]]), np.array([1]), np.array([0]))[0, 1])
    limits = edges(BINS)
    assert limits[cell] <= score and (score < limits[cell + 1] or score == 1)
    assert len(limits) == BINS + 1 and (np.diff(limits) > 0).all()
    np.testing.assert_allclose(
        limits, 1 - limits[::-1]
    )  # which of two classes is called positive makes no odds


def test_too_few_patients_or_too_much_noise_tell_nothing() -> None:
    score, label, patient = cohort(2, 199, 2)
    few = estimate(exact_tables(score, label, patient), 1e-9)
    assert few.refused == "few-patients" and few.auroc is None
    score, label, patient = cohort(2, 300, 2)
    assert estimate(exact_tables(score, label, patient), 1e-9).refused is None
    assert estimate(exact_tables(score, label, patient), 30.0).refused == "noise"
    alone = exact_tables(score, np.zeros_like(label), patient)
    assert estimate(alone, 1e-9).refused == "noise"


# ---------------------------------------------------------------- what is not known, numbers, times


def test_a_patient_whose_answer_is_not_known_adds_nothing_to_its_table() -> None:
    label = np.array([[1, math.nan], [0, math.nan], [math.nan, 1]])
    tables = release_kind("tables", 2).exact(np.full((3, 2), 0.5), label, np.array([0, 0, 1]))
    assert tables.sum(axis=(1, 2)).tolist() == [1, 1] and tables[0, 1].sum() == 0.5
    with pytest.raises(NoiseError, match="neither 0 nor 1"):
        release_kind("tables", 1).exact(np.array([[0.5]]), np.array([[2.0]]), np.array([0]))


def numbers(patients: int, seed: int, unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and truths, shares of the range, `unit` the spread of both, and whose."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    true = np.clip(rng.random((len(patient), 1)) * unit, 0, 1)
    predicted = np.clip(true + rng.normal(0, 0.1, true.shape), 0, 1)
    return predicted, np.where(rng.random(true.shape) < 0.1, math.nan, true), patient


@settings(max_examples=50, deadline=None)
@given(patients=st.integers(2, 6), seed=st.integers(0, 10**6), unit=st.sampled_from([0.0, 1.0, 50.0]))
def test_no_patient_moves_the_sums_of_errors_by_more_than_the_sensitivity(
    patients: int, seed: int, unit: float
) -> None:
    kind, (predicted, true, patient) = release_kind("errors", 1), numbers(patients, seed, unit)
    for gone in range(patients):
        rest = patient != gone
        codes = np.unique(patient[rest], return_inverse=True)[1]
        moved = kind.exact(predicted, true, patient) - kind.exact(predicted[rest], true[rest], codes)
        assert np.linalg.norm(moved) <= kind.sensitivity


def test_the_sensitivity_of_errors_is_reached_and_no_value_out_of_range_is_summed() -> None:
    kind, one = release_kind("errors", 1), np.array([0])
    worst = kind.exact(np.array([[1.0]]), np.array([[0.0]]), one)
    assert np.linalg.norm(worst) == pytest.approx(kind.sensitivity) == pytest.approx(math.hypot(*errors.MOST))
    for predicted, true in ((1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)):
        with pytest.raises(NoiseError):
            kind.exact(np.array([[predicted]]), np.array([[true]]), one)


def test_the_stated_errors_cover_the_mean_error_and_r2() -> None:
    kind, (predicted, true, patient) = release_kind("errors", 1), numbers(600, 1, 1.0)
    known = ~np.isnan(true[:, 0])
    weight = 1 / np.bincount(patient[known])[patient[known]]
    p, y = predicted[known, 0], true[known, 0]
    mae = np.average(np.abs(p - y), weights=weight)
    mean = np.average(y, weights=weight)
    r2 = 1 - (weight @ (p - y) ** 2) / (weight @ (y - mean) ** 2)
    exact = kind.estimate(kind.exact(predicted, true, patient), 1e-9)
    assert exact.scores["mae"][0] == pytest.approx(mae) and exact.scores["r2"][0] == pytest.approx(r2)
    sigma = 3.0
    found = [
        kind.estimate(kind.private(predicted, true, patient, sigma), sigma * kind.sensitivity).scores
        for _ in range(300)
    ]
    for name, truth in (("mae", mae), ("r2", r2)):
        assert np.mean([one[name][1] <= truth <= one[name][2] for one in found]) >= 0.92
    assert np.std([one["mae"][0] for one in found]) == pytest.approx(
        kind.estimate(kind.even(600), sigma * kind.sensitivity).noise_error, rel=0.25
    )
    assert kind.estimate(kind.exact(*numbers(100, 0, 1.0)), 1e-9).refused == "few-patients"
    assert "r2" not in kind.estimate(kind.exact(*numbers(600, 0, 0.0)), 3.0).scores  # all truths are one


def times(patients: int, seed: int, intervals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    interval = rng.integers(0, intervals + 1, (len(patient), 1))
    event = (rng.random(interval.shape) < 0.6) & (interval < intervals)
    risk = np.clip(0.7 - 0.1 * interval + rng.normal(0, 0.15, interval.shape), 0, 1)
    return risk, (2 * interval + event).astype(float), patient


def c_index_by_pairs(risk: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """The oracle: every pair of which one had the event in an earlier interval, weighted."""
    won = total = 0.0
    for r, code, w in zip(risk, label, weight, strict=True):
        later = label // 2 > code // 2 if code % 2 else np.zeros(len(label), bool)
        won += w * (weight * later * ((risk < r) + 0.5 * (risk == r))).sum()
        total += w * (weight * later).sum()
    return float(won / total)


@settings(max_examples=50, deadline=None)
@given(patients=st.integers(2, 6), seed=st.integers(0, 10**6), intervals=st.integers(1, 5))
def test_no_patient_moves_the_counts_of_times_by_more_than_the_sensitivity(
    patients: int, seed: int, intervals: int
) -> None:
    kind, (risk, label, patient) = release_kind("concordance", intervals), times(patients, seed, intervals)
    whole = kind.exact(risk, label, patient)
    assert whole.shape == kind.shape and whole.sum() == pytest.approx(patients)
    for gone in range(patients):
        rest = patient != gone
        codes = np.unique(patient[rest], return_inverse=True)[1]
        moved = np.linalg.norm(whole - kind.exact(risk[rest], label[rest], codes))
        assert moved <= kind.sensitivity * (1 + 1e-12)
    with pytest.raises(NoiseError, match="no interval"):
        kind.exact(risk, label + 2 * intervals + 2, patient)


def test_the_stated_error_covers_the_c_index() -> None:
    kind, (risk, label, patient) = release_kind("concordance", 4), times(600, 1, 4)
    weight = 1 / np.bincount(patient)[patient]
    truth = c_index_by_pairs(risk[:, 0], label[:, 0], weight)
    binned = kind.estimate(kind.exact(risk, label, patient), 1e-9)
    value, low, high = binned.scores["c_index"]
    assert low <= truth <= high and abs(value - truth) < 0.02
    sigma = 2.0
    found = [kind.estimate(kind.private(risk, label, patient, sigma), sigma) for _ in range(300)]
    scaled = np.array([(one.scores["c_index"][0] - value) / one.noise_error for one in found])
    assert 0.8 < scaled.std() < 1.2 and abs(scaled.mean()) < 0.3
    assert np.mean([one.scores["c_index"][1] <= truth <= one.scores["c_index"][2] for one in found]) >= 0.95
    few = times(150, 0, 4)
    assert kind.estimate(kind.exact(*few), 1e-9).refused == "few-patients"
    nobody = np.zeros_like(kind.exact(risk, label, patient))
    nobody[-1, 0] = 100.0  # all passed the last border: no pair
    assert concordance.estimate(nobody, 1.0).refused == "noise"


def test_the_mean_agreement_is_that_of_patients_and_its_stated_error_covers_it() -> None:
    kind, rng = release_kind("agreement", 1), np.random.default_rng(0)
    patient = np.repeat(np.arange(600), rng.integers(1, 4, 600))
    agreement, known = rng.beta(2, 1, (len(patient), 1)), np.ones((len(patient), 1))
    truth = np.mean([agreement[patient == one].mean() for one in range(600)])
    exact = kind.exact(agreement, known, patient)
    assert exact.shape == kind.shape and kind.sensitivity == pytest.approx(np.sqrt(1.25))
    assert kind.estimate(exact, 1e-9).scores["agreement"][0] == pytest.approx(truth)
    std = 3.0 * kind.sensitivity
    found = [kind.estimate(kind.private(agreement, known, patient, 3.0), std) for _ in range(300)]
    assert (
        np.mean([one.scores["agreement"][1] <= truth <= one.scores["agreement"][2] for one in found]) >= 0.92
    )
    for best in (0.0, 1.0):  # of one patient: nobody moves the sum by more
        alone = kind.exact(np.full((3, 1), best), np.ones((3, 1)), np.zeros(3, dtype=int))
        assert np.linalg.norm(alone) == pytest.approx(kind.sensitivity)
    known[1:] = np.nan
    assert kind.estimate(kind.exact(agreement, known, patient), 1e-9).refused == "few-patients"
    with pytest.raises(NoiseError, match=r"not in \[0, 1\]"):
        kind.exact(agreement + 1, np.ones_like(known), patient)


def test_what_is_of_no_kind_is_refused() -> None:
    with pytest.raises(NoiseError, match="No kind of release is called 'means'"):
        release_kind("means", 1)
