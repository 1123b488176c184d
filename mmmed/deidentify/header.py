"""DICOM headers by the Basic Application Level Confidentiality Profile (PS3.15 table E.1-1, edition 2026c).

The table comes from dicom-anonymizer. Its own traversal treats the top level only; here every item of every
sequence is treated, and what the table does not know is decided for privacy: private and unknown elements, prose,
overlays and curves are removed, every person name emptied, every UID that DICOM did not register replaced.

Options of the profile that are taken: Clean Pixel Data (by `deidentify.pixels`), Retain Longitudinal
Temporal Information with Modified Dates, Retain Patient Characteristics (sex, age up to 90, size, weight).
"""

from __future__ import annotations

import copy
import datetime
import functools
import re
from collections.abc import Callable

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as profile
from pydicom import DataElement, Dataset, Sequence
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from mmmed.deidentify.keys import SiteKey
from mmmed.dicom.header import texts, values_of

METHOD = "mmmed: PS3.15 2026c Basic Profile"
MASKED = "mmmed: text masked in the pixels"  # a second method of a copy whose pixels were changed
OPTIONS = (  # PS3.16 CID 7050
    ("113100", "Basic Application Confidentiality Profile"),
    ("113101", "Clean Pixel Data Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
_CHARACTERISTICS = {0x00100040, 0x00101010, 0x00101020, 0x00101030}  # sex, age, size, weight
_BIRTH_DATE = 0x00100030  # a shifted one would tell who is older than 89
_NAMED_NOWHERE = {  # that the profile's table forgets: birth dates of other calendars, a comment, retired order numbers
    0x00100033, 0x00100034, 0x00100035, 0x00400400, 0x00402006, 0x00402007,
}  # fmt: skip
_PROSE = {"LT", "ST", "UT", "UC"}  # anybody may be named in it: what the table says nothing of is removed
_OLDEST = 90
_REGISTERED_ROOT = "1.2.840.10008."
_TEXT = {"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT"}
_PLACEHOLDERS = {"DA": "19000101", "DT": "19000101", "TM": "000000", "AS": "000Y", "DS": "0", "IS": "0"}


def deidentify_header(dataset: Dataset, key: SiteKey, patient: str = "") -> Dataset:
    """A copy without identifiers; pixel data are passed on untouched.

    The patient, ``patient`` or as the header says, is named by a pseudonym, the id is `SiteKey.copy_id`. The result
    is explicit little endian if it is
    written. Any other text that holds a name part or id found in the original is emptied, too.
    """
    patient = patient or patient_key(dataset)
    days = key.shift_days(patient)
    clean = _copy(dataset)
    _clean(clean, key, days)
    _remove_survivors(clean, identifiers(dataset))
    clean.PatientID, clean.PatientName = key.copy_id(patient), key.patient(patient)
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = [METHOD, MASKED] if was_masked(dataset) else METHOD
    clean.DeidentificationMethodCodeSequence = Sequence(_code(*option) for option in OPTIONS)
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.file_meta = FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    return clean


def is_copy(dataset: Dataset) -> bool:
    """Whether the header says that mmmed made this object as a de-identified copy."""
    return METHOD in texts(dataset, "DeidentificationMethod")


def was_masked(dataset: Dataset) -> bool:
    """Whether the header says that text was masked in the copy, which a human has to approve before it is used."""
    return MASKED in texts(dataset, "DeidentificationMethod")


def patient_key(dataset: Dataset) -> str:
    """What identifies the patient before pseudonyms: the (first) patient id, without the spaces around it."""
    return next(iter(texts(dataset, "PatientID")), "")


def identifiers(dataset: Dataset) -> set[str]:
    """Names, ids, addresses and telephone numbers found anywhere in the header, as written."""
    names, others = names_and_others(dataset)
    return names | others


def names_and_others(dataset: Dataset) -> tuple[set[str], set[str]]:
    """Names, and the other identifiers of a header, as written."""
    found: tuple[set[str], set[str]] = set(), set()
    for vr, value in values_of(dataset, "PN", _IDENTIFYING):
        if value:
            found[vr != "PN"].add(value)
    return found


_IDENTIFYING = frozenset({
    "PatientID", "OtherPatientIDs", "AccessionNumber", "PatientAddress", "PatientTelephoneNumbers",
    "MilitaryRank", "MedicalRecordLocator", "InstitutionName", "InstitutionAddress", "RequestingService",
    "AdmissionID", "IssuerOfPatientID", "PersonAddress", "PersonTelephoneNumbers", "StationName",
    "FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest",
})  # fmt: skip


@functools.cache
def _actions() -> dict[tuple[int, int], str]:
    """Tag -> X (remove), Z (empty), D (dummy) or U (new UID); of several allowed, the most private."""
    actions: dict[tuple[int, int], str] = {}
    for action, tags in (
        ("D", profile.D_TAGS),
        ("Z", [*profile.Z_TAGS, *profile.Z_D_TAGS]),
        ("X", [*profile.X_TAGS, *profile.X_Z_TAGS, *profile.X_D_TAGS, *profile.X_Z_D_TAGS]),
        ("X", profile.X_Z_U_STAR_TAGS),
        ("U", profile.U_TAGS),
    ):
        actions |= {tag: action for tag in tags if len(tag) == 2}
    return actions


def _dropped(tag: BaseTag) -> bool:
    """Whether an element goes in any case: private, group length, curve, overlay, padding, or in no dictionary."""
    group = tag.group
    if tag.is_private or tag.element == 0 or group in (0xFFFC, 0xFFFA) or 0x5000 <= group <= 0x60FF:
        return True
    try:
        dictionary_VR(tag)
    except KeyError:
        return True
    return False


def _clean(dataset: Dataset, key: SiteKey, days: int) -> None:
    """Treat the elements of a data set and of all its sequences, in place."""
    for tag in list(dataset.keys()):
        if _dropped(tag):
            del dataset[tag]
            continue
        element = dataset[tag]
        action = _actions().get((tag.group, tag.element))
        if int(tag) in _CHARACTERISTICS:
            dataset[tag] = _with(element, _capped_age(element.value) if element.VR == "AS" else element.value)
        elif element.VR in ("DA", "DT") and tag != _BIRTH_DATE:
            dataset[tag] = _with(element, _each(element.value, lambda value: shift_date(value, days)))
        elif element.VR == "UI":
            dataset[tag] = _with(element, _each(element.value, lambda uid: _new_uid(uid, key)))
        elif element.VR == "SQ":
            if action is not None:
                del dataset[tag]
            else:
                items = [_copy(item) for item in element.value]
                for item in items:
                    _clean(item, key, days)
                dataset[tag] = DataElement(tag, "SQ", Sequence(items))
        elif (
            action == "X"
            or element.VR == "UN"
            or int(tag) in _NAMED_NOWHERE
            or (not action and element.VR in _PROSE)
        ):
            del dataset[tag]
        elif action == "Z" or element.VR == "PN":
            dataset[tag] = DataElement(tag, element.VR, None)
        elif action is not None:
            dummy = "ANONYMIZED" if element.VR in _TEXT | {"CS"} else _PLACEHOLDERS.get(element.VR)
            dataset[tag] = DataElement(tag, element.VR, dummy)


def _copy(item: Dataset) -> Dataset:
    fresh = Dataset()
    fresh.update({tag: copy.copy(item[tag]) for tag in item.keys() if not _dropped(tag)})  # noqa: SIM118
    return fresh


def _with(element: DataElement, value: object) -> DataElement:
    return DataElement(element.tag, element.VR, value)


def _each(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, MultiValue):
        return [change(str(one)) for one in value]
    return change(str(value)) if value not in (None, "") else value


def shift_date(value: str, days: int) -> str:
    """A DICOM date or date-time moved by whole days, without its time; "" if it is no date (PS3.5 6.2)."""
    digits = re.sub(r"[.\-]", "", value)[:8]  # the old form was 1993.08.22
    try:
        moved = datetime.datetime.strptime(digits, "%Y%m%d").date() + datetime.timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}".rjust(8, "0")


def _new_uid(uid: str, key: SiteKey) -> str:
    return uid if uid.startswith(_REGISTERED_ROOT) or not uid else key.uid(uid)


def _capped_age(value: object) -> str:
    """PS3.5 age string; 90 and older become one group (45 CFR 164.514(b)(2)(i)(C))."""
    match = re.fullmatch(r"(\d{3})([DWMY])", str(value or "").strip())
    if not match:
        return ""
    return f"{_OLDEST:03}Y" if match[2] == "Y" and int(match[1]) >= _OLDEST else match[0]


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _remove_survivors(dataset: Dataset, known: set[str]) -> None:
    """Empty every text that still holds a name part, id or address of the original; the last step."""
    words = {
        word.casefold()
        for value in known
        for word in [value, *re.split(r"[\^=\s,]+", value)]
        if len(word) >= 4 or (len(word) == 3 and word.isalpha())
    }
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, sorted(words)))})(?!\w)")
    for element in dataset.iterall() if words else ():
        if (
            element.VR in _TEXT | {"PN", "CS"}
            and element.value
            and pattern.search(str(element.value).casefold())
        ):
            element.value = None
