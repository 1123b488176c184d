"""Write a film as a DICOM file: Computed Radiography or Digital X-Ray for presentation.

Modules after DICOM PS3.3: Patient (C.7.1.1), General Study (C.7.2.1), General Series (C.7.3.1), CR Image
(C.8.1.2) or DX Image and its companions (C.8.11), Image Pixel (C.7.6.3), VOI LUT (C.11.2). UIDs are UUIDs
under 2.25 (PS3.5 B.2), hashed from names, so that the same film always gets the same bytes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

_NAMESPACE = uuid.UUID("5c1f6f8e-0d0b-5a36-9c4a-6d6d6d656400")
_WINDOW = (0.5, 0.9)  # centre and width, share of full scale


@dataclass(frozen=True)
class Encoding:
    """How a scanner stores its films."""

    modality: Literal["CR", "DX"]
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    bits: int  # stored: 8, 12 or 16
    view: Literal["PA", "AP"] = "PA"
    width_mm: float = 350.0  # of the imaged field


@dataclass(frozen=True)
class StudyInfo:
    """What the file says about patient and study; all of it made up."""

    site: str
    scanner: str
    patient_id: str
    study_id: str
    sex: str
    born: date
    day: date

    @property
    def age(self) -> int:
        """Years, for someone born on 1 January."""
        return self.day.year - self.born.year


def make_uid(*names: str) -> UID:
    """A valid UID that the names alone determine."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(names)).int}")


def encode(image: NDArray[np.float32], encoding: Encoding) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Display values 0..1 (1 is white) to stored values; MONOCHROME1 stores black as the highest value."""
    full = 2**encoding.bits - 1
    stored = np.rint(image.astype(np.float64) * full)
    if encoding.photometric == "MONOCHROME1":
        stored = full - stored
    return stored.astype(np.uint8) if encoding.bits <= 8 else stored.astype(np.uint16)


def write_film(
    path: Path, image: NDArray[np.float32], encoding: Encoding, info: StudyInfo, seed: int
) -> None:
    """Write a film as a DICOM file.

    Args:
        path: the file.
        image: float32 [rows, columns] in 0..1, where 1 is white.
        encoding: modality, photometric interpretation, bits and size of the field in mm.
        info: what the header says of patient and study.
        seed: part of every UID, so that data sets of different seeds share none.
    """
    uid = (str(seed), info.site, info.patient_id, info.study_id)
    ds = Dataset()
    _patient_and_study(ds, info, uid)
    if encoding.modality == "DX":
        ds.SOPClassUID = DigitalXRayImageStorageForPresentation
        _digital_xray(ds, encoding)
    else:
        ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = make_uid(*uid, "image")
    ds.Modality = encoding.modality
    ds.ViewPosition = encoding.view
    _pixels(ds, encode(image, encoding), encoding)
    ds.file_meta = _file_meta(ds)
    ds.save_as(path, enforce_file_format=True)


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = make_uid("mmmed", "demo")  # ours, so that pydicom's version leaves no trace
    meta.ImplementationVersionName = "MMMED_DEMO"
    return meta


def _patient_and_study(ds: Dataset, info: StudyInfo, uid: tuple[str, ...]) -> None:
    day = info.day.strftime("%Y%m%d")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"Generated^{info.patient_id}"
    ds.PatientID = info.patient_id
    ds.IssuerOfPatientID = info.site
    ds.PatientBirthDate = info.born.strftime("%Y%m%d")
    ds.PatientSex = info.sex
    ds.PatientAge = f"{info.age:03d}Y"
    ds.StudyInstanceUID = make_uid(*uid, "study")
    ds.SeriesInstanceUID = make_uid(*uid, "series")
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "090000"
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.AccessionNumber = info.study_id
    ds.StudyDescription = "Chest film (generated)"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.Manufacturer = "mmmed demo"
    ds.ManufacturerModelName = info.scanner
    ds.InstitutionName = info.site
    ds.BodyPartExamined = "CHEST"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.BurnedInAnnotation = "NO"
    ds.PatientOrientation = ["L", "F"]


def _digital_xray(ds: Dataset, encoding: Encoding) -> None:
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Chest"
    ds.AnatomicRegionSequence = Sequence([region])
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if encoding.photometric == "MONOCHROME1" else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PresentationLUTShape = "INVERSE" if encoding.photometric == "MONOCHROME1" else "IDENTITY"
    ds.LossyImageCompression = "00"
    ds.DetectorType = "SCINTILLATOR"
    ds.ImageLaterality = "U"
    ds.AcquisitionContextSequence = Sequence([])


def _pixels(ds: Dataset, stored: NDArray[np.uint8] | NDArray[np.uint16], encoding: Encoding) -> None:
    full = 2**encoding.bits - 1
    spacing = f"{encoding.width_mm / stored.shape[1]:.4f}"
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = encoding.photometric
    ds.BitsAllocated = 8 * stored.itemsize
    ds.BitsStored = encoding.bits
    ds.HighBit = encoding.bits - 1
    ds.PixelRepresentation = 0
    ds.PixelSpacing = ds.ImagerPixelSpacing = [spacing, spacing]
    centre = full * (1 - _WINDOW[0] if encoding.photometric == "MONOCHROME1" else _WINDOW[0])
    ds.WindowCenter, ds.WindowWidth = f"{centre:.1f}", f"{full * _WINDOW[1]:.1f}"
    data = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
