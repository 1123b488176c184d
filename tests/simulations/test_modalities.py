"""A whole run, its evaluation and its refusals, on volumes and a table of a few generated patients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

Command = Callable[..., tuple[int, str, str]]

CONFIG = """
[data]
image = ""
text = ""
volume = "volume"
volume_size = 16
volume_window = [-1000, 400]
numbers = { age = [0, 90], crp = [0, 5] }
categories = { sex = ["F", "M"] }
[model]
volume_width = 8
fusion.width = 16
[training]
batch_size = 12
local_epochs = 1
augment = true
[privacy]
delta = 1e-2
[federation]
rounds = 2
min_sites = 2
"""
SCAN = np.diag([2.0, -2.0, 4.0, 1.0])


def scan(ill: bool, draw: np.random.Generator) -> np.ndarray:
    """Hounsfield units of a body with air around it, and a dense spot in the ill."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 20, 12)], indexing="ij")
    values = np.where(x**2 + y**2 + z**2 < 0.9, -200.0, -900.0)
    if ill:
        at = draw.uniform(-0.3, 0.3, 3)
        values[(x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 < 0.25] = 400
    return (values + draw.normal(0, 30, values.shape)).astype(np.int16)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites of 60 patients; some lack the scan, a value or both."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "volumes").mkdir()
    (folder / "run.toml").write_text(CONFIG)
    draw = np.random.default_rng(0)
    rows = []
    for number in range(120):
        ill = bool(draw.random() < 0.5)
        file = f"volumes/{number}.nii.gz" if draw.random() < 0.85 else ""
        if file:
            nibabel.save(nibabel.Nifti1Image(scan(ill, draw), SCAN), folder / file)
        row = {"patient_id": f"p{number}", "study_id": number, "site": "ab"[number % 2], "finding": int(ill)}
        row |= {
            "volume": file,
            "age": round(draw.normal(60 if ill else 40, 10)),
            "sex": draw.choice(["F", "M", ""]),
        }
        rows.append(row | {"crp": round(draw.exponential(9), 1) if draw.random() < 0.7 else ""})
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    return folder


def test_a_private_run_on_volumes_and_a_table(mmmed: Command, scans: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = mmmed(
        "simulate", "--data", scans, "--config", scans / "run.toml", "--workers", "0", "--out", run
    )
    assert code == 0, out + err
    result = json.loads((run / "evaluation.json").read_text())
    assert result["auroc"]["pooled"]["value"] is not None
    code, out, err = mmmed("evaluate", run, "--data", scans)
    assert code == 0, out + err
    assert f"{result['auroc']['pooled']['value']:.3f}" in out


def test_training_without_noise_learns_from_volumes(mmmed: Command, scans: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = mmmed(
        "simulate", "--data", scans, "--config", scans / "run.toml", "--workers", "0", "--out", run,
        "--non-private", "--set", "data.numbers={}", "--set", "data.categories={}",
        "--set", "training.local_epochs=6", "--set", "training.augment=false", "--set", "training.batch_size=6",
    )  # fmt: skip
    assert code == 0, out + err
    assert json.loads((run / "evaluation.json").read_text())["auroc"]["pooled"]["value"] > 0.8, out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.volume=vol", ["no column 'vol'", "data.volume"]),
        ("data.numbers={ldh=[0, 250]}", ["no column 'ldh'", "data.numbers"]),
        ("data.categories={sex=['F', 'X']}", ["'M'", "data.categories", "row"]),
        ("data.numbers={sex=[0, 1]}", ["sex", "numbers"]),
    ],
)
def test_a_wrong_column_is_told_before_anything_is_written(
    mmmed: Command, scans: Path, tmp_path: Path, change: str, words: list[str]
) -> None:
    run = tmp_path / "run"
    code, _, err = mmmed(
        "simulate", "--data", scans, "--config", scans / "run.toml", "--set", change, "--out", run
    )
    assert code == 2 and not run.exists()
    assert all(word in err for word in words), err


def test_every_unusable_volume_is_named(mmmed: Command, scans: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scans"
    (copy / "volumes").mkdir(parents=True)
    table = pd.read_csv(scans / "data.csv", keep_default_na=False)
    for name in table["volume"]:
        if name:
            (copy / name).write_bytes((scans / name).read_bytes())
    table.to_csv(copy / "data.csv", index=False)
    first, second = [name for name in table["volume"][table["site"] == "a"] if name][:2]
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9), np.int16), np.eye(4)), copy / first)
    (copy / second).write_bytes(b"not a volume")
    code, _, err = mmmed(
        "simulate", "--data", copy, "--config", scans / "run.toml", "--out", tmp_path / "run"
    )
    assert code == 2
    assert first in err and second in err and "three dimensions" in err and "not a readable NIfTI" in err
