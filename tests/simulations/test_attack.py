"""`mmmed privacy attack` on real runs: an overfitted model leaks, a private one does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmmed.models.tokens import VOCABULARY

Command = Callable[..., tuple[int, str, str]]
SETTINGS = (
    "data.image=", "data.text_tokens=16", "data.test_fraction=0.5", "model.fusion.width=16", "training.batch_size=32",
    "training.learning_rate=0.01", "federation.rounds=1", "federation.min_sites=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital of notes without any meaning: whatever a model knows of their labels it has by heart."""
    generator, root = np.random.default_rng(0), tmp_path_factory.mktemp("notes")
    words = np.array([word for word in VOCABULARY.read_text().split() if word.isalpha() and len(word) > 3])
    rows = [
        {"patient_id": f"p{n}", "study_id": f"s{n}", "site": "a", "finding": generator.integers(2),
         "text": " ".join(generator.choice(words, 8))}
        for n in range(160)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "data.csv", index=False)
    return root


def trained(mmmed: Command, notes: Path, out: Path, *more: str) -> Path:
    settings = [f"--set={text}" for text in SETTINGS]
    code, _, err = mmmed("simulate", "--data", notes, *settings, *more, "--workers", "0", "--out", out)
    assert code == 0, err
    return out


def test_an_overfitted_model_leaks(mmmed: Command, notes: Path, tmp_path: Path) -> None:
    run = trained(mmmed, notes, tmp_path / "run", "--non-private", "--set=training.local_epochs=25")
    code, out, err = mmmed("privacy", "attack", run, "--public", "--shadows", "4", "--workers", "0")
    assert code == 0, err
    body = json.loads((run / "report" / "attack.json").read_text())
    assert body["auroc"] > 0.75 and [rate["bound"] for rate in body["rates"]] == [1.0, 1.0]
    assert body["rates"][1]["confidence_95"][0] > 0.1  # what guessing would recognise
    assert "AUROC" in out


def test_a_private_model_stays_within_the_bound(mmmed: Command, notes: Path, tmp_path: Path) -> None:
    run = trained(mmmed, notes, tmp_path / "run", "--epsilon", "1", "--set=training.local_epochs=2")
    code, _, err = mmmed("privacy", "attack", run)
    assert code == 2 and "--public" in err and "--own" in err
    result = tmp_path / "attack.json"
    code, out, err = mmmed(
        "privacy", "attack", run, "--own", "--shadows", "4", "--workers", "0", "--json", result
    )
    assert code == 0, out + err
    body = json.loads(result.read_text())
    assert body["passed"] and 0.01 < body["rates"][0]["bound"] < 0.1
    assert not (run / "report" / "attack.json").exists()  # it tells how many patients there are
    code, _, err = mmmed("privacy", "attack", run, "--public", "--shadows", "2", "--set", "a=b")
    assert code == 2


@pytest.mark.parametrize("fraction", [0.3, 0.7])  # some would be held out of no model, or of every one
def test_what_cannot_be_attacked_is_told(
    mmmed: Command, notes: Path, tmp_path: Path, fraction: float
) -> None:
    run = trained(mmmed, notes, tmp_path / "run", "--epsilon", "1", f"--set=data.test_fraction={fraction}")
    code, _, err = mmmed("privacy", "attack", run, "--public", "--shadows", "2", "--workers", "0")
    assert code == 2 and "Train at least" in err
    (run / "model").rename(run / "elsewhere")
    code, _, err = mmmed("privacy", "attack", run, "--public", "--workers", "0")
    assert code == 2 and "no final model" in err and "Traceback" not in err
