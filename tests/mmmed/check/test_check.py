from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from mmmed.check import CheckResult, check, write_page
from mmmed.config import DataConfig
from mmmed.data.counts import rounded
from mmmed.tasks import Classification

TASK = Classification(label="finding")


def _data(root: Path, *, patients: int = 60, **columns: object) -> Path:
    """A data set without leaks: notes and labels are drawn independently; two records a patient."""
    draw = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(2 * patients):
        name = f"images/{number}.png"
        Image.fromarray(draw.integers(60, 180, (24, 24), dtype=np.uint8)).save(root / name)
        patient = number // 2
        words = draw.choice(["cough", "fever", "pain", "smoker", "asthma", "fall"], 3)
        rows.append(
            {"patient_id": f"p{patient}", "study_id": f"s{number}", "site": f"site{patient % 3}", "image": name,
             "text": " ".join(words), "finding": patient // 3 % 2}
        )  # fmt: skip
    frame = pd.DataFrame(rows).assign(**columns)  # type: ignore[arg-type]
    frame.to_parquet(root / "data.parquet")
    return root


def _check(root: Path, **options: object) -> CheckResult:
    return check(root, DataConfig(source="x", table="data.parquet", **options), TASK)  # type: ignore[arg-type]


def test_a_sound_data_set_is_trainable_without_warnings(tmp_path: Path) -> None:
    result = _check(_data(tmp_path))
    assert result.trainable and result.warnings == [], result.summary()
    counts = dict(result.facts["Counts"])
    assert (
        counts["patient"] == "about 60"
        and counts["site"] == "< 10"
        and counts["rows without a label, left out"] == "0 (0%)"
    )
    assert 0.3 < float(dict(result.facts["Shortcuts"])["AUROC of the label from them"]) < 0.65
    assert len(result.examples) == 24


@pytest.mark.parametrize(
    "count, shown", [(0, "0"), (3, "< 10"), (10, "about 10"), (148, "about 150"), (3021, "about 3,000")]
)
def test_counts_are_never_exact(count: int, shown: str) -> None:
    assert rounded(count) == shown


def test_shortcuts_by_site_and_by_acquisition_are_named(tmp_path: Path) -> None:
    sites = _data(tmp_path / "a", finding=[int(n // 2 % 3 == 0) for n in range(120)])
    assert any("site" in w and "AUROC 1.0" in w for w in _check(sites).warnings)
    views = _data(tmp_path / "b", view=["AP" if n // 6 % 2 else "PA" for n in range(120)])
    result = _check(views)
    assert any("view" in warning for warning in result.warnings) and result.trainable


def test_words_that_are_the_label_are_named(tmp_path: Path) -> None:
    texts = ["cough pneumonia" if n // 6 % 2 else "cough clear" for n in range(120)]
    result = _check(_data(tmp_path, text=texts))
    warning = next(w for w in result.warnings if "almost are the label" in w)
    assert "pneumonia" in warning and "clear" in warning and "cough" not in warning


def test_what_cannot_be_trained_on_is_a_problem(tmp_path: Path) -> None:
    few = _data(tmp_path / "few", finding=[int(n < 6) for n in range(120)])
    assert any("fewer than 10 patients" in p for p in _check(few).problems)
    one = _data(tmp_path / "one", finding=1)
    assert any("the same label" in p for p in _check(one).problems)
    broken = _data(tmp_path / "broken")
    (broken / "images" / "3.png").write_text("no image")
    assert any("unreadable" in p and "3.png" in p for p in _check(broken).problems)
    assert not _check(tmp_path / "absent").trainable


def test_odd_images_come_first_and_gray_ones_are_warned_of(tmp_path: Path) -> None:
    root = _data(tmp_path)
    Image.fromarray(np.full((24, 24), 77, np.uint8)).save(root / "images" / "17.png")
    Image.fromarray(np.where(np.eye(24) > 0, 255, 250).astype(np.uint8)).save(root / "images" / "40.png")
    result = _check(root)
    shown = {example.path.name: example.why for example in result.examples[:2]}
    assert shown == {"17.png": "one gray", "40.png": shown["40.png"]} and "brightness" in shown["40.png"]
    assert any("of one gray" in w for w in result.warnings)


def test_the_page_is_private_needs_no_network_and_escapes_what_it_shows(tmp_path: Path) -> None:
    result = _check(_data(tmp_path / "d", finding=[int(n // 2 % 3 == 0) for n in range(120)]))
    result.warnings.append("<script>alert(1)</script>")
    write_page(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (tmp_path / "page.html").stat().st_mode & 0o077 == 0
    assert "http" not in page and "<script>alert" not in page and "&lt;script&gt;" in page
    assert page.count("<img") == 24 and "AUROC" in page and "about 60" in page


def test_missing_values_outliers_and_other_modalities_are_told(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    crp = draw.lognormal(3, 0.5, 120)
    crp[:10] *= 1000  # another unit
    crp[60:] = np.nan
    root = _data(
        tmp_path, crp=crp, sodium=draw.normal(140, 3, 120), audio=["audio/x.flac"] * 30 + [""] * 90,
        modality=["CR", "DX"] * 60, ward=["east", "west", "east", ""] * 30,
    )  # fmt: skip
    result = _check(root)
    values = dict(result.facts["Values"])
    assert values["crp"].startswith("50% empty; 5 %, median, 95 %: ") and values["crp"].endswith(
        "16.7% outliers"
    )
    assert values["sodium"].startswith("0% empty") and values["sodium"].endswith("0.0% outliers")
    assert values["ward"] == "25% empty; east 67%, west 33%"
    [warning] = (one for one in result.warnings if "unit" in one)
    assert warning.startswith("crp: 16.7%") and result.trainable
    modalities = dict(result.facts["Modalities"])
    assert modalities["records with audio"] == "25%" and modalities["CR"] == "50%"
    empty = result.plots["Values"][0]
    assert dict(empty.bars)["crp"] == 0.5 and not empty.histogram
    assert sum(share for _, share in result.plots["Values"][1].bars) == pytest.approx(1)


def test_rows_without_a_label_do_not_spoil_the_rest(tmp_path: Path) -> None:
    finding: list[float] = [n // 6 % 2 for n in range(120)]
    finding[:12] = [np.nan] * 12
    views = ["AP" if n // 6 % 2 else "PA" for n in range(120)]
    result = _check(_data(tmp_path, finding=finding, view=views), where={"site": ("site0", "site1")})
    assert result.trainable and dict(result.facts["Counts"])["rows without a label, left out"] == "< 10 (10%)"
    assert any("view" in warning and "AUROC 1.0" in warning for warning in result.warnings)


def _volumes(root: Path, count: int) -> list[str]:
    (root / "volumes").mkdir(parents=True)
    draw = np.random.default_rng(2)
    names = []
    for number in range(count):
        values = draw.normal(-200, 300, (12, 12, 10)).astype(np.int16)
        spacing = 9.0 if number == 4 else 2.0
        if number == 5:
            values = values + 1024  # not Hounsfield units
        if number == 6:
            values[:] = 7
        names.append(f"volumes/{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.7, 0.7, spacing, 1])), root / names[-1])
    return names


def test_volumes_are_measured_and_those_that_stand_out_are_shown(tmp_path: Path) -> None:
    names = _volumes(tmp_path / "d", 30)
    root = _data(tmp_path / "d", volume=names * 4)
    result = _check(root)
    facts = dict(result.facts["Volumes"])
    assert facts["slices: 5 %, median, 95 %"] == "10, 10, 10" and facts["axes as stored"] == "LAS 100%"
    assert facts["mm between slices: 5 %, median, 95 %"] == "2, 2, 2"
    assert facts["outliers in mm between slices"] == "3.3%"
    text = " ".join(result.warnings)
    assert "stand out in mm between slices" in text and "stand out in median value" in text
    assert "3.3% of the volumes looked at are of one gray" in text and result.trainable
    shown = {one.path.name: one.why for one in result.examples if one.path.name.endswith(".gz")}
    assert (
        next(iter(shown)) == "6.nii.gz"
        and set(list(shown)[1:3]) == {"4.nii.gz", "5.nii.gz"}
        and len(shown) == 8
    )
    write_page(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img") == 32 and "prefers-color-scheme: dark" in page
    (root / names[2]).write_bytes(b"no volume")
    assert any("3.3% of the volumes" in p and names[2] in p for p in _check(root, volume="volume").problems)
    assert _check(root).trainable  # a run that does not read them


def test_sounds_and_waveforms_are_measured(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    (tmp_path / "d" / "audio").mkdir(parents=True)
    (tmp_path / "d" / "waveforms").mkdir()
    sounds, waveforms = [], []
    for number in range(20):
        sounds.append(f"audio/{number}.flac")
        tone = 0 if number == 3 else 0.4 * np.sin(np.arange(8000) * 0.1)
        soundfile.write(tmp_path / "d" / sounds[-1], np.zeros(8000) + tone, 4000)
        signal = draw.normal(size=(2, 500)).astype(np.float32)
        signal[1] *= number != 7
        waveforms.append(f"waveforms/{number}.npz")
        np.savez_compressed(
            tmp_path / "d" / waveforms[-1],
            signal=signal * (1000 if number == 9 else 1),
            rate=250.0,
            channels=["I", "II"],
        )
    result = _check(_data(tmp_path / "d", audio=sounds * 6, waveform=waveforms * 6))
    assert dict(result.facts["Sounds"])["seconds: 5 %, median, 95 %"] == "2, 2, 2"
    assert dict(result.facts["Waveforms"])["channels: 5 %, median, 95 %"] == "2, 2, 2"
    assert dict(result.facts["Waveforms"])["outliers in largest amplitude"] == "5.0%"
    text = " ".join(result.warnings)
    assert "5.0% of the sounds looked at are silent" in text and "5.0% of the waveforms" in text
    (tmp_path / "d" / waveforms[0]).write_bytes(b"x")
    assert any("waveforms looked at are unreadable" in one for one in _check(tmp_path / "d").warnings)


def test_columns_that_alone_tell_the_label_and_sites_with_another_unit_are_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    finding = np.array([n // 6 % 2 for n in range(120)])
    crp = draw.normal(100, 10, 120)
    crp[[n // 2 % 3 == 1 for n in range(120)]] /= 10  # a site with mg/dL
    result = _check(_data(
        tmp_path, crp=crp, age=draw.normal(60, 9, 120), code=np.where(finding, "J18", "Z00"),
        score=np.abs(finding * 3 + draw.normal(0, 0.3, 120) - 1.5),  # tells nothing
        drug=np.where(finding, draw.uniform(1, 2, 120), np.nan),  # given to those who have it
    ))  # fmt: skip
    told = [w.partition(" alone")[0] for w in result.warnings if "alone tells the label" in w]
    assert sorted(told) == ["code", "drug"] and result.trainable
    line = dict(result.facts["Shortcuts"])["AUROC of the label from one column"]
    assert "code 1.00" in line and "age 0." in line
    assert any(w.startswith("crp: its median is") and "unit" in w for w in result.warnings)
    assert not any(w.startswith("age: its median") for w in result.warnings)
