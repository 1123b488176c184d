"""Tasks of text: labels, losses and scores against worked examples and plain definitions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmed.config import RunConfig, from_flat
from mmmed.errors import ConfigError, DataError
from mmmed.inference import Predictions, evaluate
from mmmed.models.decoder import spelling
from mmmed.tasks import Report, VisualQuestions
from mmmed.tasks.agreement import bleu, bleu_counts, rouge_l, words_of
from mmmed.tasks.writing import TextTarget

FINDINGS = {"effusion": "effusion", "nodule": "nodules?"}
TRUE = ["Small effusion. No nodule.", "No effusion.", "A nodule in the left lung."]
WRITTEN = ["small effusion, no nodule", "A small effusion.", "No nodule."]
PLACE = Path("table.csv")


def target(**keys: Any) -> TextTarget:
    found = Report(tokens=16, **keys).target()
    assert isinstance(found, TextTarget)
    return found


def tokens(texts: list[str]) -> np.ndarray:
    return spelling("tiny").encode(texts, 16)


def refuse(message: str) -> None:
    raise DataError(message)


def test_a_label_is_the_texts_tokens() -> None:
    cells = pd.DataFrame({"impression": ["No effusion.", "[SEP]", "x" * 500]}, index=[3, 4, 7])
    noted: list[str] = []
    labels = target().labels(cells, PLACE, noted.append)
    assert labels.index.tolist() == [3, 7] and (labels.dtypes == np.int64).all() and labels.shape[1] == 16
    assert target().as_table(labels.to_numpy())["impression"][0] == "no effusion."
    assert "no word that the decoder's tokenizer knows in row 5" in noted[0]
    with pytest.raises(DataError, match="a record without a text is left out"):
        target().labels(cells, PLACE, refuse)
    empty = pd.DataFrame({"impression": [False, True]})
    assert target().unlabelled(empty).tolist() == [False, True]


def test_a_loss_is_the_mean_over_a_texts_own_tokens() -> None:
    report, spelt = target(), spelling("tiny")
    labels = torch.from_numpy(
        tokens(["no effusion", "a small nodule in the left lung, and no effusion at all today"])
    )
    outputs = torch.randn(2, report.outputs, dtype=torch.float64, requires_grad=True)
    losses = report.losses(outputs, labels)
    logits = outputs.view(2, 16, spelt.size)
    for row in range(2):
        length = 1 + int((labels[row] != spelt.end).sum())  # with the end
        assert length <= 16
        torch.testing.assert_close(losses[row], F.cross_entropy(logits[row, :length], labels[row, :length]))
    (slope,) = torch.autograd.grad(losses.sum(), outputs)
    assert (slope.view(2, 16, -1)[0, 3:] == 0).all() and (slope.view(2, 16, -1)[0, 2] != 0).any()
    whole = torch.full((1, 16), 7)  # as long as one may be: there is no end
    expected = F.cross_entropy(logits[0], whole[0])
    torch.testing.assert_close(report.losses(outputs[:1], whole)[0], expected)


# ---------------------------------------------------------------- agreement


TEXTS = st.lists(st.sampled_from("abc"), max_size=6).map(tuple)


@settings(max_examples=60, deadline=None)
@given(a=TEXTS, b=TEXTS)
def test_rouge_l_is_of_the_longest_common_subsequence(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    def parts(text: tuple[str, ...]) -> set[tuple[str, ...]]:
        return {one for n in range(len(text) + 1) for one in itertools.combinations(text, n)}

    common = max(map(len, parts(a) & parts(b)))
    if not a or not b:
        assert rouge_l(a, b) == float(a == b)
    elif common:
        precision, recall = common / len(a), common / len(b)
        assert rouge_l(a, b) == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert rouge_l(a, b) == 0


def test_bleu_is_papinenis() -> None:
    def of(*pairs: tuple[str, str]) -> float:
        return bleu(np.sum([bleu_counts(words_of(a), words_of(b)) for a, b in pairs], axis=0))

    longer = of(("the cat is on the red mat", "the cat is on the mat"))
    assert longer == pytest.approx((6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    shorter = of(("the cat is on", "the cat is on the mat"))
    assert shorter == pytest.approx(np.exp(1 - 6 / 4))  # all agree: the brevity penalty alone
    clipped = bleu_counts(words_of("the the the the the the the"), words_of("the cat is on the mat"))
    assert clipped[0] == 2 and clipped[4] == 7
    assert of(("yes", "yes"), ("no", "yes")) == 0.5  # no truth is long enough for a pair
    assert of(("a b c d", "a b c d"), ("e f g h", "a b c d")) == pytest.approx(0.5)
    assert of(("", "a b")) == 0 and np.isnan(of(("a", "")))


def test_scores_are_of_words_and_of_what_is_stated() -> None:
    found = target(findings=FINDINGS).scores(tokens(WRITTEN).astype(float), tokens(TRUE))
    # effusion: right, one too many; nodule: one missed
    assert found["finding_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["rouge_l"] == pytest.approx((1 + 2 * 1 / 5 + 2 * 1 / 8) / 3)
    assert "finding_f1" not in target().scores(tokens(WRITTEN), tokens(TRUE))
    nothing = tokens(["clear lungs"])
    assert np.isnan(target(findings=FINDINGS).scores(nothing, nothing)["finding_f1"])
    slow = target(findings={"slow": "(a+)+$"})
    assert slow.scores(nothing, nothing)["exact_match"] == 1
    with pytest.raises(ConfigError, match=r"task\.findings\.bad: '\(' is not a regular expression"):
        target(findings={"bad": "("})


def test_every_score_has_an_interval_by_patients_beside_the_most_frequent_text() -> None:
    label = np.repeat(tokens(TRUE), [6, 2, 2], axis=0)
    written = np.repeat(tokens(WRITTEN), [6, 2, 2], axis=0).astype(float)
    report = target(findings=FINDINGS)
    guess = report.guess(label)
    assert report.as_table(guess[None])["impression"][0] == "small effusion. no nodule."
    site = Predictions("a", np.arange(10) // 2, label, written, guess)
    found = evaluate(report, [site], resamples=50).to_dict()
    assert set(found) == {"rouge_l", "exact_match", "bleu", "finding_f1"}
    main = found["rouge_l"]
    assert main["pooled"]["low"] <= main["pooled"]["value"] <= main["pooled"]["high"]  # type: ignore[index]
    assert main["site_only"]["value"] > main["pooled"]["value"] - 1  # type: ignore[index]


def test_what_is_released_is_the_main_scores_mean() -> None:
    written, true = tokens(WRITTEN).astype(float), tokens(TRUE)
    for section in (Report(tokens=16), VisualQuestions(tokens=16)):
        task = section.target()
        agreement, known = task.evidence(written, true)
        assert (
            agreement.mean() == pytest.approx(task.scores(written, true)[task.score.name])
            and (known == 1).all()
        )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task.kind": "vqa", "data.text": ""}, "answers a question about something"),
        ({"task.kind": "vqa", "data.image": ""}, r"Found \['text'\]"),
        ({"task.kind": "report", "privacy.engine": "hooks"}, "needs privacy.engine = 'bookkeeping'"),
        ({"task.kind": "report", "task.tokens": 1}, "tokens"),
        ({"task.kind": "report", "task.decoder_width": 40}, "multiple of 32"),
    ],
)
def test_a_run_that_cannot_write_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_flat(keys)


def test_a_text_beside_other_tasks_is_refused_with_its_reason() -> None:
    tasks = {"finding": {"kind": "classification"}, "note": {"kind": "report"}}
    with pytest.raises(ValueError, match=r"tasks\.note is of kind 'report': a text is written by a decoder"):
        RunConfig.model_validate({"task": {"kind": "several", "tasks": tasks}})
