"""A whole run whose model writes: two private rounds, results, prediction and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import mmmed
from mmmed import demo
from mmmed.cli import app
from mmmed.config import RunConfig
from mmmed.errors import DataError
from server.privacy_report import RunReport
from server.run_folder import RunFolder
from simulations.simulate import evaluate_run, start_run

SCORES = {"rouge_l", "exact_match", "bleu", "finding_f1"}


@pytest.mark.slow
def test_a_run_learns_to_write_and_its_model_writes(tmp_path: Path) -> None:
    source = demo.generate(tmp_path / "data", scale=0.02, texts=True)
    task = {"kind": "report", "tokens": 16, "decoder_width": 32, "findings": {"effusion": "effusion"}}
    config = RunConfig.model_validate(
        {
            "task": task,
            "data": {"source": str(source), "image_size": 32, "text_tokens": 16},
            "model": {"image_width": 8, "fusion": {"kind": "mean", "width": 16}},
            "training": {"batch_size": 4, "local_epochs": 1.0},
            "privacy": {"delta": 1e-3},
            "federation": {"rounds": 2},
        }
    )
    path = start_run(config, folder=tmp_path / "run", engine="inprocess", workers=0)
    results = json.loads((path / "evaluation.json").read_text())
    assert set(results) == SCORES and 0 <= results["rouge_l"]["pooled"]["value"] <= 1
    assert results["rouge_l"]["site_only"]["value"] > 0  # the site's most frequent text
    assert evaluate_run(path, None).pooled.value == results["rouge_l"]["pooled"]["value"]
    with RunFolder.open(path) as run:
        assert (
            RunReport(run).body()["run"]["subject"]["predicts"] == "impression: a text of at most 16 tokens"
        )

    model = mmmed.load_model(path)
    table = mmmed.predict(model, source)
    assert list(table) == ["row", "site", "patient", "study", "impression"]
    assert len(table) == len(pd.read_csv(source / "data.csv")) and table["impression"].map(type).eq(str).all()
    with pytest.raises(DataError, match="of which no modality has a share"):
        model.explain(text="cough")
    asked = ["predict", str(path), "text=cough", "--json", str(tmp_path / "one.json")]
    shown = CliRunner().invoke(app, asked).output
    written = json.loads((tmp_path / "one.json").read_text())["values"]["impression"]
    assert written.split()[0] in shown and "Written by a model: check it" in shown
