"""Measures of yes and no against scikit-learn's, with ties and where they are undefined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from mmmed.tasks.measures import area_within, average_precision, brier, calibration_error, f1

ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.50001, 0.9, 1.0]), st.booleans()), min_size=2, max_size=20
)


@given(ROWS)
def test_measures_are_scikit_learns(rows: list[tuple[float, bool]]) -> None:
    score, positive = np.array([s for s, _ in rows]), np.array([y for _, y in rows])
    assert brier(score, positive) == pytest.approx(brier_score_loss(positive, score, pos_label=True))
    if positive.any():
        assert average_precision(score, positive) == pytest.approx(average_precision_score(positive, score))
        assert f1(score, positive) == pytest.approx(f1_score(positive, score > 0.5))


def test_calibration_error_is_the_gap_of_each_bin_by_its_share() -> None:
    score = np.array([0.05, 0.05, 0.95, 1.0])
    positive = np.array([False, True, True, True])
    assert calibration_error(score, positive) == pytest.approx(0.5 * (0.5 - 0.05) + 0.5 * (1 - 0.975))


def test_what_is_undefined_is_no_number() -> None:
    nobody, none = np.zeros(0), np.zeros(0, dtype=bool)
    for measure in (average_precision, f1, brier, calibration_error):
        assert np.isnan(measure(nobody, none))
    assert np.isnan(average_precision(np.array([0.2, 0.8]), np.array([False, False])))


def test_an_area_within_sites_compares_no_two_sites() -> None:
    rng = np.random.default_rng(0)
    site, positive = np.repeat([0, 1], 50), rng.random(100) < 0.4
    score = 0.5 * site + 0.4 * rng.random(100)
    parts = [roc_auc_score(positive[site == one], score[site == one]) for one in (0, 1)]
    pairs = [positive[site == one].sum() * (~positive[site == one]).sum() for one in (0, 1)]
    assert area_within(score, positive, site) == pytest.approx(np.average(parts, weights=pairs))
