"""All frames of a clip reach the data set, each looked at; one in which anything was seen waits for a human."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont

from mmmed.data.image_approvals import ImageApprovals
from mmmed.data.video import read_clip
from mmmed.deidentify import SiteKey
from mmmed.ingest import IngestOptions, IngestReport, clips, decide, ingest
from mmmed.ingest.contact_sheets import masked_picture
from mmmed.ingest.options import TableOptions
from mmmed.ingest.sources import Found
from tests.mmmed.dicom.files import dicom, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY = SiteKey(bytes(range(32)))
OPTIONS = IngestOptions(
    site="north", workers=1, tables=(TableOptions(patient="pid", study="acc", file="file"),)
)
US = "1.2.840.10008.5.1.4.1.1.3.1"


def _frames(text: str = "", count: int = 5) -> np.ndarray:
    """Frames (N, 96, 160) uint8 that brighten, the last two alike; in the third a text."""
    y, x = np.mgrid[:96, :160]
    frames = np.stack(
        [60 + 12 * min(n, count - 2) + 20 * np.sin(x / 31 + y / 23) for n in range(count)]
    ).astype(np.uint8)
    if text:
        picture = Image.fromarray(frames[2])
        ImageDraw.Draw(picture).text((6, 4), text, fill=255, font=ImageFont.load_default(size=18))
        frames[2] = np.asarray(picture)
    return frames


def _write(folder: Path, frames: np.ndarray, patient: str = "P1", **elements: object) -> Path:
    ds = dicom(
        frames, PatientID=patient, sop_class=US, Modality="US", AccessionNumber="A1", StudyDate="20200310"
    )
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    save(ds, folder / "in" / "c.dcm")
    return folder / "in" / "c.dcm"


def _ingest(root: Path) -> tuple[IngestReport, pd.DataFrame]:
    report = ingest([root / "in"], root / "data", key=KEY, options=OPTIONS)
    return report, pd.read_parquet(root / "data" / "data.parquet")


def _stored(path: Path) -> np.ndarray:
    with Image.open(path) as clip:
        read = []
        for index in range(clip.n_frames):
            clip.seek(index)
            read.append(np.asarray(clip.convert("L" if clip.mode == "L" else "RGB")))
    return np.stack(read)


def test_a_clip_keeps_all_its_frames_beside_the_first_as_an_image(tmp_path: Path) -> None:
    frames = _frames()
    source = _write(tmp_path, frames)
    report, table = _ingest(tmp_path)
    assert report.clips == 1 and "1 clips" in report.summary() and report.skipped == []
    [row] = table.to_dict("records")
    assert row["video"].startswith("clips/") and row["image"].startswith("images/")
    np.testing.assert_array_equal(_stored(tmp_path / "data" / row["video"]), frames)
    ours, its = (
        read_clip(p, frames=4, channels=1, size=32) for p in (tmp_path / "data" / row["video"], source)
    )
    np.testing.assert_allclose(ours, its, atol=0.01)
    written = (tmp_path / "data" / row["video"]).stat().st_mtime_ns
    again, _ = _ingest(tmp_path)
    assert again.clips == 1 and (tmp_path / "data" / row["video"]).stat().st_mtime_ns == written


def test_text_in_any_frame_is_masked_in_all_and_the_clip_waits(tmp_path: Path) -> None:
    frames = _frames("Muster, Erika")
    _write(tmp_path, frames)
    report, table = _ingest(tmp_path)
    assert report.clips == 0 and list(table.video) == [""]  # the first frame is clear: it stands alone
    [item] = report.review.waiting
    shown = _stored(masked_picture(tmp_path / "data", item))
    assert (
        len(shown) == 5 and shown[2, 4:24, 6:100].max() < 200 and not (tmp_path / "data" / "clips").exists()
    )
    np.testing.assert_array_equal(shown[:, 50:], frames[:, 50:])
    decide(tmp_path / "data", [item])
    _, table = _ingest(tmp_path)
    [row] = table.to_dict("records")
    assert row["video"] == f"clips/{item}.png"
    np.testing.assert_array_equal(_stored(tmp_path / "data" / row["video"]), shown)
    decide(tmp_path / "data", [], [item])
    _, table = _ingest(tmp_path)
    assert list(table.video) == [""] and not list((tmp_path / "data" / "clips").glob("*"))
    assert ImageApprovals.load(tmp_path / "data").status(f"clips/{item}.png") == "rejected"


def test_colour_clips_and_those_that_only_a_table_places(tmp_path: Path) -> None:
    frames = np.repeat(_frames()[..., None], 3, axis=-1)
    frames[..., 2] = 90
    _write(
        tmp_path, frames.reshape(5 * 96, 160, 3), "", NumberOfFrames=5, Rows=96,
    )  # fmt: skip
    (tmp_path / "in" / "t.csv").write_text("pid,acc,file\nP9,A9,c.dcm\n")
    _, table = _ingest(tmp_path)
    np.testing.assert_array_equal(_stored(tmp_path / "data" / table.video[0]), frames)


def test_deep_frames_without_a_window_are_stretched_alike(tmp_path: Path) -> None:
    _write(tmp_path, _frames().astype(np.uint16) * 16)
    _, table = _ingest(tmp_path)
    means = _stored(tmp_path / "data" / table.video[0]).mean(axis=(1, 2))
    assert (np.diff(means)[:3] > 20).all() and means[3] == means[4]


def test_a_clip_that_is_too_long_is_told_and_its_first_frame_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "MAX_VALUES", 4 * 96 * 160)
    _write(tmp_path, _frames())
    report, table = _ingest(tmp_path)
    assert report.clips == 0 and list(table.video) == [""] and table.image[0]
    [left] = report.skipped
    assert left.origin.endswith("c.dcm (clip)") and "cut it" in left.reason and "cut it" in report.summary()


def test_frames_are_written_as_many_as_there_are(tmp_path: Path) -> None:
    frames = np.repeat(_frames(count=5)[:1], 3, axis=0)
    path = _write(tmp_path, frames)
    written = clips.write_clip(Found(path, str(path)), "ff" * 10, tmp_path)
    assert written.shape == (3, 96, 160) and len(_stored(tmp_path / written.file)) == 3
