"""Series as scanners send them: scouts, slices without a place, a tilted gantry, slices sent twice."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import Dataset

from mmmed.ingest.items import write_volume
from mmmed.ingest.plan import Item, dicom_items
from mmmed.ingest.sources import Skipped
from tests.mmmed.dicom.files import CT, dicom, save
from tests.mmmed.ingest.test_read_or_refused import KEY, read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def stack(folder: Path, count: int = 5, tilt: float = 0.0) -> list[Dataset]:
    """Slices 2 mm apart along z of a bar that runs straight along z, moved by a tilted gantry."""
    base = dicom(np.zeros((2, 2), np.int16), sop_class=CT)
    cos, sin = float(np.cos(np.radians(tilt))), float(np.sin(np.radians(tilt)))
    made = []
    for number in range(count):
        pixels = np.zeros((24, 24), np.int16)
        # the gantry's plane is turned about x; the table moves along z: the next slice begins lower within the plane
        row = 10 - 2 * number * sin
        low = int(np.floor(row))
        pixels[low, 8:12], pixels[low + 1, 8:12] = round(100 * (1 - (row - low))), round(100 * (row - low))
        ds = dicom(
            pixels, sop_class=CT, ImageOrientationPatient=[1, 0, 0, 0, cos, sin], PixelSpacing=[1.0, 1.0]
        )
        ds.StudyInstanceUID, ds.SeriesInstanceUID = base.StudyInstanceUID, base.SeriesInstanceUID
        ds.ImagePositionPatient = [0.0, 0.0, 2.0 * number]
        save(ds, folder / f"{number}.dcm")
        made.append(ds)
    return made


def plan(folder: Path) -> tuple[list[Item], list[Skipped]]:
    found, _ = read(folder)
    skipped: list[Skipped] = []
    items = list(dicom_items(found, KEY, skipped))
    return items, skipped


def is_volume(item: Item) -> bool:
    return item.write.func is write_volume  # type: ignore[attr-defined]


@pytest.mark.parametrize("flagged", [True, False])
def test_a_scout_leaves_the_volume(flagged: bool, tmp_path: Path) -> None:
    ds = stack(tmp_path)[0]
    scout = dicom(np.ones((30, 20), np.int16), sop_class=CT, SeriesInstanceUID=ds.SeriesInstanceUID)
    scout.StudyInstanceUID = ds.StudyInstanceUID
    if flagged:
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    else:
        scout.ImagePositionPatient, scout.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 0, -1]
        scout.PixelSpacing = [0.5, 0.5]
    save(scout, tmp_path / "scout.dcm")
    [item], [left_out] = plan(tmp_path)
    assert is_volume(item) and len(item.files) == 5
    assert Path(left_out.origin).name == "scout.dcm" and "localiser" in left_out.reason


def test_slices_without_a_place_are_left_out_and_never_pictures(tmp_path: Path) -> None:
    made = stack(tmp_path)
    del made[4].PixelSpacing
    save(made[4], tmp_path / "4.dcm")
    [item], [left_out] = plan(tmp_path)
    assert is_volume(item) and len(item.files) == 4 and "without position" in left_out.reason
    del made[2].ImagePositionPatient
    save(made[2], tmp_path / "2.dcm")
    items, skipped = plan(tmp_path)
    assert not items and len(skipped) == 5 and any("missing slices" in one.reason for one in skipped)
    for number, ds in enumerate(made):
        ds.pop("PixelSpacing", None)
        save(ds, tmp_path / f"{number}.dcm")
    items, skipped = plan(tmp_path)
    assert not items and len(skipped) == 5


def test_a_slice_sent_twice_is_taken_once(tmp_path: Path) -> None:
    made = stack(tmp_path)
    made[2].SOPInstanceUID = made[2].file_meta.MediaStorageSOPInstanceUID = made[2].SOPInstanceUID + ".1"
    save(made[2], tmp_path / "again.dcm")
    [item], [left_out] = plan(tmp_path)
    assert is_volume(item) and len(item.files) == 5 and "sent twice" in left_out.reason
    made[2].PixelData = bytes(len(made[2].PixelData))
    save(made[2], tmp_path / "again.dcm")
    items, skipped = plan(tmp_path)
    assert not items and "several slices at one position" in skipped[0].reason


@pytest.mark.parametrize("tilt", [0.0, 20.0, -15.0])
def test_a_tilted_gantry_is_set_upright(tilt: float, tmp_path: Path) -> None:
    stack(tmp_path / "in", 6, tilt)
    [item], skipped = plan(tmp_path / "in")
    assert not skipped
    (tmp_path / "out").mkdir()
    written = item.write("v", tmp_path / "out")
    volume = nibabel.load(tmp_path / "out" / written.file)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert written.spacing == pytest.approx((1, 1, 2 * np.cos(np.radians(tilt))))
    values = np.asarray(volume.dataobj)
    rows = (values.sum(axis=1) * np.arange(len(values))[:, None]).sum(axis=0) / values.sum(axis=(0, 1))
    if tilt:  # the bar of each slice, in millimetres, is where the slice's own header has it
        for number in range(6):
            there = volume.affine @ [rows[number], 0, number, 1]
            at = 10 - 2 * number * np.sin(np.radians(tilt))
            cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
            np.testing.assert_allclose(there[1:3], [-at * cos, 2 * number + at * sin], atol=0.05)
    else:
        np.testing.assert_allclose(rows, 10, atol=1e-6)
