from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mmmed.inference.evaluate import auroc, evaluate
from mmmed.inference.predict import Predictions


def pair_count(score: np.ndarray, positive: np.ndarray) -> float:
    """The definition: the share of (positive, negative) pairs that are ranked right."""
    pairs = list(itertools.product(score[positive], score[~positive]))
    return float(np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]))


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.integers(0, 1)), min_size=2, max_size=20))
def test_auroc_counts_pairs(rows: list[tuple[float, int]]) -> None:
    score = np.array([[1 - s, s] for s, _ in rows])
    label = np.array([y for _, y in rows])
    if len(set(label)) < 2:
        assert np.isnan(auroc(score, label))
    else:
        assert auroc(score, label) == pytest.approx(pair_count(score[:, 1], label == 1))


def test_more_classes_average_one_versus_rest() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60)
    assert auroc(score, label) == pytest.approx(roc_auc_score(label, score, multi_class="ovr"))


def site(name: str, prevalence: float, signal: float, n: int, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < prevalence).astype(np.int64)
    score = 1 / (1 + np.exp(-(signal * label + rng.normal(size=n) + 3 * prevalence)))
    shares = np.array([1 - prevalence, prevalence])
    return Predictions(name, np.arange(n) // 2, label, np.stack([1 - score, score], 1), shares)


def test_a_model_that_knows_only_the_site_is_unmasked() -> None:
    result = evaluate([site("a", 0.1, 0.0, 400, 1), site("b", 0.7, 0.0, 400, 2)], resamples=200)
    assert result.pooled.value > 0.65
    assert result.site_only.value > 0.7
    assert result.within_site.low < 0.5 < result.within_site.high
    assert set(result.sites) == {"a", "b"}


def test_the_interval_covers_and_widens_when_records_repeat() -> None:
    one = site("a", 0.5, 1.0, 200, 3)
    fourfold = Predictions(
        "a", np.tile(one.patient, 4), np.tile(one.label, 4), np.tile(one.probability, (4, 1)), one.prevalence
    )
    single, repeated = evaluate([one], resamples=400).pooled, evaluate([fourfold], resamples=400).pooled
    assert single.low < single.value < single.high
    # copies of a patient's records bring no information: the interval must not shrink by half
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=0.25)


def test_a_site_of_one_class_has_no_auroc_and_does_not_break_the_rest() -> None:
    result = evaluate([site("a", 0.5, 1.0, 100, 4), site("b", 1.0, 1.0, 50, 5)], resamples=50)
    assert np.isnan(result.sites["b"])
    assert result.within_site.value == pytest.approx(result.sites["a"])
    assert str(evaluate([site("b", 1.0, 1.0, 20, 6)], resamples=10).pooled) == "-"
