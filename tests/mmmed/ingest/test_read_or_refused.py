"""What is stated but cannot be read stays empty or is refused, and is counted; nothing stands in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR

from mmmed.deidentify import SiteKey
from mmmed.dicom.numbers import Unreadable, stated
from mmmed.dicom.pixels import frame, modality_values
from mmmed.dicom.series import slices_of
from mmmed.errors import ConfigError, DataError
from mmmed.ingest.note_matching import Notes, attach
from mmmed.ingest.options import IngestOptions, TableOptions
from mmmed.ingest.records import date
from mmmed.ingest.rows import study_entries
from mmmed.ingest.scan import Scan, leave_out_undecided, scan
from mmmed.ingest.sources import find_files
from tests.mmmed.dicom.files import CT, dicom, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY = SiteKey(bytes(range(32)))


def film(folder: Path, patient: str = "P1", accession: str = "A1", **elements: object) -> Dataset:
    """A film of one patient, saved below ``folder``."""
    ds = dicom(np.zeros((8, 8), np.uint8), PatientID=patient, AccessionNumber=accession, StudyDate="20200310")
    ds["StudyDate"].validation_mode = 0
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in elements.items():
        written(ds, keyword, value)
    save(ds, folder / f"{accession or ds.SOPInstanceUID}.dcm")
    return ds


def written(ds: Dataset, keyword: str, value: object) -> None:
    """Set an element as it is, however wrong."""
    if dictionary_VR(keyword) not in ("AS", "DA", "DS"):
        setattr(ds, keyword, value)
        return
    setattr(ds, keyword, None)
    ds[keyword].validation_mode = 0
    ds[keyword]._value = value


def read(folder: Path, **options: Any) -> tuple[Scan, Notes]:
    """What the headers and documents of ``folder`` say; pixels are left alone."""
    stated = IngestOptions(site="north", **options)
    found = scan(find_files([folder], folder / "unpacked"), stated, KEY)
    leave_out_undecided(found)
    return found, attach(found, stated)


LABS = {"values": {"crp": {"unit": "mg/L"}}}


@pytest.mark.parametrize(
    "cell, form, expected",
    [("2009-03-09", "", None), ("03/09/2009", "", None), ("39881", "", None), ("09.03.09", "", None), ("soon", "",
     None),
     ("2020-03-11", "", 250.0), ("11.3.2020", "", 250.0), ("2020.03.11", "", 250.0), ("2020/03/11", "", 250.0),
     ("03/11/2020", "%m/%d/%Y", 250.0), ("11/03/2020 08:15", "%d/%m/%Y", 250.0), ("43901", "excel", 250.0),
     ("11.03.20", "%d.%m.%y", 250.0), ("11/03/2020", "%m/%d/%Y", None), ("39881", "excel", None)],
)  # fmt: skip
def test_a_value_goes_to_a_study_only_by_a_date_that_is_read(
    cell: str, form: str, expected: float | None, tmp_path: Path
) -> None:
    film(tmp_path)
    (tmp_path / "labs.csv").write_text(f"pid,day,crp\nP1,{cell},250\n")
    column = {"crp": {"column": "crp", "unit": "mg/L"}}
    table = TableOptions(patient="pid", date="day", date_format=form, values=column)  # type: ignore[arg-type]
    _, notes = read(tmp_path, tables=(table,), **LABS)
    assert [entry.values.get("crp") for entry in notes.studies.values()] == ([expected] if expected else [])
    assert len(notes.skipped) == (expected is None)
    if cell in ("03/09/2009", "39881") and not form:
        assert "date_format" in notes.skipped[0].reason


def test_a_study_of_an_unreadable_date_takes_no_dated_value(tmp_path: Path) -> None:
    film(tmp_path, StudyDate="10/03/2020")
    (tmp_path / "labs.csv").write_text("pid,day,crp\nP1,2020-03-10,250\n")
    column = {"crp": {"column": "crp", "unit": "mg/L"}}
    found, notes = read(tmp_path, tables=(TableOptions(patient="pid", date="day", values=column),), **LABS)  # type: ignore[arg-type]
    assert not notes.studies and "no study of its patient has a date" in notes.skipped[0].reason
    assert found.unusable["study_date"].total() == 1 and found.instances[0].facts["study_date"] == ""


def test_studies_of_the_old_form_of_dates_are_told_apart(tmp_path: Path) -> None:
    first = film(tmp_path, StudyDate="2020.03.10")
    film(tmp_path, accession="A2", StudyDate="2021.03.10")
    (tmp_path / "labs.csv").write_text("pid,day,crp\nP1,2020-03-10,250\n")
    column = {"crp": {"column": "crp", "unit": "mg/L"}}
    _, notes = read(tmp_path, tables=(TableOptions(patient="pid", date="day", values=column),), **LABS)  # type: ignore[arg-type]
    assert {study: entry.values["crp"] for study, entry in notes.studies.items()} == {
        first.StudyInstanceUID: 250.0
    }


@pytest.mark.parametrize("form", ["%m/%Y", "d.m.y", "%H:%M", "excell"])
def test_a_form_that_states_no_day_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="states no day"):
        TableOptions(patient="pid", date_format=form)
    assert date("1.2.45", "%d.%m.%y") == "19450201" and issubclass(ConfigError, Exception)


@pytest.mark.parametrize(
    "elements, expected",
    [({"PatientBirthDate": "19500101"}, 70.0), ({"PatientBirthDate": "1950.01.01"}, 70.0),
     ({"PatientBirthDate": "18970101"}, 90.0), ({"PatientBirthDate": "17000101"}, None),
     ({"PatientBirthDate": "01/02/1950"}, None), ({"PatientAge": "101Y"}, 90.0), ({"PatientAge": "045Y"}, 45.0),
     ({"PatientAge": "45Y"}, 45.0), ({"PatientAge": "45"}, None), ({"PatientAge": "unknown"}, None),
     ({"PatientAge": "45", "PatientBirthDate": "19500101"}, 70.0), ({"PatientAge": "030M"}, 2.0),
     ({"PatientAge": "011M"}, 0.0), ({"PatientAge": "010D"}, 0.0), ({"PatientAge": ""}, None)],
)  # fmt: skip
def test_ages_are_read_or_empty(elements: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    film(tmp_path, **elements)
    found, notes = read(tmp_path)
    [entry] = study_entries(_made(found), found, notes, KEY, IngestOptions(site="north"))
    assert entry.files[0][1]["age"] == expected
    unread = found.unusable["age"].total() + sum(one.unread_births for one in found.patients.values())
    assert unread == sum(value in ("45", "unknown", "01/02/1950") for value in elements.values())


def _made(found: Scan) -> list[Any]:
    from mmmed.ingest.items import Written
    from mmmed.ingest.plan import dicom_items

    return [
        (item, Written("images/x.png", (8, 8), (0.0, 0.0), "", 0)) for item in dicom_items(found, KEY, [])
    ]


def test_a_birth_date_that_cannot_be_read_is_kept_out_of_notes(tmp_path: Path) -> None:
    film(tmp_path, PatientBirthDate="Ostern 1950")
    (tmp_path / "A1.txt").write_text("Seen Ostern 1950 and now.")
    _, notes = read(tmp_path)
    assert [entry.text for entry in notes.studies.values()] == ["Seen [ID] and now."]


# ---------------------------------------------------------------- numbers of headers


def _slice(tmp_path: Path, **elements: object) -> Dataset:
    ds = dicom(np.arange(4, dtype=np.uint16).reshape(2, 2) + 2000, sop_class=CT)
    for keyword, value in elements.items():
        written(ds, keyword, value)
    return dcmread(save(ds, tmp_path / "ct.dcm"))


def test_decimal_commas_are_read(tmp_path: Path) -> None:
    ds = _slice(
        tmp_path, RescaleSlope="0,5", RescaleIntercept="-1024,0", PixelSpacing=["0,143", "0,25"],
        ImagePositionPatient=["1,5", "0", "2,0"], ImageOrientationPatient=["1", "0", "0", "0", "1,0", "0"],
    )  # fmt: skip
    np.testing.assert_array_equal(modality_values(ds, "f"), [[-24, -23.5], [-23, -22.5]])
    [plane] = slices_of(ds, 0)
    assert plane.spacing == (0.143, 0.25) and plane.position == (1.5, 0.0, 2.0)


@pytest.mark.parametrize(
    "elements, told",
    [({"RescaleSlope": "0"}, "RescaleSlope is 0"), ({"RescaleSlope": "1.0.0"}, "RescaleSlope is no number"),
     ({"RescaleSlope": "1", "RescaleIntercept": "?"}, "RescaleIntercept is no number"),
     ({"WindowCenter": "40/400", "WindowWidth": "400"}, "WindowCenter is no number"),
     ({"RescaleSlope": "1,024,5"}, "RescaleSlope is no number"), ({"RescaleSlope": "nan"},
     "RescaleSlope is no number")],
)  # fmt: skip
def test_a_slope_or_window_that_cannot_be_right_is_refused(
    elements: dict[str, str], told: str, tmp_path: Path
) -> None:
    ds = _slice(tmp_path, **elements)
    with pytest.raises(DataError, match=f"f: {told}.*correct the header"):
        frame(ds, "f")
    if "Rescale" in told:
        with pytest.raises(DataError, match=told):
            modality_values(ds, "f")


def test_what_is_not_stated_is_told_from_what_cannot_be_read(tmp_path: Path) -> None:
    ds = _slice(tmp_path, RescaleSlope="", WindowWidth=["1,5", "2"])
    assert stated(ds, "RescaleSlope") is None and stated(ds, "RescaleIntercept") is None
    assert stated(ds, "WindowWidth") == 1.5
    written(ds, "WindowWidth", "wide")
    with pytest.raises(Unreadable, match="WindowWidth is no number"):
        stated(ds, "WindowWidth")


@pytest.mark.parametrize("coded", ["RGB", "YBR"])
@pytest.mark.parametrize("planes", [0, 1])
def test_halved_colour_over_full_samples_is_read_as_what_it_is(
    coded: str, planes: int, tmp_path: Path
) -> None:
    gray = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    samples = np.stack(
        [gray] * 3 if coded == "RGB" else [gray, np.full_like(gray, 128), np.full_like(gray, 128)], -1
    )
    ds = dicom(samples, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=planes)
    ds.PixelData = (np.moveaxis(samples, -1, 0) if planes else samples).tobytes()
    shown = frame(dcmread(save(ds, tmp_path / "f.dcm")), "f")
    np.testing.assert_allclose(shown, np.stack([gray / 255] * 3), atol=0.01)
    ds.PixelData = np.random.default_rng(0).integers(0, 256, ds.PixelData.__len__(), np.uint8).tobytes()
    with pytest.raises(DataError, match="may be RGB or YBR"):
        frame(dcmread(save(ds, tmp_path / "f.dcm")), "f")


def test_a_wfdb_header_may_leave_out_the_number_of_samples(tmp_path: Path) -> None:
    import wfdb

    from mmmed.ingest.signals import write_wfdb
    from mmmed.ingest.sources import Found

    signal = np.sin(np.arange(720) / 9)[:, None]
    for form in ("16", "212"):
        (tmp_path / form).mkdir()
        wfdb.wrsamp(
            "r",
            fs=360,
            units=["mV"],
            sig_name=["II"],
            p_signal=signal,
            fmt=[form],
            write_dir=str(tmp_path / form),
        )
        header = tmp_path / form / "r.hea"
        lengths = []
        for line in (header.read_text(), header.read_text().replace("r 1 360 720", "r 1 360")):
            header.write_text(line)
            found = Found(header, str(header))
            beside = lambda name, at=header: Found(at.parent / name, name)  # noqa: E731
            lengths.append(write_wfdb(found, beside, f"x{len(lengths)}", tmp_path).shape)
        assert lengths[0] == lengths[1] == (1, 500)
