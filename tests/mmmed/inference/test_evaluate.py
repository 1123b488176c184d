from __future__ import annotations

import numpy as np
import pytest

from mmmed.inference.evaluate import evaluate
from mmmed.inference.predict import Predictions
from mmmed.tasks import Classification

CLASSES = Classification().target()


def site(name: str, prevalence: float, signal: float, n: int, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < prevalence).astype(np.int64)
    score = 1 / (1 + np.exp(-(signal * label + rng.normal(size=n) + 3 * prevalence)))
    shares = np.array([1 - prevalence, prevalence])
    return Predictions(name, np.arange(n) // 2, label, np.stack([1 - score, score], 1), shares)


def test_a_model_that_knows_only_the_site_is_unmasked() -> None:
    result = evaluate(CLASSES, [site("a", 0.1, 0.0, 400, 1), site("b", 0.7, 0.0, 400, 2)], resamples=200)
    assert result.pooled.value > 0.65
    assert result.site_only.value > 0.7
    assert result.within_site.low < 0.5 < result.within_site.high
    assert set(result.sites) == {"a", "b"}


def test_the_interval_covers_and_widens_when_records_repeat() -> None:
    one = site("a", 0.5, 1.0, 200, 3)
    fourfold = Predictions(
        "a", np.tile(one.patient, 4), np.tile(one.label, 4), np.tile(one.prediction, (4, 1)), one.guess
    )
    single, repeated = (evaluate(CLASSES, [some], resamples=400).pooled for some in (one, fourfold))
    assert single.low < single.value < single.high
    # copies of a patient's records bring no information: the interval must not shrink by half
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=0.25)


def test_a_site_of_one_class_has_no_auroc_and_does_not_break_the_rest() -> None:
    result = evaluate(CLASSES, [site("a", 0.5, 1.0, 100, 4), site("b", 1.0, 1.0, 50, 5)], resamples=50)
    assert np.isnan(result.sites["b"])
    assert result.within_site.value == pytest.approx(result.sites["a"])
    assert str(evaluate(CLASSES, [site("b", 1.0, 1.0, 20, 6)], resamples=10).pooled) == "-"
