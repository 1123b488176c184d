"""Kept answers are bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from client import answer_cache
from client.answer_cache import AnswerCache


def test_the_oldest_answers_are_forgotten_and_the_newest_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_cache, "_MOST_BYTES", 20_000)
    model = {"layer": torch.zeros(1000)}  # 4 KB
    for number in range(1, 11):
        AnswerCache(tmp_path, "r", number, model).write(model, None)
        for path in tmp_path.iterdir():
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    assert len(list(tmp_path.iterdir())) == 4
    kept = [number for number in range(1, 11) if AnswerCache(tmp_path, "r", number, model).read() is not None]
    assert kept == [7, 8, 9, 10]
    monkeypatch.setattr(answer_cache, "_MOST_BYTES", 0)
    AnswerCache(tmp_path, "r", 11, model).write(model, None)
    assert AnswerCache(tmp_path, "r", 11, model).read() is not None and len(list(tmp_path.iterdir())) == 4
