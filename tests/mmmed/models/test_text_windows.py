"""Long notes, read in windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.errors import ModelError
from mmmed.inference import details, read_study
from mmmed.modalities.text import _tokens
from mmmed.models import build_model
from mmmed.models.tokens import load_tokenizer
from mmmed.tasks import Classification
from tests.contracts.steps import check_independence, check_private_step, exact
from tests.contracts.test_encoder import made_up

LONG = "no fever, cough and crackles; " * 4 + "large effusion left"


def a_run(windows: int, tokens: int = 12, **model: Any) -> RunConfig:
    data = {"image": "", "text": "note", "text_tokens": tokens, "text_windows": windows}
    return RunConfig.model_validate({"data": data, "model": {"fusion": {"width": 8, "heads": 2}, **model}})


def test_windows_hold_the_note_from_its_beginning_and_each_is_a_note_of_its_own() -> None:
    tokenizer = load_tokenizer("tiny")
    whole = tokenizer(LONG, add_special_tokens=False)["input_ids"]
    assert len(whole) > 30
    tokens, mask = _tokens([LONG, "cough", ""], a_run(windows=4))
    assert tokens.shape == mask.shape == (3, 48)
    windows = tokens.view(3, 4, 12)
    held: list[int] = []
    for own, there in zip(windows[0], mask.view(3, 4, 12)[0], strict=True):
        own = own[there]
        assert own[0] == tokenizer.cls_token_id and own[-1] == tokenizer.sep_token_id
        held += own[1:-1].tolist()
    assert held == whole[:40][: len(held)] and len(held) == min(40, len(whole))
    plain = _tokens([LONG, "cough", ""], a_run(windows=1))
    for note in (1, 2):
        assert windows[note, 0].equal(plain[0][note]) and mask.view(3, 4, 12)[note, 0].equal(plain[1][note])
        assert not mask.view(3, 4, 12)[note, 1:].any()


def _answer(config: RunConfig, texts: list[str]) -> torch.Tensor:
    model = build_model(config).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    values, mask = _tokens(texts, config)
    unit = torch.arange(len(texts))
    with torch.no_grad():
        logits: torch.Tensor = model(Batch({"text": Input(values, mask)}, torch.zeros(len(texts)), unit))
    return logits


def test_the_end_of_a_long_note_counts_and_a_short_one_is_read_as_before() -> None:
    texts = [LONG, LONG.replace("large effusion", "no pneumothorax"), "cough"]
    one, four = _answer(a_run(windows=1), texts), _answer(a_run(windows=4), texts)
    assert torch.equal(one[0], one[1]) and not torch.allclose(four[0], four[1])
    torch.testing.assert_close(one[2], four[2])


def test_a_private_step_over_windows_is_the_definitions() -> None:
    model, batch = exact(*made_up(a_run(windows=3, tokens=8)))
    check_independence(model, batch)
    check_private_step(model, Classification().target(), batch)


def test_words_of_all_windows_are_explained() -> None:
    config = a_run(windows=4)
    detail = details(build_model(config).eval(), config, read_study(config, {"text": LONG}), {"note": LONG})[
        "text"
    ]
    assert "".join(detail.names) + detail.rest == LONG and len(detail.names) > 20
    assert len("".join(detail.names)) > len(LONG) * 0.8
    assert np.isfinite(detail.shares).all()


def test_encoders_of_words_say_that_they_need_no_windows(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"data\.text_windows.*'word-cnn' reads up to 512 tokens"):
        build_model(a_run(windows=2, text="word-cnn"))
