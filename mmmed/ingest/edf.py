"""EDF and EDF+ recordings (Kemp et al. 1992, Kemp and Olivan 2003): signals only.

Whose they are is not taken from their header. Its patient and recording fields, the channels' transducers and
filters, and the annotations stay behind.
"""

from __future__ import annotations

import re
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np

from mmmed.data.recording import resampled
from mmmed.errors import DataError
from mmmed.ingest.items import Written
from mmmed.ingest.records import Patient
from mmmed.ingest.signals import (
    MAX_CHANNELS,
    MAX_SECONDS,
    MAX_VALUES,
    SLOWEST_HZ,
    WAVEFORM_HZ,
    store_waveform,
)
from mmmed.ingest.sources import Found

EDF = ".edf"
_TYPE = re.compile(
    r"(?i)^(?:EEG|ECG|EKG|EMG|EOG|MEG|ERG|Resp|SaO2|Temp)\s+(?=\S)"
)  # EDF+ specification, 2.2.2
_REFERENCE = re.compile(r"(?i)[-:](?:ref|le|ar|avg?|car|gnd)\d?$")


def write_edf(found: Found, item: str, out: Path) -> Written:
    """Write the signals of an EDF or EDF+ file, each brought from its own rate to `WAVEFORM_HZ`.

    Raises:
        DataError: it is damaged, shorter or longer than it states, interrupted, too large, or has no signal.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is amiss is refused below
            values, names, units = _read(found)
    except DataError:
        raise
    except Exception as error:  # the reader raises whatever it stumbles over
        raise DataError(f"{found.origin}: not a readable EDF file ({type(error).__name__})") from error
    return store_waveform(values, WAVEFORM_HZ, names, units, found, item, out)


def _read(found: Found) -> tuple[np.ndarray, list[str], list[str]]:
    """Values (channels, samples) float32 at `WAVEFORM_HZ`, with the channels' names and units."""
    import edfio

    with found.path.open("rb") as file:
        head = file.read(256)
    if head[:8].strip() != b"0":
        raise DataError(f"{found.origin}: not an EDF file; its first bytes are no version of it")
    declared, channels = int(head[236:244]), int(head[252:256])
    if channels > MAX_CHANNELS + 1:  # one of them annotations
        raise DataError(f"{found.origin}: {channels} channels; at most {MAX_CHANNELS} are taken")
    recording = edfio.read_edf(found.path, header_encoding="latin-1")
    if declared != recording.num_data_records:
        raise DataError(
            f"{found.origin}: states {declared} data records and holds {recording.num_data_records}; export it again"
        )
    seconds = recording.num_data_records * recording.data_record_duration
    signals = [one for one in recording.signals if one.sampling_frequency >= SLOWEST_HZ]
    samples = sum(one.samples_per_data_record for one in recording.signals) * recording.num_data_records
    if not signals or not 0 < seconds <= MAX_SECONDS:
        raise DataError(
            f"{found.origin}: {len(signals)} signals of {seconds:g} s; expected one or more, of at most "
            f"{MAX_SECONDS // 60} minutes. Cut it"
        )
    if max(samples, len(signals) * seconds * WAVEFORM_HZ) > MAX_VALUES:
        raise DataError(f"{found.origin}: {len(signals)} signals of {samples:,} samples: too many")
    marked = len(recording.signals) < channels  # its annotations tell when each data record begins
    if (recording.reserved.startswith("EDF+D") and not marked) or not recording.is_continuous:
        raise DataError(
            f"{found.origin}: interrupted recording (EDF+D): its parts are not at one distance in time. Export each "
            "by itself"
        )
    rows = []
    for signal in signals:
        ranges = signal.physical_max - signal.physical_min, signal.digital_max - signal.digital_min
        if not ranges[0] or ranges[1] <= 0 or not np.isfinite(ranges).all():
            raise DataError(
                f"{found.origin}: a channel whose digital or physical minimum is not below its maximum; correct it"
            )
        rows.append(
            resampled(signal.data[None].astype(np.float32), signal.sampling_frequency, WAVEFORM_HZ)[0]
        )
    length = min(map(len, rows))  # rates that do not divide each other end a sample apart
    values = np.stack([row[:length] for row in rows])
    return values, [_electrode(one.label) for one in signals], [one.physical_dimension for one in signals]


def _electrode(label: str) -> str:
    """``EEG Fp1-REF`` and ``EEG Fp1`` are ``Fp1``; ``EEG Fp1-F7`` is the difference of two."""
    return _REFERENCE.sub("", _TYPE.sub("", label.strip()))


def person_of(found: Found) -> Patient:
    """Whom the header names, patient and staff, so that notes are cleared of them; nobody if it cannot be read."""
    person = Patient()
    try:
        with found.path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return person
    plus = head[192:197].startswith(b"EDF+")
    for field, place in ((head[8:88], "patient"), (head[88:168], "recording")):
        words = [word.replace("_", " ") for word in field.decode("latin-1").split()]
        if plus and place == "recording":  # Startdate, date, administration code, investigator, equipment
            words = words[2:4]
        for word in words:
            _learn(person, word, place == "patient")
        if plus and place == "patient" and len(words) > 3 and words[3] != "X":
            person.called = words[3]
    return person


def _learn(person: Patient, word: str, is_patient: bool) -> None:
    if word.upper() in ("X", "F", "M", "MALE", "FEMALE", "STARTDATE"):
        if is_patient and word.upper() in ("F", "M"):
            person.sexes.add(word.upper())
        return
    try:
        day = datetime.strptime(word, "%d-%b-%Y").date().isoformat().replace("-", "")
    except ValueError:
        (person.ids if any(sign.isdigit() for sign in word) else person.names).add(word)
        return
    if is_patient:
        person.births.add(day)
