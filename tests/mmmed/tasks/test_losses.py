"""Losses, predictions and scores of the tasks beside classification, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score, roc_auc_score

from mmmed.config import RunConfig, from_flat
from mmmed.errors import ConfigError
from mmmed.tasks import Classification, Multilabel, Ordinal, Regression, Several, Survival

NAN = math.nan
rng = np.random.default_rng(0)


# ---------------------------------------------------------------- classification


def test_a_class_weight_multiplies_and_the_focal_loss_counts_what_is_easy_less() -> None:
    label = torch.tensor([0, 1, 1])
    for classes, outputs in ((("0", "1"), torch.randn(3, 1)), (("a", "b", "c"), torch.randn(3, 3))):
        plain = Classification(classes=classes).target().losses(outputs, label)
        weights = (2.0, 0.5, 1.0)[: len(classes)]
        weighted = Classification(classes=classes, weights=weights).target().losses(outputs, label)
        torch.testing.assert_close(weighted, plain * torch.tensor([2.0, 0.5, 0.5]))
        focal = Classification(classes=classes, focal=2.0).target().losses(outputs, label)
        torch.testing.assert_close(focal, (1 - torch.exp(-plain)) ** 2 * plain)


def test_the_focal_loss_has_a_slope_where_a_record_is_certain() -> None:
    outputs = torch.tensor([[200.0]], requires_grad=True)
    loss = Classification(focal=0.5).target().losses(outputs, torch.tensor([1]))
    loss.sum().backward()
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("bad", [{"weights": (1.0,)}, {"weights": (1.0, -1.0)}, {"focal": -1.0}])
def test_weights_are_one_a_class_and_above_0(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Classification.model_validate(bad)


def test_resampling_by_label_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"must not follow from labels\. Weigh the loss with task\.weights"):
        from_flat({"training.oversample": True})


def test_keys_that_came_later_change_no_digest_until_they_are_used() -> None:
    assert RunConfig().digest == "cddfb5336a5aa0d5b16a270d1df0cde361bdd8242678d580dfe4fa7709fc57ce"
    assert RunConfig(task=Classification(focal=2.0)).digest != RunConfig().digest


# ---------------------------------------------------------------- multilabel


def test_a_label_that_is_not_known_has_no_part_in_loss_and_slope() -> None:
    target = Multilabel(labels=("a", "b", "c")).target()
    outputs = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, 1.0]])
    losses = target.losses(outputs, labels)
    one = -torch.log(torch.sigmoid(outputs[0, 0])) - torch.log(torch.sigmoid(-outputs[0, 2]))
    torch.testing.assert_close(losses[0], one / 3)
    losses.sum().backward()
    assert outputs.grad is not None
    assert ((outputs.grad == 0) == labels.isnan()).all()


def test_scores_are_the_mean_over_findings_of_those_that_are_known() -> None:
    target = Multilabel(labels=("a", "b", "c")).target()
    score, labels = rng.random((60, 3)), rng.integers(0, 2, (60, 3)).astype(np.float32)
    labels[rng.random((60, 3)) < 0.3] = NAN
    labels[:, 2] = 1  # of one kind: no area
    known = ~np.isnan(labels)
    areas = [roc_auc_score(labels[known[:, k], k], score[known[:, k], k]) for k in range(2)]
    assert target.scores(score, labels)["auroc"] == pytest.approx(np.mean(areas))
    np.testing.assert_allclose(target.guess(labels), np.nanmean(labels, axis=0), rtol=1e-6)
    labels[:, 1] = NAN
    assert target.guess(labels)[1] == 0.5


# ---------------------------------------------------------------- ordinal


def test_thresholds_are_in_order_and_probabilities_sum_to_one() -> None:
    target = Ordinal().target()
    outputs = 5 * torch.randn(50, 3)
    probability = target.predictions(outputs)
    assert (probability >= 0).all()
    torch.testing.assert_close(probability.sum(1), torch.ones(50))
    label = torch.randint(0, 4, (50,))
    above = 1 - probability.cumsum(1)[:, :3].clamp(1e-6, 1 - 1e-6)
    yes = (label[:, None] > torch.arange(3)).float()
    expected = F.binary_cross_entropy(above.clamp(1e-6, 1 - 1e-6), yes, reduction="none").mean(1)
    near = (above > 1e-4) & (above < 1 - 1e-4)
    torch.testing.assert_close(
        target.losses(outputs, label)[near.all(1)], expected[near.all(1)], rtol=1e-3, atol=1e-3
    )


def test_ordinal_scores_are_those_of_their_names() -> None:
    target = Ordinal(classes=("low", "middle", "high")).target()
    score, label = rng.dirichlet(np.ones(3), 80), rng.integers(0, 3, 80)
    found = target.scores(score, label)
    areas = [roc_auc_score(label > k, score[:, k + 1 :].sum(1)) for k in range(2)]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    chosen = (score.cumsum(1) < 0.5).sum(1)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(label, chosen, weights="quadratic"))
    assert found["mae"] == pytest.approx(np.abs(label - chosen).mean() / 2)


# ---------------------------------------------------------------- regression


def test_a_number_is_learnt_as_its_share_of_the_range() -> None:
    label, outputs = torch.tensor([20.0, 60.0]), torch.tensor([[0.5], [0.0]])
    squared, huber = (Regression(low=20, high=100, loss=one).target() for one in ("squared", "huber"))
    torch.testing.assert_close(squared.losses(outputs, label), torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(huber.losses(outputs, label), torch.full((2,), 0.1 * (0.5 - 0.05)))
    torch.testing.assert_close(
        squared.predictions(torch.tensor([[0.5], [2.0]])), torch.tensor([[60.0], [100.0]])
    )


def test_regression_scores_are_those_of_their_names() -> None:
    target = Regression(low=-5, high=5).target()
    label = rng.uniform(-5, 5, 50)
    predicted = np.clip(label + rng.normal(0, 1, 50), -5, 5)
    found = target.scores(predicted[:, None], label)
    assert found["mae"] == pytest.approx(mean_absolute_error(label, predicted) / 10)
    assert found["r2"] == pytest.approx(r2_score(label, predicted))
    assert target.scores(-predicted[:, None] * 5, label)["r2"] == -1


# ---------------------------------------------------------------- survival


def test_the_likelihood_is_that_of_hazards() -> None:
    target = Survival(borders=(7, 30, 90)).target()
    outputs = torch.randn(4, 3, dtype=torch.float64)
    hazard = torch.sigmoid(outputs)
    label = torch.tensor([1, 5, 4, 6])  # event in interval 0; in 2; left in 2; passed all
    stay = 1 - hazard
    expected = [hazard[0, 0], stay[1, 0] * stay[1, 1] * hazard[1, 2], stay[2, 0] * stay[2, 1], stay[3].prod()]
    torch.testing.assert_close(target.losses(outputs, label), -torch.log(torch.stack(expected)))
    torch.testing.assert_close(target.predictions(outputs), stay.cumprod(1))
    found = target.scores(target.predictions(outputs).numpy(), label.numpy())
    assert found["loss"] == pytest.approx(float(-torch.log(torch.stack(expected)).mean()))


def test_the_c_index_compares_an_event_with_those_who_passed_its_interval() -> None:
    target = Survival(borders=(7, 30, 90)).target()
    label = rng.integers(0, 7, 60)
    label[label == 6] = 6
    curve = np.sort(rng.random((60, 3)).round(1), axis=1)[:, ::-1]
    risk, won, pairs = 1 - curve.mean(1), 0.0, 0
    for one in range(60):
        for other in range(60):
            if label[one] % 2 and label[other] // 2 > label[one] // 2:
                won += (risk[one] > risk[other]) + 0.5 * (risk[one] == risk[other])
                pairs += 1
    assert target.scores(curve, label)["c_index"] == pytest.approx(won / pairs)
    assert np.isnan(target.scores(curve[:3], np.array([0, 2, 4]))["c_index"])  # no event, no pair


def test_a_guess_is_the_product_limit_curve() -> None:
    target = Survival(borders=(7, 30)).target()
    label = np.array([1, 1, 0, 3, 2, 4, 4, 4])  # 2 of 7 in interval 0 (one left in it), then 1 of 4
    np.testing.assert_allclose(target.guess(label), [5 / 7, 5 / 7 * 3 / 4])


@pytest.mark.parametrize(
    "bad", [{"borders": ()}, {"borders": (7, 7)}, {"borders": (-1, 7)}, {"time": "event"}]
)
def test_borders_rise_from_above_0(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Survival.model_validate(bad)


def test_coxs_likelihood_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"no clipping bounds what one of them adds\. Take 'survival'"):
        from_flat({"task.kind": "cox"})


# ---------------------------------------------------------------- several

PARTS = {"a": Ordinal(), "b": Multilabel(labels=("a", "b")), "c": Regression(low=0, high=100)}


def test_several_losses_are_the_weighted_sum_of_those_that_a_record_has() -> None:
    target = Several(tasks=PARTS, main="a", weights={"c": 3.0}).target()
    outputs = torch.randn(3, 6, requires_grad=True)
    labels = torch.tensor([[2.0, 1.0, NAN, 40.0], [NAN, NAN, NAN, 90.0], [0.0, 0.0, 1.0, NAN]])
    found = target.losses(outputs, labels)
    grade, both, age = (task.target() for task in PARTS.values())
    first = outputs[:1]
    expected = (
        grade.losses(first[:, :3], torch.tensor([2]))
        + both.losses(first[:, 3:5], labels[:1, 1:3])
        + 3 * age.losses(first[:, 5:], labels[:1, 3])
    )
    torch.testing.assert_close(found[:1], expected)
    found.sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad[1, :5] == 0).all() and outputs.grad[1, 5] != 0 and outputs.grad[2, 5] == 0


def test_uncertainty_weighs_a_task_by_its_variance_where_the_record_has_it() -> None:
    plain, target = (
        Several(tasks=PARTS, main="a").target(),
        Several(tasks=PARTS, main="a", uncertainty=True).target(),
    )
    assert target.outputs == plain.outputs + 3
    outputs, labels = torch.zeros(2, 9), torch.tensor([[NAN, NAN, NAN, 90.0], [NAN, NAN, NAN, 90.0]])
    outputs[1, 8] = 1.0
    spread = 4 * math.tanh(1 / 4)
    first = float(plain.losses(torch.zeros(1, 6), labels[:1]))
    expected = torch.tensor([first, math.exp(-spread) * first + spread / 2])
    torch.testing.assert_close(target.losses(outputs, labels), expected)


def test_scores_of_several_are_named_by_their_task_and_the_first_is_compared() -> None:
    target = Several(tasks=PARTS, main="a").target()
    labels = target.made_up(60).numpy()
    predictions = target.predictions(torch.randn(60, target.outputs)).double().numpy()
    found = target.scores(predictions, labels)
    known = ~np.isnan(labels[:, 0])
    grades = Ordinal().target().scores(predictions[known, :4], labels[known, 0].astype(np.int64))
    assert {name: found[name] for name in grades} == grades
    assert {"c.mae", "c.r2", "b.auroc"} <= set(found) and "a.auroc" not in found
    none = np.full_like(labels, NAN)
    none[:, 3] = 40.0
    found = target.scores(predictions, none)
    assert np.isnan(found["auroc"]) and np.isfinite(found["c.mae"])
    assert np.isfinite(target.guess(none)).all()


def test_the_order_in_which_tasks_are_written_makes_no_odds() -> None:
    one, other = (Several(tasks=dict(order), main="c") for order in (PARTS.items(), reversed(PARTS.items())))
    assert (
        list(one.tasks) == list(other.tasks) and one.target().score.name == other.target().score.name == "mae"
    )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"tasks": {"one": Ordinal()}}, "two or more"),
        ({"main": "other"}, "main must name one of tasks"),
        ({"tasks": {"one": Several(), "other": Ordinal()}}, "none of them 'several' again"),
        ({"weights": {"other": 1.0}}, "which tasks has not"),
    ],
)
def test_several_tasks_are_two_or_more_and_weights_name_them(bad: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Several.model_validate(bad)
