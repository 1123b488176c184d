"""A small hospital with a file of every kind that is read, to be damaged by tests; and ways to damage it.

Every file name holds `MARK`, so that it is seen wherever it turns up.
"""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import soundfile
import wfdb
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.mmmed.dicom.files import CT, dicom, save
from tests.mmmed.ingest.documents import ccda_document

MARK = "qzxsource"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
_SYNTAXES = (  # of films
    ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless
)  # fmt: skip

OPTIONS = r"""
site = "north"
workers = 1

[[tables]]
files = "qzxsource-media*"
patient = "pid"
study = "acc"
file = "path"
text = "note"
keep = ["ward"]

[[tables]]
files = "qzxsource-labs*"
patient = "pid"
date = "day"
names = ["name"]
birth_date = "born"
sex = "sex"
values.crp = { column = "CRP", unit = "mg/dL" }
codes = { icd = "ICD10" }

[values.crp]
unit = "mg/L"
codes = ["LOINC:1988-5"]

[values.lvef]
unit = "%"
codes = ["LOINC:10230-1"]

[labels.pneumonia]
codes = ["ICD10:J18", "SNOMED:233604007"]

[labels.effusion]
text = "effusion"
"""


def patient(number: int, place: int) -> str:
    """Id of a patient of hospital `number`."""
    return f"QZID{number:03}{place:02}"


def write_sources(root: Path, number: int) -> None:
    """Hospital `number`, whose patients and objects no other number shares."""
    root.mkdir(parents=True)
    draw = np.random.default_rng(number)
    _dicom(root, number, draw)
    _documents(root, number)
    _media(root, number, draw)


def _uid(number: int, place: int) -> str:
    return f"1.2.826.0.1.999.{number + 1}.{place + 1}"


def _named(ds: Dataset, number: int, place: int, sop: int | None = None) -> Dataset:
    """The object as one of patient and study `place`."""
    ds.PatientID, ds.PatientName = patient(number, place), f"Qzname{number:03}{place:02}^Erika"
    ds.StudyInstanceUID = _uid(number, place)
    ds.SOPInstanceUID = f"{_uid(number, place)}.{sop or place}"
    ds.SeriesInstanceUID = f"{_uid(number, place)}.0"
    ds.AccessionNumber, ds.StudyDate = f"QZACC{number:03}{place:02}", "20200310"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _dicom(root: Path, number: int, draw: np.random.Generator) -> None:
    def film(place: int) -> Dataset:
        return _named(dicom(_gray(draw)), number, place)

    save(film(0), root / "1" / f"{MARK}-film.dcm")
    (root / "1" / f"{MARK}-note.txt").write_text(
        f"HISTORY: Erika Qzname{number:03}00\nFINDINGS: small effusion."
    )
    for place, syntax in enumerate(_SYNTAXES, start=1):
        ds = film(place)
        if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(root / f"{MARK}-film-{place}.dcm", enforce_file_format=True)
    for place, name in ((6, "MR_small_jpeg_ls_lossless"), (7, "reportsi")):
        ds = pydicom.dcmread(str(get_testdata_file(f"{name}.dcm")))
        _named(ds, number, place).save_as(root / f"{MARK}-{name}.dcm")
    slices = (8 * np.stack([_gray(draw)[::4, ::4].astype(np.int16) for _ in range(4)])).astype(np.int16)
    for place, plane in enumerate(slices):
        ds = _named(dicom(plane, sop_class=CT), number, 10, sop=place + 1)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3 * place], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [0.7, 0.5]
        save(ds, root / "ct" / f"{MARK}-{place}.dcm")
    save(_named(_enhanced(slices), number, 11), root / f"{MARK}-enhanced.dcm")
    ecg = pydicom.dcmread(str(get_testdata_file("waveform_ecg.dcm")))
    group = ecg.WaveformSequence[0]
    ecg.WaveformSequence = Sequence([group])
    group.WaveformData = group.WaveformData[: 2 * 500 * int(group.NumberOfWaveformChannels)]
    group.NumberOfWaveformSamples = 500
    save(_named(ecg, number, 12), root / f"{MARK}-ecg.dcm")
    disc = FileSet()
    ds = film(13)
    ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "120000", "1", 1, 1
    disc.add(ds)
    disc.write(root / f"{MARK}-disc")
    with zipfile.ZipFile(root / f"{MARK}-export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(save(film(14), root / "out.dcm"), f"exam/{MARK}-film.dcm")
        archive.writestr(f"exam/{MARK}-note.txt", "No effusion.")
    (root / "out.dcm").unlink()


def _gray(draw: np.random.Generator) -> np.ndarray:
    """A smooth picture, in which nothing looks like text: (64, 64) uint8."""
    y, x = np.mgrid[:64, :64] / 64
    return (128 + 100 * np.sin(draw.uniform(2, 9) * x + draw.uniform(2, 9) * y)).astype(np.uint8)


def _enhanced(slices: np.ndarray) -> Dataset:
    """All slices in one object (PS3.3 A.38)."""
    ds = dicom(slices, sop_class=ENHANCED_CT, Modality="CT")
    shared, plane, pixels = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, pixels.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.5]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([pixels])
    frames = []
    for place in range(len(slices)):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2 * place]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return ds


def _documents(root: Path, number: int) -> None:
    def resource(kind: str, place: int, **elements: object) -> dict[str, Any]:
        return {"resourceType": kind, "subject": {"reference": f"Patient/{number}-{place}"}, **elements}

    def concept(system: str, code: str) -> dict[str, Any]:
        return {"coding": [{"system": system, "code": code}]}

    def person(place: int) -> dict[str, Any]:
        return {"resourceType": "Patient", "id": f"{number}-{place}", "birthDate": "1950-01-02", "gender": "male",
                "identifier": [{"value": patient(number, place)}],
                "name": [{"family": f"Qzname{number:03}{place:02}", "given": ["Otto"]}]}  # fmt: skip

    note = base64.b64encode(b"Otto has an effusion.").decode()
    entries = [
        person(20),
        resource("DiagnosticReport", 20, status="final", code={"text": "CXR"}, conclusion="No effusion, Otto.",
                 conclusionCode=[concept("http://snomed.info/sct", "233604007")], effectiveDateTime="2020-03-10"),
        resource("DocumentReference", 20, status="current", date="2020-03-10T12:00:00Z",
                 content=[{"attachment": {"contentType": "text/plain", "data": note}}]),
        resource("Condition", 20, code=concept("http://hl7.org/fhir/sid/icd-10", "J18.9"), recordedDate="2020-03-10",
                 clinicalStatus=concept("http://x", "active")),
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in entries]}
    (root / f"{MARK}-bundle.json").write_text(json.dumps(bundle))
    crp = resource("Observation", 21, status="final", code=concept("http://loinc.org", "1988-5"),
                   effectiveDateTime="2020-03-11T08:00:00Z", valueQuantity={"value": 3.1, "code": "mg/dL"})  # fmt: skip
    boolean = resource("Observation", 21, status="final", code=concept("http://snomed.info/sct", "233604007"),
                       valueBoolean=True)  # fmt: skip
    (root / f"{MARK}-export.ndjson").write_text("\n".join(map(json.dumps, (person(21), crp, boolean))))
    name = (f"Qzname{number:03}22", "Erika")
    (root / f"{MARK}-document.xml").write_text(
        ccda_document(patient(number, 22), f"QZACC{number:03}22", name, _uid(number, 22))
    )
    labs = pd.DataFrame({
        "pid": [patient(number, 23), patient(number, 0)], "day": ["2020-03-10"] * 2, "CRP": [1.5, None],
        "name": [f"Qzname{number:03}23 Max", ""], "born": ["1940-05-06", ""], "sex": ["m", "w"],
        "icd": ["J18.0", "I50"],
    })  # fmt: skip
    labs.to_csv(root / f"{MARK}-labs.csv", index=False)
    others = {"pid": [patient(number, 24), patient(number, 1)], "name": [f"Qzname{number:03}24 Max", ""]}
    labs.assign(**others).to_parquet(root / f"{MARK}-labs.parquet")


def _media(root: Path, number: int, draw: np.random.Generator) -> None:
    folder = root / "media"
    folder.mkdir()
    gray = _gray(draw)
    Image.fromarray(gray).save(folder / f"{MARK}-x.png")
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(folder / f"{MARK}-x.jpg")
    volume = nibabel.Nifti1Image(draw.integers(0, 99, (5, 6, 7)).astype(np.int16), np.diag([1.0, 2, 3, 1]))
    nibabel.save(volume, folder / f"{MARK}-v.nii")
    nibabel.save(volume.slicer[1:], folder / f"{MARK}-v.nii.gz")
    tone = 0.5 * np.sin(np.arange(2000) * 0.1)
    soundfile.write(folder / f"{MARK}-h.wav", tone, 4000)
    soundfile.write(folder / f"{MARK}-h.flac", tone, 4000)
    wfdb.wrsamp(f"{MARK}-r", fs=360, units=["mV"], sig_name=["II"], p_signal=tone[:720, None], fmt=["16"],
                write_dir=str(folder), comments=["Qzname"])  # fmt: skip
    names = ["x.png", "x.jpg", "v.nii", "v.nii.gz", "h.wav", "h.flac", "r"]
    rows = [
        f"{patient(number, 30 + i)},D{number}-{i},media/{MARK}-{name},mole,W{i}"
        for i, name in enumerate(names)
    ]
    (root / f"{MARK}-media.csv").write_text("\n".join(["pid,acc,path,note,ward", *rows]) + "\n")


# ---------------------------------------------------------------- damage

_ENDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)


def damage(path: Path, draw: random.Random) -> None:
    """Change a file in one to three ways that a disk, a network or an attacker may."""
    content = bytearray(path.read_bytes())
    if path.suffix in (".json", ".ndjson") and draw.random() < 0.5:
        lines = content.decode().splitlines()
        content = bytearray("\n".join(_json(line, draw) for line in lines), "utf-8", "surrogatepass")
    else:
        for _ in range(draw.randint(1, 3)):
            draw.choice(_WAYS)(content, draw)
    path.write_bytes(content)


def _place(content: bytearray, draw: random.Random) -> int:
    """Anywhere, half of the time in the header."""
    return draw.randrange(max(1, min(len(content), 600) if draw.random() < 0.5 else len(content)))


def _flip(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 4, 32)) if content else 0):
        content[_place(content, draw)] ^= 1 << draw.randrange(8)


def _cut(content: bytearray, draw: random.Random) -> None:
    del content[_place(content, draw) :]


def _insert(content: bytearray, draw: random.Random) -> None:
    place = _place(content, draw)
    content[place:place] = draw.randbytes(draw.choice((1, 2, 7, 300)))


def _remove(content: bytearray, draw: random.Random) -> None:
    place = _place(content, draw)
    del content[place : place + draw.choice((1, 2, 4, 100))]


def _repeat(content: bytearray, draw: random.Random) -> None:
    place = _place(content, draw)
    part = content[place : place + draw.choice((1, 8, 200))]
    content[place:place] = part * draw.choice((1, 3, 500))


def _swap(content: bytearray, draw: random.Random) -> None:
    size = draw.choice((2, 4, 40))
    a, b = sorted((_place(content, draw), _place(content, draw)))
    if a + size <= b and b + size <= len(content):
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def _number(content: bytearray, draw: random.Random) -> None:
    """A length, count or offset becomes one at the end of its range."""
    size, order = draw.choice((1, 2, 4)), draw.choice("<>")
    place, value = _place(content, draw), draw.choice(_ENDS) & (1 << 8 * size) - 1
    content[place : place + size] = struct.pack(order + {1: "B", 2: "H", 4: "I"}[size], value)


_WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _cut, _insert, _remove, _repeat, _swap, _number, _number
)  # fmt: skip


def _json(line: str, draw: random.Random) -> str:
    """One value of a document becomes another that JSON allows."""
    document = json.loads(line)
    where: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            where.append((node, key))
            visit(node[key])

    visit(document)
    if where:
        node, key = draw.choice(where)
        value = draw.choice([None, "", [], {}, [[]], 1e309, -1, 10**400, True, "A" * 5000, "\ud800", "\0", "<p>" * 900,
                             "2020-13-45", "10*999999999", {"resourceType": "Bundle"}, [None], node])  # fmt: skip
        node[key] = _nested() if value is node else value
    return json.dumps(document)


def _nested() -> Any:
    inner: Any = "x"
    for _ in range(300):
        inner = [inner]
    return inner


# ---------------------------------------------------------------- attacks


def write_attacks(root: Path, escape: Path) -> None:
    """Files made to hurt. ``escape`` is a path that none of them may write."""
    root.mkdir(parents=True)
    with zipfile.ZipFile(root / f"{MARK}-slip.zip", "w") as archive:
        archive.writestr(os.path.relpath(escape, root), "x")
        archive.writestr("../" * 30 + str(escape)[1:], "x")
        archive.writestr(str(escape), "x")
        link = zipfile.ZipInfo(f"{MARK}-link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(escape.parent))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                archive.writestr(f"{MARK}-twice.txt", "x")
        archive.writestr(f"{MARK}-inner.zip", b"PK\5\6" + bytes(18))
    with zipfile.ZipFile(root / f"{MARK}-bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{MARK}-zeros.dcm", bytes(40 << 20))
    with zipfile.ZipFile(root / f"{MARK}-none.zip", "w"):
        pass
    (root / f"{MARK}-link.dcm").symlink_to("/etc/passwd")
    (root / f"{MARK}-loop").symlink_to(root)
    (root / f"{MARK}-gone.txt").symlink_to(root / "absent")
    os.mkfifo(root / f"{MARK}-pipe.csv")
    (root / f"{MARK}-deep.json").write_text("[" * 200_000)
    (root / f"{MARK}-deep.xml").write_text('<ClinicalDocument xmlns="urn:hl7-org:v3">' + "<a>" * 200_000)
    (root / f"{MARK}-laughs.xml").write_text('<!DOCTYPE a [<!ENTITY b "lol">]><a>&b;</a>')
    (root / f"{MARK}-empty.dcm").touch()
    (root / f"{MARK}-media-empty.csv").write_text("pid,acc,path,note,ward\n")
    (root / f"{MARK}-media-out.csv").write_text(
        "pid,acc,path,note,ward\nQZIDX,,../../../../../etc/passwd,,\n"
    )
    (root / os.fsdecode(b"qzxsource-\xff\xfe\n\x1b[31m'\".txt")).write_text("no UTF-8 name")
    (root / f"{MARK}-{'n' * 200}.txt").write_text("a long name")
    (root / f"{MARK}-=cmd()|.txt").write_text("effusion " * 20_000)
    head = bytes(128) + b"DICM"
    sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (root / f"{MARK}-recursive.dcm").write_bytes(head + sequence * 50_000)
    huge = _named(dicom(np.zeros((4, 4), np.uint16)), 999, 0)
    huge.Rows = huge.Columns = 65535
    save(huge, root / f"{MARK}-huge.dcm")
    many = _named(dicom(np.zeros((2, 4, 4), np.uint8)), 999, 1)
    many.NumberOfFrames = 2_000_000_000
    save(many, root / f"{MARK}-many.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = _named(dicom(np.zeros((64, 64), np.uint8)), 999, 2)
        names.PatientName = "^".join(f"N{n}" for n in range(9000))
        save(names, root / f"{MARK}-names.dcm")
