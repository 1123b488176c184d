"""Clips: which frames are read, of which files, and a data set of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydicom import Dataset

from mmmed.check import check
from mmmed.config import RunConfig
from mmmed.data.image import read_image
from mmmed.data.loader import open_site_data
from mmmed.data.manifest import read_manifest
from mmmed.data.video import frames_of, read_clip
from mmmed.errors import DataError
from tests.mmmed.dicom.files import dicom, save

TEN = np.repeat(np.arange(10, dtype=np.uint8) * 20, 16 * 16).reshape(
    10, 16, 16
)  # frame k is of the gray 20 k


def cine(frames: np.ndarray, bits: int = 8, **elements: object) -> Dataset:
    """A DICOM object of (F, H, W) stored values."""
    dataset = dicom(frames[0], bits=bits, NumberOfFrames=len(frames), **elements)
    dataset.PixelData = frames.tobytes()
    return dataset


def pages(path: Path, frames: np.ndarray) -> Path:
    first, *others = (Image.fromarray(one) for one in frames)
    first.save(path, save_all=True, append_images=others, duration=40)
    return path


def grays(path: Path, frames: int) -> list[float]:
    clip = read_clip(path, frames=frames, channels=1, size=16)
    assert clip.shape == (1, frames, 16, 16) and clip.dtype == np.float32
    return [float(one) for one in clip[0].mean((1, 2))]


@pytest.mark.parametrize("kind", ["dcm", "tiff", "gif", "png"])
def test_frames_are_of_equal_distances_over_the_whole_clip(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind}"
    saved = save(cine(TEN), path) if kind == "dcm" else pages(path, TEN)
    for frames, expected in ((5, [1, 3, 5, 7, 9]), (2, [2, 7]), (10, range(10)), (3, [1, 5, 8])):
        np.testing.assert_allclose(grays(saved, frames), [20 * k / 255 for k in expected], atol=1e-3)
    assert frames_of(saved, 4)[0] == 10


def test_a_short_clip_shows_frames_again_and_a_picture_stands_still(tmp_path: Path) -> None:
    np.testing.assert_allclose(
        grays(pages(tmp_path / "a.gif", TEN[4:6]), 4), [80 / 255] * 2 + [100 / 255] * 2, atol=1e-6
    )
    Image.fromarray(TEN[5]).save(tmp_path / "b.png")
    np.testing.assert_allclose(grays(tmp_path / "b.png", 3), [100 / 255] * 3, atol=1e-6)


def test_deep_frames_without_a_window_are_stretched_alike(tmp_path: Path) -> None:
    deep = TEN.astype(np.uint16) * 10
    deep[:, 0, 0] = np.arange(10) * 200  # (each frame is of one gray)
    path = save(cine(deep, bits=12), tmp_path / "x.dcm")
    np.testing.assert_allclose(grays(path, 10), np.arange(10) / 9, atol=1e-3)
    darker = save(cine(deep, bits=12, RescaleSlope=0.5, RescaleIntercept=-7), tmp_path / "y.dcm")
    np.testing.assert_allclose(grays(darker, 10), np.arange(10) / 9, atol=1e-3)
    windowed = save(cine(deep, bits=12, WindowCenter=900, WindowWidth=1800), tmp_path / "z.dcm")
    assert grays(windowed, 10)[5] == pytest.approx(grays(windowed, 5)[2], abs=1e-6)
    pages(tmp_path / "deep.tiff", deep.astype(np.int32))
    np.testing.assert_allclose(grays(tmp_path / "deep.tiff", 10), np.arange(10) / 9, atol=1e-3)


def test_an_image_is_the_first_frame_as_before(tmp_path: Path) -> None:
    path = save(cine(TEN[3:]), tmp_path / "x.dcm")
    np.testing.assert_allclose(read_image(path, channels=1), np.full((1, 16, 16), 60 / 255), atol=1e-6)


def test_what_is_no_clip_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    with pytest.raises(DataError, match=r"clip\.mp4: not a readable DICOM, TIFF, GIF, PNG or JPEG"):
        read_clip(tmp_path / "clip.mp4", frames=2, channels=1, size=16)
    whole = pages(tmp_path / "whole.gif", np.stack([TEN[0], TEN[9]] * 9)).read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match=r"cut\.gif"):
        read_clip(tmp_path / "cut.gif", frames=8, channels=1, size=16)
    none = cine(TEN)
    none.NumberOfFrames = 0
    lying = cine(TEN)
    lying.PixelData = lying.PixelData[: 16 * 16 * 4]
    with pytest.raises(DataError, match=r"lying\.dcm"):
        read_clip(save(lying, tmp_path / "lying.dcm"), frames=4, channels=1, size=16)


def test_a_data_set_of_clips_is_read_and_described(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 5)):
        pages(tmp_path / f"{name}.gif", TEN[first : first + 5])
    Image.fromarray(TEN[9]).save(tmp_path / "still.png")
    pd.DataFrame(
        {
            "patient_id": list("pqrs"), "study_id": range(4), "site": "north", "finding": [0, 1, 0, 1],
            "clip": ["a.gif", "b.gif", "", "still.png"],
        }
    ).to_csv(tmp_path / "data.csv", index=False)  # fmt: skip
    keys = {
        "image": "",
        "text": "",
        "video": "clip",
        "video_frames": 2,
        "video_size": 16,
        "test_fraction": 0.5,
    }
    config = RunConfig.model_validate({"data": keys})
    manifest = read_manifest(tmp_path, config.data, config.task)
    data = open_site_data(manifest, config, tmp_path / "cache")
    given = data.train.modalities["video"][np.arange(len(manifest.records))]
    there = torch.tensor([True, True, False, True])
    assert given.values.shape == (4, 1, 2, 16, 16) and torch.equal(given.present[:, 0], there)
    expected = [[20, 60], [120, 160], [0, 0], [180, 180]]
    np.testing.assert_allclose(given.values.mean((1, 3, 4)) * 255, expected, atol=0.01)
    result = check(tmp_path, config.data, config.task)
    assert any("frames" in name for name, _ in result.facts["Clips"])
    assert any("33.3% of the clips looked at do not move" in one for one in result.warnings)
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    assert any(
        "clips looked at are unreadable" in one for one in check(tmp_path, config.data, config.task).problems
    )
