"""`mmmed site ...` on generated films, as a hospital engineer types it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont

from mmmed.cli import main
from tests.mmmed.dicom.files import dicom, save

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mmmed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["mmmed", "site", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err  # type: ignore[return-value]

    return run


@pytest.fixture
def films(hospitals: Path, tmp_path: Path) -> Path:
    """Three films of three patients."""
    table = pd.read_csv(hospitals / "data.csv", dtype=str).drop_duplicates("patient_id")
    (tmp_path / "films").mkdir()
    for number, name in enumerate(table["image"].head(3)):
        shutil.copy(hospitals / name, tmp_path / "films" / f"{number}.dcm")
    return tmp_path / "films"


def test_films_become_a_data_set_that_is_checked(mmmed: Command, films: Path, tmp_path: Path) -> None:
    (tmp_path / "ingest.toml").write_text('site = "here"')
    code, out, err = mmmed("ingest", films, "--out", "data", "--config", "ingest.toml")
    assert code == 0, err
    assert "3 rows, 3 patients" in out
    table = pd.read_parquet(tmp_path / "data" / "data.parquet")
    original = {str(pydicom.dcmread(path).PatientID) for path in films.iterdir()}
    assert set(table["site"]) == {"here"} and not original & set(table["patient_id"])
    code, out, _ = mmmed("check", "data")
    assert code == 1 and "NOT trainable" in out and "no column 'finding'" in out


def test_copies_carry_no_identity(mmmed: Command, films: Path, tmp_path: Path) -> None:
    code, out, err = mmmed("deidentify", films, "--out", "copies")
    assert code == 0, err
    copies = [pydicom.dcmread(path) for path in (tmp_path / "copies").rglob("*.dcm")]
    assert len(copies) == 3 and "3 copies" in out
    for path in films.iterdir():
        before = pydicom.dcmread(path)
        assert all(str(before.PatientID) != str(c.PatientID) for c in copies)
        assert all(before.SOPInstanceUID != c.SOPInstanceUID for c in copies)


def test_a_trainable_data_set_exits_with_zero_and_a_page(
    mmmed: Command, hospitals: Path, tmp_path: Path
) -> None:
    code, out, err = mmmed("check", hospitals, "--page", "check.html")
    assert code == 0, out + err
    assert out.startswith("trainable") and "Label balance" in out
    assert "<img" in (tmp_path / "check.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "absent", "--out", "o", "-c", "good.toml"], ["absent"]),
        (["ingest", "films", "--out", "o", "-c", "none.toml"], ["none.toml", "cannot be read"]),
        (["ingest", "films", "--out", "o", "-c", "bad.toml"], ["bad.toml", "section", "labels.x"]),
        (["deidentify", "absent", "--out", "o"], ["absent"]),
    ],
)
def test_a_bad_request_is_told(
    mmmed: Command, films: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "good.toml").write_text('site = "s"')
    (tmp_path / "bad.toml").write_text('site = "s"\nsection = ["findings"]\n[labels.x]\ntext = "("')
    code, _, err = mmmed(*arguments)
    assert code == 2 and "Traceback" not in err
    assert all(word in err for word in words), err


def test_masked_images_wait_until_they_are_approved(mmmed: Command, films: Path, tmp_path: Path) -> None:
    image = Image.new("L", (256, 256), 90)
    ImageDraw.Draw(image).text(
        (6, 6), "Muster, Erika 2.1.1930", fill=255, font=ImageFont.load_default(size=18)
    )
    save(dicom(np.asarray(image), PatientID="MHH1"), films / "text.dcm")
    (tmp_path / "ingest.toml").write_text('site = "here"')
    (tmp_path / "site.toml").write_text('version = 1\nname = "here"\ndataset = "my data"')
    code, out, err = mmmed("ingest", films, "--out", "my data", "--config", "ingest.toml")
    assert code == 0, err
    assert "3 rows" in out and out.rstrip().splitlines()[-1].startswith(
        "  mmmed site approve-images 'my data' --all"
    )
    _, out, _ = mmmed("doctor", "--site", ".")
    assert "images" in out and "< 10" in out and "mmmed site images" in " ".join(out.split())
    code, out, _ = mmmed("images", "my data")
    assert code == 0 and "1 wait, 0 approved, 0 rejected" in out and "index.html" in out
    code, _, err = mmmed("approve-images", "my data")
    assert code == 2 and "--all" in err
    code, _, err = mmmed("approve-images", "my data", "Erika")
    assert code == 2 and "no image held for review is named Erika" in err
    code, out, _ = mmmed("approve-images", "my data", "--all")
    assert code == 0 and "0 wait, 1 approved" in out
    assert len(pd.read_parquet(tmp_path / "my data" / "data.parquet")) == 4
    _, out, _ = mmmed("doctor", "--site", ".")
    assert "approval" not in out
