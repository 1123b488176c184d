"""Plain text of headers is what pydicom says of it, and no deflated file passes for a plain one."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mmmed.deidentify.header import names_and_others
from mmmed.dicom import file as file_module
from mmmed.dicom.file import open_dicom
from mmmed.dicom.header import text, texts
from mmmed.errors import DataError

_WORDS = st.text(st.sampled_from("Aä山 z9\\^.-"), max_size=12)


@given(name=_WORDS, identifier=_WORDS, implicit=st.booleans())
def test_text_is_what_pydicom_reads(name: str, identifier: str, implicit: bool) -> None:
    given_ = Dataset()
    given_.SpecificCharacterSet = "ISO_IR 192"
    given_.add_new("PatientName", "PN", name.split("\\"))
    given_.add_new("PatientID", "LO", identifier.split("\\"))
    item = Dataset()
    item.add_new("PersonName", "PN", "Inner^Ann")
    given_.PersonIdentificationCodeSequence = [item]
    encoded = io.BytesIO()
    dcmwrite(encoded, given_, implicit_vr=implicit, little_endian=True)

    def fresh() -> Dataset:
        read = dcmread(io.BytesIO(encoded.getvalue()), force=True)
        read.set_original_encoding(implicit, True, "utf8")
        return read

    slow = fresh()
    for keyword in ("PatientName", "PatientID", "StudyDate"):
        value = slow.get(keyword)
        several = value if isinstance(value, MultiValue) else [value]
        assert texts(fresh(), keyword) == [one for said in several if (one := str(said or "").strip())]
        if not isinstance(value, MultiValue):
            assert text(fresh(), keyword) == str(value or "").strip()
    names, others = names_and_others(fresh())
    assert names == {"Inner^Ann", *texts(slow, "PatientName")} and others == set(texts(slow, "PatientID"))


@pytest.mark.parametrize("padding", [0, 60, 3000, 70_000])
def test_a_deflated_bomb_is_refused_wherever_its_encoding_is_named(
    padding: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "MAX_INFLATED_BYTES", 1000)
    meta = FileMetaDataset()
    if padding:
        meta.FileMetaInformationVersion = bytes(padding)
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, meta, enforce_standard=False)
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packed.compress(bytes(5000)) + packed.flush()
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(bytes(128) + b"DICM" + head.getvalue() + body)
    with pytest.raises(DataError, match="inflates"):
        open_dicom(bomb)
