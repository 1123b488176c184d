"""Scores of groups, and which groups are not told."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mmmed.inference.subgroups import FEWEST, FEWEST_EACH, age_band, subgroups, suppressed
from mmmed.tasks import Classification

TARGET = Classification().target()


def area(score: np.ndarray, yes: np.ndarray) -> float:
    pairs = list(itertools.product(score[yes == 1], score[yes == 0]))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_a_groups_score_is_that_of_its_records_and_its_gap_of_all_others() -> None:
    rng = np.random.default_rng(0)
    label, sex = rng.integers(0, 2, 240), np.array(["F", "M"])[rng.integers(0, 2, 240)]
    score = np.clip(0.5 + 0.3 * (label - 0.5) * (sex == "F") + rng.normal(0, 0.2, 240), 0, 1)
    patient = np.arange(240) // 2
    predictions = np.stack([1 - score, score], axis=1)
    women, men = subgroups(TARGET, predictions, label, patient, {"sex": sex.tolist()})
    own, other = area(score[sex == "F"], label[sex == "F"]), area(score[sex == "M"], label[sex == "M"])
    assert (women.name, women.records) == ("F", int((sex == "F").sum()))
    assert women.patients == len(set(patient[sex == "F"]))
    assert women.value[0] == pytest.approx(own) and women.gap[0] == pytest.approx(own - other)
    assert women.value[1] < own < women.value[2] and women.gap[1] > 0  # the gap that was made is seen
    assert men.gap == pytest.approx(tuple(-women.gap[i] for i in (0, 2, 1)))


def test_records_of_one_patient_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    label, score = rng.integers(0, 2, 60), rng.random(60)
    apart = np.stack([1 - score, score], axis=1)
    one = subgroups(TARGET, apart, label, np.arange(60), {"all": ["x"] * 60})[0]
    copies = np.repeat(np.arange(60), 5)
    many = subgroups(TARGET, apart[copies], label[copies], copies, {"all": ["x"] * 300})[0]
    assert many.patients == 60 and many.value[0] == pytest.approx(one.value[0])
    assert many.value[2] - many.value[1] == pytest.approx(one.value[2] - one.value[1], rel=0.25)


def test_small_groups_are_hidden_and_one_alone_never() -> None:
    names = np.array(["a"] * 30 + ["b"] * 20 + ["c"] * (FEWEST - 1))
    assert suppressed(names, np.arange(len(names))) == {"b", "c"}  # else c is all less a and b
    names = np.array(["a"] * 30 + ["b"] * 20 + ["c"] * FEWEST)
    assert suppressed(names, np.arange(len(names))) == set()
    names = np.array(["a"] * 30 + ["b"] * 3 + ["c"] * 2)
    assert suppressed(names, np.arange(len(names))) == {"b", "c"}
    assert suppressed(np.array(["a"] * 40), np.zeros(40, int)) == {"a"}  # one patient, however many records


def test_a_group_with_few_of_an_answer_is_hidden() -> None:
    names = np.array(["a"] * 40 + ["b"] * 40 + ["c"] * 40)
    yes = np.zeros(120, bool)
    yes[:20] = yes[40:60] = True
    yes[80 : 80 + FEWEST_EACH - 1] = True
    members = np.stack([~yes, yes], axis=1)
    assert suppressed(names, np.arange(120), members) == {"a", "c"}
    assert suppressed(names, np.arange(120), np.stack([np.ones(120, bool), np.zeros(120, bool)], 1)) == set()


def test_what_is_hidden_has_no_number() -> None:
    found = subgroups(
        TARGET, np.full((5, 2), 0.5), np.array([0, 1, 0, 1, 0]), np.arange(5), {"sex": ["F"] * 5}
    )
    assert not found[0].told and found[0].records is None and all(map(math.isnan, found[0].value))


def test_ages_have_bands() -> None:
    bands = [age_band(one) for one in ("0", 17, "18", 39.9, "40", "79", "80", 104)]
    assert bands == ["0-17", "0-17", "18-39", "18-39", "40-59", "60-79", "80 and over", "80 and over"]
    assert [age_band(one) for one in ("", "-1", "old", "nan", "inf", None, "999")] == [""] * 7
