from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, Sequence

from mmmed.data.image import read_image
from mmmed.deidentify import SiteKey
from mmmed.deidentify import pixels as pixels_module
from mmmed.deidentify.header import deidentify_header, shift_date
from mmmed.deidentify.note_scrubbing import Scrubber
from mmmed.deidentify.pixels import Seen, clear_frames, clear_text, mask
from mmmed.deidentify.volumes import has_text
from mmmed.dicom.file import open_dicom
from mmmed.errors import DataError
from simulations.bench.deidentify import LARGEST_MASKED, measure_films, read_truth
from simulations.bench.deidentify import main as bench
from tests.mmmed.dicom.files import dicom, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY = SiteKey(bytes(range(32)))
PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


# ---------------------------------------------------------------- keys


def test_pseudonyms_are_stable_and_depend_on_key_and_kind(tmp_path: Path) -> None:
    key = SiteKey.load_or_create(tmp_path / "site.key")
    again = SiteKey.load_or_create(tmp_path / "site.key")
    assert key.pseudonym("patient", "1") == again.pseudonym("patient", "1") != KEY.pseudonym("patient", "1")
    assert key.pseudonym("patient", "1") != key.pseudonym("study", "1")
    assert pydicom.uid.UID(key.uid("1.2.3")).is_valid and key.uid("1.2.3") == again.uid("1.2.3")
    assert (tmp_path / "site.key").stat().st_mode & 0o077 == 0
    assert "".join(str(b) for b in bytes(range(32))) not in repr(KEY)
    (tmp_path / "bad.key").write_text("not hexadecimal")
    with pytest.raises(DataError, match="not a site key"):
        SiteKey.load_or_create(tmp_path / "bad.key")
    with pytest.raises(DataError, match="at least 32"):
        SiteKey(b"short")


@given(patient=st.text(max_size=20), proof=st.text(max_size=20))
def test_a_copys_name_for_a_patient_is_kept_and_nobody_without_the_key_can_make_one_up(
    patient: str, proof: str
) -> None:
    name, identifier = KEY.patient(patient), KEY.copy_id(patient)
    assert KEY.patient(identifier) == name == KEY.pseudonym("patient", patient) and KEY.made(identifier)
    assert KEY.copy_id(identifier) == identifier and KEY.shift_days(identifier) == 0
    for other in (name, f"{name}-{proof}", f"{patient}-{proof}", f"{patient}-{identifier.partition('-')[2]}"):
        assert KEY.made(other) == (other == identifier)
    assert not SiteKey(bytes(32)).made(identifier)


@given(patient=st.text(max_size=20))
def test_date_shifts_go_back_between_a_month_and_ten_years(patient: str) -> None:
    assert -3650 <= KEY.shift_days(patient) <= -30


# ---------------------------------------------------------------- headers


def _named() -> Dataset:
    ds = dicom(
        np.zeros((4, 4), np.uint8), PatientID=" MHH123456 ", PatientName="Muster^Erika", PatientSex="F"
    )
    ds.PatientBirthDate, ds.StudyDate, ds.ContentDate, ds.PatientAge = (
        "19300102",
        "20200310",
        "20200315",
        "090Y",
    )
    ds.AcquisitionDateTime, ds.StudyTime = "20200310101500.000000+0100", "101500"
    ds.AccessionNumber, ds.InstitutionName, ds.BodyPartExamined = "A998877", "Invented Hospital", "CHEST"
    ds.Manufacturer = "device of Muster"
    item, inner = Dataset(), Dataset()
    inner.PatientName, inner.ReferencedSOPInstanceUID, inner.ContentCreatorName = (
        "Muster^Erika",
        "1.2.3",
        "Doc^A",
    )
    inner.add_new(0x00111001, "LO", "private Muster")
    item.SourceImageSequence = Sequence([inner])
    ds.DerivationCodeSequence = Sequence([item])
    ds.ReferringPhysicianName = "Doc^A"
    block = ds.private_block(0x11, "VENDOR", create=True)
    block.add_new(1, "LO", "Muster private")
    ds.add_new(0x60003000, "OW", b"\0\0")
    ds.add_new(0x60004000, "LT", "Muster overlay")
    ds.preamble = b"Muster".ljust(128, b"\0")
    return ds


def _texts(ds: Dataset) -> str:
    return " ".join(str(e.value) for e in ds.iterall() if e.VR not in ("SQ", "OB", "OW"))


def test_headers_keep_no_identifier_at_any_depth() -> None:
    source = _named()
    before = str(source)
    clean = deidentify_header(source, KEY)
    assert str(source) == before, "the original was changed"
    for identifier in (
        "muster",
        "erika",
        "mhh123456",
        "a998877",
        "invented",
        "doc",
        "1930",
        "2020",
        "1015",
        "vendor",
    ):
        assert identifier not in _texts(clean).lower(), identifier
    assert not any(e.tag.is_private or 0x6000 <= e.tag.group <= 0x60FF for e in clean.iterall())
    assert clean.PatientName == KEY.pseudonym("patient", "MHH123456")
    assert clean.PatientID == KEY.copy_id("MHH123456") and len(clean.PatientID) <= 64  # VR LO
    assert clean.PatientSex == "F" and clean.PatientAge == "090Y" and clean.BodyPartExamined == "CHEST"
    assert not clean.PatientBirthDate and clean.PatientIdentityRemoved == "YES"
    assert {i.CodeValue for i in clean.DeidentificationMethodCodeSequence} >= {"113100", "113101", "113107"}


def test_uids_and_dates_move_consistently_and_registered_uids_stay() -> None:
    one, two = _named(), _named()
    two.StudyInstanceUID = one.StudyInstanceUID
    two.StudyDate = "20200320"
    a, b = deidentify_header(one, KEY), deidentify_header(two, KEY)
    assert a.StudyInstanceUID == b.StudyInstanceUID != one.StudyInstanceUID
    assert a.SOPInstanceUID != b.SOPInstanceUID and a.SOPClassUID == one.SOPClassUID
    assert a.file_meta.MediaStorageSOPInstanceUID == a.SOPInstanceUID
    assert shift_date(one.StudyDate, KEY.shift_days("MHH123456")) == a.StudyDate
    days = [pydicom.valuerep.DA(date) for date in (a.StudyDate, a.ContentDate, b.StudyDate)]
    assert [(d - days[0]).days for d in days] == [0, 5, 10]
    other = _named()
    other.PatientID = "other"
    assert deidentify_header(other, KEY).StudyDate != a.StudyDate
    assert shift_date("garbage", 5) == "" and shift_date("2020.03.10", -1) == "20200309"


@pytest.mark.parametrize(
    "age, kept", [("089Y", "089Y"), ("091Y", "090Y"), ("105Y", "090Y"), ("011M", "011M"), ("x", "")]
)
def test_ages_over_89_become_one_group(age: str, kept: str) -> None:
    ds = dicom(np.zeros((2, 2), np.uint8))
    ds.add_new("PatientAge", "AS", age)
    assert (deidentify_header(ds, KEY).PatientAge or "") == kept


@pytest.mark.parametrize("path", sorted(PYDICOM_FILES.glob("*.dcm")), ids=lambda p: p.name)
def test_headers_of_every_test_file_are_cleaned_and_can_be_written(path: Path, tmp_path: Path) -> None:
    try:
        source = open_dicom(path, pixels=False)
    except DataError:
        pytest.skip("not readable as DICOM")
    clean = deidentify_header(source, KEY)
    assert not any(e.tag.is_private for e in clean.iterall())
    kept = {str(e.value) for e in clean.iterall() if e.VR == "PN" and e.value}
    assert kept <= {KEY.pseudonym("patient", str(source.get("PatientID") or "").strip())}
    uids = {
        str(e.value)
        for e in source.iterall()
        if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008")
    }
    assert not uids & {str(e.value) for e in clean.iterall() if e.VR == "UI"} - {""}
    clean.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientIdentityRemoved == "YES"


# ---------------------------------------------------------------- notes

WRITINGS = [
    ("Müller-Lüdenscheidt^Jörg", "Mr. Mueller-Luedenscheidt, Joerg was seen"),
    ("Müller-Lüdenscheidt^Jörg", "seen: JÖRG MÜLLER LÜDENSCHEIDT today"),
    ("Mueller^Joerg", "Müllers Bild; Jörg wohlauf"),
    ("O'Neil^Mary", "ONeil mary's film, O Neil again"),
    ("Grün, Zoë", "zoe gruen improved"),
    ("Anna Maria Groß", "Fr. Gross (anna-maria)"),
]


@pytest.mark.parametrize("name, note", WRITINGS)
def test_known_names_are_found_in_every_spelling(name: str, note: str) -> None:
    text = Scrubber(names=[name]).scrub(note).text
    assert "[NAME]" in text
    bare = re.sub(r"\W", "", text.lower())
    for part in (
        "mueller",
        "müller",
        "lüden",
        "luede",
        "jörg",
        "joerg",
        "neil",
        "mary",
        "zo",
        "gr",
        "anna",
        "maria",
    ):
        assert part not in bare.replace("name", "")


@pytest.mark.parametrize(
    "note",
    ["MHH2614966", "mhh 2614966", "MHH-2614966", "(MHH/261.4966)", "id:MHH2614966."],
)
def test_known_ids_are_found_in_every_spelling(note: str) -> None:
    text = Scrubber(ids=["MHH2614966"]).scrub(note).text
    assert "2614966" not in re.sub(r"\W", "", text) and "[ID]" in text


NUMERIC_DATES = ["23.03.1953", "23.3.53", "1953-03-23", "19530323", "03/23/1953", "3/23/53", "230353"]
WORDED_DATES = ["23 March 1953", "March 23, 1953", "23. März 1953", "23rd of March"]


@pytest.mark.parametrize("written", [*NUMERIC_DATES, *WORDED_DATES])
def test_birth_dates_are_found_in_every_spelling(written: str) -> None:
    scrubbed = Scrubber(dates=["19530323"]).scrub(f"* {written}, f")
    assert scrubbed.text == "* [DATE], f" and scrubbed.counts["DATE"] == 1


@pytest.mark.parametrize(
    "note, kind, gone",
    [
        ("call 0511-532 1234 or +49 511 5321234", "PHONE", "5321234"),
        ("Tel. (212) 555-0100", "PHONE", "555"),
        ("mail jo.doe@clinic.example.org", "EMAIL", "clinic"),
        ("see https://pacs.example.org/?id=7", "URL", "pacs"),
        ("from host 10.20.30.40", "IP", "10.20"),
        ("SSN 123-45-6789", "SSN", "6789"),
        ("MRN: 12345", "ID", "12345"),
        ("Accession No. A13545918", "ID", "A13545918"),
        ("Fall-Nr. 77-1234", "ID", "1234"),
        ("study 998877665 done", "ID", "998877665"),
        ("a 94-year-old man", "AGE", "94"),
        ("96 Jahre alt", "AGE", "96"),
        ("lives at 12 Main Street", "ADDRESS", "Main"),
        ("wohnt Carl-Neuberg-Str. 1, 30625 Hannover", "ADDRESS", "Neuberg"),
        ("wohnt Carl-Neuberg-Str. 1, 30625 Hannover", "ADDRESS", "Hannover"),
        ("Dr. med. Hans Schmidt", "NAME", "Schmidt"),
        ("Reported by Jane A. Doe, 3 pm", "NAME", "Doe"),
        ("Patient: Doe, Jane", "NAME", "Jane"),
        ("transferred from Mount Sinai Hospital", "PLACE", "Sinai"),
        ("on 4th March 2020", "DATE", "March"),
        ("in March 2020", "DATE", "2020"),
        ("seen 2020-03-04 and 4.3.20", "DATE", "4.3"),
    ],
)  # fmt: skip
def test_identifiers_with_a_form_are_recognised(note: str, kind: str, gone: str) -> None:
    scrubbed = Scrubber().scrub(note)
    assert f"[{kind}]" in scrubbed.text and gone not in scrubbed.text and scrubbed.counts[kind] >= 1


CLINICAL = [
    "Right lower lobe opacity, 3.5 x 2.1 cm, SpO2 95 %, T4 N2 M0, 120/80 mmHg, WBC 12,300/µl, CRP 120 mg/l.",
    "Temperature 38.5 on day 3; PaO2/FiO2 150/200; COVID-19, SARS-CoV-2 PCR positive 10 days ago; a 64-year-old.",
    "Mean -119.07385 Hounsfield, 12345 ng.",
    "Compare L4-5, 2-3 weeks, stage 1/2, room air, pH 7.35, Na 140, ICD J12.9. No pleural effusion.",
]


@pytest.mark.parametrize("note", CLINICAL)
def test_clinical_content_is_left_alone(note: str) -> None:
    scrubbed = Scrubber(names=["Muster^Erika"], ids=["4711", "20"], dates=["19530323"]).scrub(note)
    assert scrubbed.text == note and not scrubbed.counts


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=15), st.text(max_size=15))
def test_scrubbing_never_fails_and_removes_known_ids(note: str, name: str, number: str) -> None:
    scrubber = Scrubber(names=[name], ids=[number], dates=[number])
    once = scrubber.scrub(note).text
    assert isinstance(scrubber.scrub(f"{once} {name} {number}").text, str)


def test_hostile_notes_take_no_time_that_grows_faster_than_they_do() -> None:
    for pattern in (
        "a" * 40_000,
        "1 " * 20_000,
        "A. " * 12_000,
        "Dr. " * 10_000,
        "1-" * 20_000,
        "Mount " * 8_000,
    ):
        assert Scrubber(names=["Muster^Erika"], ids=["MHH123"]).scrub(pattern).text


# ---------------------------------------------------------------- pixels


def _film(
    text: str, side: int = 512, at: tuple[int, int] = (10, 12)
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    base = 120 + 60 * np.sin(6 * x) * np.cos(4 * y) + draw.normal(0, 6, (side, side))
    image = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=20)
    canvas.text(at, text, fill=255, font=font)
    box = canvas.textbbox(at, text, font=font)
    return np.asarray(image, dtype=np.float32)[None] / 255, tuple(int(v) for v in box)


def test_burned_in_text_is_masked_and_the_rest_untouched() -> None:
    film, (left, top, right, bottom) = _film("Muster, Erika 02.01.1930 MHH123456")
    cleared = clear_text(film)
    assert cleared.clear and (cleared.pixels[:, top:bottom, left:right] == 0).all()
    changed = cleared.pixels != film
    assert changed.mean() < 0.04


def test_a_film_without_text_and_its_side_marker_are_left_alone() -> None:
    for text in ("", "L"):
        film, _ = _film(text)
        cleared = clear_text(film)
        assert cleared.clear and cleared.boxes == () and cleared.pixels is film
        assert bool(cleared.markers) == bool(text)  # a human looks at what was seen


def _print(text: str, size: int, turn: float = 0.0, font: str = "") -> tuple[np.ndarray, np.ndarray]:
    """A film of 1,300 x 1,200 pixels with print in its middle, (1, H, W) in [0, 1], and the ink of the print."""
    shown = ImageFont.truetype(font, size) if font else ImageFont.load_default(size=size)
    left, top, right, bottom = shown.getbbox(text)
    line = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(line).text((4 - left, 4 - top), text, fill=255, font=shown)
    line = line.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    ink = np.zeros((1, 1300, 1200), np.float32)
    y, x = (1300 - line.height) // 2, (1200 - line.width) // 2
    ink[0, y : y + line.height, x : x + line.width] = np.asarray(line, np.float32) / 255
    rows, columns = np.mgrid[:1300, :1200] / 1300
    film = (
        0.4
        + 0.2 * np.sin(6 * columns) * np.cos(4 * rows)
        + np.random.default_rng(0).normal(0, 0.02, rows.shape)
    )
    return (film[None] * (1 - ink) + ink).astype(np.float32), ink > 0.3


@pytest.mark.parametrize(("size", "turn"), [(9, 0), (12, 90), (150, 0), (40, 45), (30, 70), (30, 180)])
def test_small_huge_and_turned_print_is_masked(size: int, turn: float) -> None:
    film, ink = _print("MUSTER" if size > 100 else "Muster, Erika 02.01.1930", size, turn)
    cleared = clear_text(film)
    masked = cleared.pixels == 0
    assert cleared.clear and masked[ink].mean() > 0.97 and masked.mean() < max(0.03, 6 * ink.mean())


def test_print_of_other_scripts_is_masked() -> None:
    font = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
    if not font.is_file():
        pytest.skip("no font with Cyrillic letters")
    film, ink = _print("Иванова Мария", 28, font=str(font))
    assert (clear_text(film).pixels == 0)[ink].mean() > 0.97


def _clip(count: int, noise: float = 0.0) -> list[np.ndarray]:
    """Frames of a round sector that moves, on black."""
    y, x = np.mgrid[:256, :256]
    inside = (x - 128) ** 2 + (y - 140) ** 2 < 90**2
    draw = np.random.default_rng(0)
    frames = [inside * (0.4 + 0.2 * np.sin(x / 9 + n) * np.cos(y / 11)) for n in range(count)]
    return [(f + noise * draw.normal(size=f.shape)).clip(0, 1).astype(np.float32)[None] for f in frames]


def _write_on(frame: np.ndarray, text: str, at: tuple[int, int], value: float) -> tuple[int, int, int, int]:
    image = Image.new("L", frame.shape[:0:-1])
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=18)
    canvas.text(at, text, fill=255, font=font)
    frame[0] += (value - frame[0]) * np.asarray(image) / 255
    return tuple(int(v) for v in canvas.textbbox(at, text, font=font))  # type: ignore[return-value]


@pytest.mark.parametrize("at", [(4, 4), (70, 120)])
def test_text_in_one_frame_of_a_clip_is_found(at: tuple[int, int]) -> None:
    frames = _clip(5)
    left, top, right, bottom = _write_on(
        frames[1], "Muster, Erika", at, 1.0
    )  # neither first, middle nor last
    (boxes, _), clear = clear_frames(iter(frames))
    assert clear and mask(np.ones((1, 256, 256), np.float32), boxes)[0, top:bottom, left:right].max() == 0


def test_text_that_comes_slowly_is_found() -> None:
    frames = [frame.copy() for frame in _clip(1) * 9]
    for number, frame in enumerate(frames):
        left, top, right, bottom = _write_on(frame, "Muster, Erika", (4, 4), 0.04 * number)
    (boxes, _), clear = clear_frames(frames)
    assert clear and mask(np.ones((1, 256, 256), np.float32), boxes)[0, top:bottom, left:right].max() == 0


def test_what_was_looked_at_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(pixels: np.ndarray, longest: int = 0) -> Seen:
        looked.append(pixels[0].size)
        return Seen()

    monkeypatch.setattr(pixels_module, "find_text", counted)
    assert clear_frames(_clip(1, noise=0.005) * 300) == (Seen(), True) and looked == [256 * 256]
    looked.clear()
    frames = _clip(5)
    clear_frames(frames)  # in the others, the sector and a margin
    assert len(looked) == 5 and all(size <= (180 + 2 * 14) ** 2 for size in looked[1:])


def _phantom() -> np.ndarray:
    """A chest of sorts in Hounsfield units, (160, 160, 10): its spine is brighter than the text of other slices."""
    z, y, x = np.mgrid[:10, :160, :160]
    body = (x - 80) ** 2 + (y - 80) ** 2 < 60**2
    spine = (x - 80) ** 2 + (y - 75 - z) ** 2 < 20**2
    volume = np.where(spine, 900, np.where(body, 40, -1000))
    return np.moveaxis(volume + np.random.default_rng(0).normal(0, 12, volume.shape), 0, 2).astype(np.float32)


def test_a_volume_without_text_is_left_alone() -> None:
    assert not has_text(_phantom(), axes=(2,))


@pytest.mark.parametrize(
    ("slices", "value"), [((0,), 700), ((9,), 700), ((4, 5, 6), -1000), (range(10), 1500)]
)
def test_text_in_any_slice_of_a_volume_is_found(slices: Sequence[int], value: float) -> None:
    volume = _phantom()
    for number in slices:
        _write_on(volume[None, :, :, number], "Muster 2.1.1930", (24, 30), value)
    assert has_text(volume, axes=(2,))


def test_text_is_found_only_across_the_axes_that_are_asked_for() -> None:
    volume = np.repeat(_phantom(), 12, axis=2)[50:90]
    _write_on(volume[None, 20, :, :], "Muster", (12, 30), 1500)
    assert has_text(volume, axes=(0,)) and not has_text(volume, axes=(2,))


def test_an_image_that_is_mostly_text_is_not_clear() -> None:
    page = Image.new("L", (500, 500))
    for row in range(0, 500, 24):
        ImageDraw.Draw(page).text(
            (2, row), "Erika Muster, born 02.01.1930, MHH123456", fill=255, font_size=24
        )
    assert not clear_text(np.asarray(page, dtype=np.float32)[None] / 255).clear


# ---------------------------------------------------------------- ground truth


def test_no_invented_identifier_survives_and_clean_film_stays(medical_data: Path) -> None:
    truths = read_truth(medical_data / "dicom_mini" / "synthetic_phi.csv")
    flags = [
        str(pydicom.dcmread(t.file, stop_before_pixels=True).BurnedInAnnotation) for t in truths if t.boxes
    ]
    assert len(truths) == 24 and len(flags) == 12 and flags.count("NO") == 4
    films = measure_films(truths)
    assert {what: tally.survive for what, tally in films.tallies.items()} == dict.fromkeys(films.tallies, 0)
    assert {what: tally.identifiers for what, tally in films.tallies.items()} == {
        **{f"header: {kind}": 24 for kind in ("name", "id", "accession", "birth_date", "study_date")},
        "comment: name": 24, "comment: study_date": 24, "pixels: burned-in text": 12,
    }  # fmt: skip
    assert films.quarantined == 0 and films.clean_masked <= LARGEST_MASKED


def test_the_report_tells_what_survives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, (left, top, right, bottom) = _film("Muster, Erika 02.01.1930")
    pixels = (film[0] * 255).astype(np.uint8)
    save(
        dicom(pixels, PatientID="MHH1", PatientName="Muster^Erika", StudyDescription="Muster"),
        tmp_path / "f.dcm",
    )
    table = tmp_path / "truth.csv"

    def report(box: object) -> tuple[int, dict[str, dict[str, object]]]:
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "name", "id", "burned_box_xyxy"])
            writer.writerow(["f.dcm", "Muster^Erika", "MHH1", json.dumps(box)])
        code = bench(
            ["--truth", str(table), "--notes", "26", "--films", "0", "--json", str(tmp_path / "x.json")]
        )
        found = json.loads((tmp_path / "x.json").read_text())
        assert found["films"]["films"] == 1
        return code, {row["where and what"]: row for row in found["rows"]}

    code, rows = report([left, top, right, bottom])
    assert rows["pixels: burned-in text"]["survive"] == rows["header: name"]["survive"] == 0
    assert rows["header: id"]["identifiers"] == 1
    code, rows = report([[left, top, right, bottom], [200, 300, 280, 320]])  # one that nobody could find
    assert code == 1 and rows["pixels: burned-in text"]["recall"] == 0.5
    table.write_text("file\nabsent.dcm\n")
    with pytest.raises(SystemExit):
        bench(["--truth", str(table), "--films", "0"])
    assert "no file" in capsys.readouterr().err


def test_ultrasound_with_patient_bar_is_cleared(medical_data: Path, tmp_path: Path) -> None:
    scan = medical_data / "dicom_mini" / "corpus" / "deid_GREYSCALE_IMAGE.dcm"
    cleared = clear_text(read_image(scan, channels=1))
    assert cleared.clear and len(cleared.boxes) >= 10
    assert save(deidentify_header(pydicom.dcmread(scan), KEY), tmp_path / "x.dcm").exists()
