"""Sources that lie, change or come twice, and runs that are killed or meet another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from mmmed.data.image_approvals import ImageApprovals
from mmmed.deidentify import SiteKey
from mmmed.errors import ConfigError, DataError
from mmmed.ingest import IngestOptions, IngestReport, ingest
from mmmed.ingest.options import LabelOptions, TableOptions
from tests.mmmed.dicom.files import dicom, save

KEY = SiteKey(bytes(range(32)))
OPTIONS = IngestOptions(
    site="north", workers=1, tables=(TableOptions(patient="p", text="t", file="f", keep=("ward",)),)
)


def _table(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t.csv").write_text("\n".join(["p,t,f,ward", *rows]) + "\n")
    return folder


def _run(out: Path, *sources: Path, options: IngestOptions = OPTIONS) -> tuple[IngestReport, pd.DataFrame]:
    report = ingest(sources, out, key=KEY, options=options)
    return report, pd.read_parquet(report.table)


def _picture(path: Path, seed: int) -> None:
    y, x = np.mgrid[:64, :64] / 64
    Image.fromarray((128 + 90 * np.sin((3 + seed) * x + 5 * y)).astype(np.uint8)).save(path, compress_level=0)


def _reasons(report: IngestReport) -> dict[str, str]:
    return {Path(one.origin).name: one.reason for one in report.skipped}


def test_links_in_archives_and_names_that_come_twice_are_refused(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", "A,note,,")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.txt", "x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("good.txt", "y")
    report, table = _run(tmp_path / "out", folder)
    reasons = _reasons(report)
    assert "symbolic link" in reasons["link.txt"] and "several files of one name" in reasons["good.txt"]
    assert list(table["text"]) == ["note"]


def test_a_damaged_stream_in_an_archive_costs_one_member(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", "A,note,,")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bad.txt", "effusion " * 500)
        archive.writestr("good.csv", "p,t,f,ward\nB,other,,\n")
    content = bytearray((folder / "a.zip").read_bytes())
    content[40:50] = b"\xff" * 10
    (folder / "a.zip").write_bytes(content)
    report, table = _run(tmp_path / "out", folder)
    assert "damaged" in _reasons(report)["bad.txt"] and sorted(table["text"]) == ["note", "other"]


def test_a_damaged_index_or_the_same_source_twice_stops_nothing(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", "A,note,,")
    (tmp_path / "DICOMDIR").write_bytes(os.urandom(500))
    report, table = _run(tmp_path / "out", tmp_path / "DICOMDIR", folder, folder / "t.csv", folder)
    assert len(table) == 1 and "not a readable DICOMDIR" in _reasons(report)["DICOMDIR"]
    assert report.taken == [str(folder / "t.csv")]


def test_a_file_of_two_patients_is_nobodys(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", "A,a,x.png,", "B,b,x.png,", "C,c,y.png,", "C,c,y.png,")
    _picture(folder / "x.png", 1)
    _picture(folder / "y.png", 2)
    report, table = _run(tmp_path / "out", folder)
    with_image = table[table["image"] != ""]
    assert list(with_image["patient_id"]) == [KEY.pseudonym("patient", "C")] and report.images == 1
    told = [one.reason for one in report.skipped]
    assert sum("another patient, too" in one for one in told) == 2
    assert sum("another row has named" in one for one in told) == 1


def test_whole_numbers_of_parquet_are_ids_even_beside_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    frame = pd.DataFrame(
        {"p": pd.array([17, None, 4], dtype="Int64"), "t": ["a", "b", "c"], "f": "", "ward": [1, 2, 3]}
    )
    frame.to_parquet(tmp_path / "in" / "t.parquet")
    report, table = _run(tmp_path / "out", tmp_path / "in")
    assert set(table["patient_id"]) == {KEY.pseudonym("patient", "17"), KEY.pseudonym("patient", "4")}
    assert "without a patient id" in _reasons(report)["t.parquet row 2"]


def test_a_folder_with_other_files_is_not_taken_over(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", "A,note,,")
    (tmp_path / "mine" / "images").mkdir(parents=True)
    _picture(tmp_path / "mine" / "images" / "holiday.png", 1)
    with pytest.raises(DataError, match="no data set of ours"):
        _run(tmp_path / "mine", folder)
    assert (tmp_path / "mine" / "images" / "holiday.png").is_file()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["images"]


def test_a_changed_file_or_option_makes_its_own_part_anew(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", "A,IMPRESSION: fine,x.png,7", "B,HISTORY: cough,y.png,8")
    _picture(folder / "x.png", 1)
    _picture(folder / "y.png", 2)
    out = tmp_path / "out"
    _, first = _run(out, folder)
    times = {name: (out / name).stat().st_mtime_ns for name in first["image"]}
    size = (folder / "x.png").stat().st_size
    _picture(folder / "x.png", 3)  # of the same size
    assert (folder / "x.png").stat().st_size == size
    _, second = _run(out, folder)
    kept = set(first["image"]) & set(second["image"])
    assert len(kept) == 1 and {(out / name).stat().st_mtime_ns for name in kept} == {
        times[name] for name in kept
    }
    assert len(list((out / "images").iterdir())) == 2
    _, third = _run(out, folder, options=OPTIONS.model_copy(update={"sections": ("history",)}))
    assert sorted(third["text"]) == ["", "cough"] and set(third["image"]) == set(second["image"])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_flip, lambda path: os.truncate(path, 40), Path.unlink])
def test_a_damaged_file_of_the_data_set_is_made_again_and_no_other(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = _table(tmp_path / "in", "A,,a.png,", "B,,b.png,", "C,,c.nii.gz,", "D,,d.wav,")
    for seed, name in enumerate(("a.png", "b.png")):
        _picture(folder / name, seed)
    ramp = np.add.outer(np.add.outer(np.arange(12), np.arange(10)), np.arange(8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(ramp, np.eye(4)), folder / "c.nii.gz")
    soundfile.write(folder / "d.wav", np.sin(np.arange(8000) / 9), 4000)
    out = tmp_path / "out"
    report, table = _run(out, folder)
    assert not report.warnings
    kept, *spoilt = [out / name for column in ("image", "volume", "audio") for name in table[column] if name]
    whole = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (kept, *spoilt)}
    for path in spoilt:
        damage(path)
    report, again = _run(out, folder)
    pd.testing.assert_frame_equal(again, table)
    assert report.warnings == ["3 files of the data set were damaged or gone and had to be made again"]
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == whole[kept]
    for path in spoilt:
        if path.suffix == ".gz":
            assert (nibabel.load(path).get_fdata() == ramp).all()
        else:
            assert path.read_bytes() == whole[path][0]
    assert not _run(out, folder)[0].warnings


def test_a_damaged_file_whose_source_is_damaged_too_is_named_no_more(tmp_path: Path) -> None:
    folder, out = _table(tmp_path / "in", "A,note,a.png,", "B,note,b.png,"), tmp_path / "out"
    for seed, name in enumerate(("a.png", "b.png")):
        _picture(folder / name, seed)
    _, table = _run(out, folder)
    stat = (folder / "b.png").stat()
    (folder / "b.png").write_bytes(bytes(stat.st_size))
    os.utime(
        folder / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns)
    )  # passes for the same by size and time
    for name in table["image"]:
        _flip(out / name)
    for _ in range(2):
        report, again = _run(out, folder)
        assert sorted(again["image"] != "") == [False, True] and "b.png" in _reasons(report)


def test_rows_whose_cells_are_shifted_are_left_out(tmp_path: Path) -> None:
    rows = ["A,a cough, no fever,,7", "B,fine", '"C","a cough, no fever",,8', "", "D,x.png,secret,,,"]
    report, table = _run(tmp_path / "out", _table(tmp_path / "in", *rows))
    assert list(table["text"]) == ["a cough, no fever"] and list(table["ward"]) == ["8"]
    reasons = _reasons(report)
    assert set(reasons) == {"t.csv row 1", "t.csv row 2", "t.csv row 4"}
    assert reasons["t.csv row 1"].startswith("5 cells in 4 columns: quote cells")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("p,t,t,f,ward\nA,x,y,,7\n", "several columns t"), ('p,t,f,ward\nA,"open,,7\nB,x,,8\n', "left open")],
)
def test_tables_that_can_be_read_in_two_ways_are_left_out(tmp_path: Path, content: str, reason: str) -> None:
    folder = _table(tmp_path / "in", "Z,fine,,")
    (folder / "other.csv").write_text(content)
    report, table = _run(tmp_path / "out", folder)
    assert reason in _reasons(report)["other.csv"] and list(table["text"]) == ["fine"]


def test_a_pattern_that_takes_for_ever_is_refused_by_name(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in", f"A,{'a' * 60} b,,", "B,fine,,")
    slow = OPTIONS.model_copy(update={"labels": {"mass": LabelOptions(text="mass|(a|aa)+$")}})
    with pytest.raises(ConfigError, match=r"labels\.mass\.text: 'mass\|\(a\|aa\)\+\$' takes more than 1 s"):
        _run(tmp_path / "out", folder, options=slow)
    quick = OPTIONS.model_copy(update={"labels": {"mass": LabelOptions(text="mass|a{60}")}})
    _, table = _run(tmp_path / "out", folder, options=quick)
    assert sorted(table["mass"]) == [0, 1]


def test_empty_files_are_told_whether_anything_is_usable_or_not(tmp_path: Path) -> None:
    folder = _table(tmp_path / "in")
    (folder / "empty.dcm").touch()
    with pytest.raises(DataError, match="nothing usable"):
        ingest([folder], tmp_path / "out", key=KEY, options=OPTIONS, files=tmp_path / "files.csv")
    listed = (tmp_path / "files.csv").read_text()
    assert "t.csv,left out,table without rows" in listed and "empty.dcm,left out," in listed
    assert (tmp_path / "files.csv").stat().st_mode & 0o077 == 0


def _command(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "mmmed.cli", "site", "ingest", str(folder), "--out", str(out), "--config",
        str(folder.parent / "o.toml"), "--key", str(folder.parent / "key"),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_commands_at_once_and_one_that_is_killed(tmp_path: Path) -> None:
    """One of two is refused; the other is killed (-9) while it writes; a third ends what it began."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (tmp_path / "o.toml").write_text('site = "north"\nworkers = 1\n')
    y, x = np.mgrid[:64, :64] / 64
    for number in range(8):
        pixels = (128 + 90 * np.sin((3 + number) * x + 5 * y)).astype(np.uint8)
        save(dicom(pixels, PatientID=f"P{number}"), folder / f"{number}.dcm")
    first = _command(folder, out)
    deadline = time.monotonic() + 300
    while len(list((out / "images").glob("[0-9a-f]*.png"))) < 2:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # still holds the data set
    second = _command(folder, out)
    told, _ = second.communicate(timeout=300)
    assert second.returncode == 2 and "another run is writing this data set" in told
    first.kill()
    first.wait()
    assert not (out / "data.parquet").exists()
    whole = {path.name: path.stat().st_mtime_ns for path in (out / "images").glob("[0-9a-f]*.png")}
    third = _command(folder, out)
    told, _ = third.communicate(timeout=300)
    assert third.returncode == 0, told
    table = pd.read_parquet(out / "data.parquet")
    held = len(ImageApprovals.load(out).masked)  # one in 50 waits for a human by chance
    assert len(table) + held == 8 and {path.name for path in (out / "images").iterdir()} == {
        name.partition("/")[2] for name in table["image"]
    }
    kept = [name for name, when in whole.items() if (out / "images" / name).stat().st_mtime_ns == when]
    assert len(kept) >= len(whole) - 1  # all but the one that was being recorded
    assert not list((out / ".ingest").glob("unpacked*"))
