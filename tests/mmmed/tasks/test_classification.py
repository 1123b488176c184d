from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from mmmed.tasks import Classification
from mmmed.tasks.base import Target
from mmmed.tasks.measures import f1_chosen

TABLE = Path("data.csv")


def of(classes: int) -> Target:
    return Classification(classes=tuple(map(str, range(classes)))).target()


def test_losses_are_the_cross_entropy_of_each_record() -> None:
    label = torch.tensor([0, 1, 1])
    one, three = torch.randn(3, 1), torch.randn(3, 3)
    expected = [-torch.log(torch.sigmoid(z if y else -z)) for z, y in zip(one[:, 0], label, strict=True)]
    torch.testing.assert_close(of(2).losses(one, label), torch.stack(expected))
    expected = [-torch.log_softmax(z, 0)[y] for z, y in zip(three, label, strict=True)]
    torch.testing.assert_close(of(3).losses(three, label), torch.stack(expected))


@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (4, 4)])
def test_probabilities_sum_to_one_and_follow_the_logits(classes: int, outputs: int) -> None:
    target, logits = of(classes), torch.randn(5, outputs)
    assert target.outputs == outputs
    probability = target.predictions(logits)
    assert probability.shape == (5, classes)
    torch.testing.assert_close(probability.sum(1), torch.ones(5))
    if outputs == 1:
        torch.testing.assert_close(probability[:, 1], torch.sigmoid(logits[:, 0]))
    else:
        assert torch.equal(probability.argmax(1), logits.argmax(1))


def pair_count(score: np.ndarray, positive: np.ndarray) -> float:
    """The definition: the share of (positive, negative) pairs that are ranked right."""
    pairs = list(itertools.product(score[positive], score[~positive]))
    return float(np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]))


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.integers(0, 1)), min_size=2, max_size=20))
def test_auroc_counts_pairs(rows: list[tuple[float, int]]) -> None:
    score = np.array([[1 - s, s] for s, _ in rows])
    label = np.array([y for _, y in rows])
    found = of(2).scores(score, label)["auroc"]
    if len(set(label)) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(pair_count(score[:, 1], label == 1))


def test_more_classes_average_one_versus_rest() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60)
    found = of(3).scores(score, label)
    assert found["auroc"] == pytest.approx(roc_auc_score(label, score, multi_class="ovr"))
    assert found["loss"] == pytest.approx(log_loss(label, score))
    shares = [(label == k).mean() - score[:, k].mean() for k in range(3)]
    assert found["calibration"] == pytest.approx(np.mean(np.abs(shares)))


def test_calibration_of_two_classes_has_a_sign() -> None:
    score = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert of(2).scores(score, np.array([0, 1, 1, 1]))["calibration"] == pytest.approx(0.75 - 0.3)


def test_within_sites_only_pairs_of_a_site_count() -> None:
    probability = np.array([0.1, 0.2, 0.8, 0.7, 0.9, 0.6])
    score = np.stack([1 - probability, probability], axis=1)
    label, site = np.array([0, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 1])
    pairs = [(p, n) for p in range(6) for n in range(6) if label[p] > label[n] and site[p] == site[n]]
    expected = np.mean([probability[p] > probability[n] for p, n in pairs])
    assert of(2).within_sites(score, label, site) == pytest.approx(expected)
    assert np.isnan(of(2).within_sites(score[:1], label[:1], site[:1]))


def test_labels_are_the_classes_however_they_are_written() -> None:
    target = Classification(label="grade", classes=("1", "2", "high")).target()
    cells = pd.DataFrame({"grade": [" high", "2.0", 1, "1"]}, index=[4, 6, 7, 9])
    found = target.labels(cells, TABLE, pytest.fail)
    assert found.to_dict() == {4: 2, 6: 1, 7: 0, 9: 0} and found.dtype == "int64"
    told: list[str] = []
    found = target.labels(cells.replace("2.0", "3"), TABLE, told.append)
    assert found.to_dict() == {4: 2, 7: 0, 9: 0}
    (words,) = told
    assert "'grade' holds '3' in row 7, outside task.classes ['1', '2', 'high']" in words


def test_a_guess_is_the_share_of_each_class_and_a_confidence_the_log_odds() -> None:
    target = of(3)
    np.testing.assert_allclose(target.guess(np.array([0, 0, 1, 0])), [0.75, 0.25, 0])
    probability = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    confident = target.confidences(probability, np.array([2, 0]))
    assert confident[0] == pytest.approx(np.log(0.2 / 0.8)) and np.isfinite(confident[1])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=14))
def test_f1_is_of_a_threshold_that_was_the_best_of_the_other_half(rows: list[tuple[int, bool, bool]]) -> None:
    score, yes, half = (np.array(column) for column in zip(*rows, strict=True))
    score = score / 4

    def f1_at(least: float, own: np.ndarray) -> float:
        said = score[own] >= least
        return 2 * (said & yes[own]).sum() / (said.sum() + yes[own].sum())

    found = f1_chosen(score, yes, half)
    if not (yes[half].any() and yes[~half].any()):
        assert np.isnan(found)
        return
    best = {
        side: max(
            sorted(set(score[half == side]), reverse=True), key=lambda least: f1_at(least, half == side)
        )
        for side in (False, True)
    }
    said = score >= np.where(half, best[False], best[True])
    assert found == pytest.approx(2 * (said & yes).sum() / (said.sum() + yes.sum()))
