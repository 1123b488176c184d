"""Heart and lung sounds and physiological waveforms: decoded, resampled, and written without tags or comments.

Sounds become FLAC: one channel, 16 bits, 4,000 Hz, which holds what a stethoscope carries (below 2 kHz).
Waveforms become ``.npz``: float32 (channels, samples) in physical units at 250 Hz.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from pydicom import Dataset
from pydicom.waveforms import multiplex_array

from mmmed.data.recording import resampled
from mmmed.dicom.file import open_dicom
from mmmed.errors import DataError
from mmmed.files import replacing
from mmmed.ingest.items import Written
from mmmed.ingest.sources import Found
from mmmed.ingest.units import NotUsable, convert, is_unit

AUDIO_HZ = 4000
WAVEFORM_HZ = 250
MAX_SECONDS = 1800
MAX_CHANNELS = 64
MAX_VALUES = 1 << 27  # samples of all channels
SLOWEST_HZ = 1.0
_RATES = (SLOWEST_HZ, 400_000.0)
_BLOCK = 1 << 18
_HEADER_BYTES = 1 << 20
_MOST_MISSING = 0.25
_FORMAT = re.compile(
    r"\d{1,6}(?:x(\d{1,6}))?(?::\d{1,9})?(?:\+\d{1,9})?"
)  # with samples a frame, skew, offset
_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# Lead numbers of MDC (IEEE 11073-10102) and SCP-ECG (EN 1064) agree.
_LEAD_NUMBERS = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"} | {
    n: f"V{n - 2}" for n in range(3, 9)
}
_CHANNELS = {  # a channel's name is free text in both formats: only these are kept
    name.casefold(): name
    for name in (
        *_LEADS, "MLI", "MLII", "MLIII", "MCL1", "V", "ECG", "ABP", "ART", "BP", "CVP", "PAP", "ICP", "PLETH", "PPG",
        "RESP", "CO2", "SpO2", "EMG", "EOG", "PCG", "Fp1", "Fp2", "F3", "F4", "F7", "F8", "Fz", "C3", "C4", "Cz", "T3",
        "T4", "T5", "T6", "T7", "T8", "P3", "P4", "P7", "P8", "Pz", "O1", "O2", "Oz", "A1", "A2", "M1", "M2",
    )
}  # fmt: skip


def write_audio(found: Found, item: str, out: Path) -> Written:
    """Decode WAV, FLAC or MP3, mix its channels, resample and write.

    Raises `DataError` if it cannot be read, is silent, or longer than `MAX_SECONDS`.
    """
    try:
        with soundfile.SoundFile(found.path) as file:
            rate = file.samplerate
            _check_rate(rate, found)
            if file.channels > MAX_CHANNELS:
                raise DataError(f"{found.origin}: {file.channels} channels; at most {MAX_CHANNELS} are taken")
            blocks, samples = [], 0
            # What the header declares is not believed: blocks are read until there are no more.
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
                samples += len(block)
                if samples > MAX_SECONDS * rate:
                    raise DataError(f"{found.origin}: longer than {MAX_SECONDS // 60} minutes; cut it")
    except soundfile.SoundFileError as error:
        raise DataError(f"{found.origin}: not a readable WAV, FLAC or MP3 file") from error
    return _store_audio(np.concatenate(blocks) if blocks else np.empty(0, np.float32), rate, found, item, out)


def write_dicom_audio(found: Found, item: str, out: Path) -> Written:
    """The sound of a DICOM General Audio Waveform (PS3.3 A.34.9), scaled to its loudest sample."""
    group, values = _multiplex(open_dicom(found.path), found)
    mixed = values.mean(axis=0)
    return _store_audio(
        mixed / max(float(np.abs(mixed).max(initial=0)), 1e-12),
        float(group.SamplingFrequency),
        found,
        item,
        out,
    )


def write_dicom_waveform(found: Found, item: str, out: Path) -> Written:
    """The largest original multiplex group of a DICOM waveform (PS3.3 C.10.9), in physical units."""
    group, values = _multiplex(open_dicom(found.path), found)
    channels = list(group.ChannelDefinitionSequence)
    names, units = [_dicom_name(one) for one in channels], [_dicom_unit(one) for one in channels]
    return store_waveform(values, float(group.SamplingFrequency), names, units, found, item, out)


def write_wfdb(found: Found, beside: Callable[[str], Found | None], item: str, out: Path) -> Written:
    """Write the signals of a WFDB record.

    The reader sees a copy of the header without comments, under new names and in a temporary folder: it can open
    nothing but the signal files that were found among the sources.

    Args:
        found: the header file.
        beside: finds a signal file among the sources by the name that the header gives; None if there is none.
        item: name of the waveform in the data set.
        out: folder of the data set.

    Raises:
        DataError: the record is too large or cannot be read.
    """
    import wfdb  # brings a plotting library along

    with tempfile.TemporaryDirectory() as folder:
        samples, channels = _copy_record(found, beside, Path(folder))
        if samples > MAX_VALUES or channels > MAX_CHANNELS:
            raise DataError(f"{found.origin}: declares {channels} channels, {samples:,} samples: too many")
        try:
            record = wfdb.rdrecord(str(Path(folder) / "record"))
            values, rate = np.asarray(record.p_signal, dtype=np.float32).T, float(record.fs)
            # a header may leave both out: then it is in mV (WFDB header(5), signal specification lines)
            names, units = [name or "" for name in record.sig_name], [unit or "mV" for unit in record.units]
        except Exception as error:  # the reader raises whatever it stumbles over
            raise DataError(f"{found.origin}: not a readable WFDB record ({type(error).__name__})") from error
    return store_waveform(values, rate, names, units, found, item, out)


def signal_files(found: Found) -> list[str]:
    """Names of the signal files that a WFDB header lists, as written there; empty if the file is no header."""
    try:
        _, signals = _header(found)
    except DataError:
        return []
    return list(dict.fromkeys(signal[0] for signal in signals))


def _header(found: Found) -> tuple[list[str], list[list[str]]]:
    """The record line and the signal lines of a WFDB header (header(5)), in words, without comments."""
    if found.path.stat().st_size > _HEADER_BYTES:
        raise DataError(f"{found.origin}: too large for a WFDB header")
    lines = [line.split() for line in found.path.read_text("ascii", errors="replace").splitlines()]
    lines = [line for line in lines if line and not line[0].startswith("#")]
    try:
        record, *signals = lines
        if "/" in record[0]:
            raise DataError(f"{found.origin}: record of several segments; convert it to one")
        if len(signals) != int(record[1]) or not signals or (len(record) > 3 and int(record[3]) < 0):
            raise ValueError
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{found.origin}: not a WFDB header that states its numbers of signals and samples"
        ) from error
    return record, signals


def _copy_record(found: Found, beside: Callable[[str], Found | None], folder: Path) -> tuple[int, int]:
    """Write the header anew, with links to its signal files; returns samples of all channels, and channels."""
    record, signals = _header(found)
    files: dict[str, str] = {}
    values = 0
    if len(record) < 4 or int(record[3]) == 0:  # it may leave them out (header(5), record line)
        record[3:] = [str(_samples(found, beside, signals))]
    for signal in signals:
        form = _FORMAT.fullmatch(signal[1]) if len(signal) > 1 else None
        if form is None:
            raise DataError(f"{found.origin}: not a WFDB header that states the formats of its signals")
        values += int(record[3]) * int(form[1] or 1)
        if signal[0] not in files:
            data = beside(signal[0])
            if data is None:
                raise DataError(f"{found.origin}: a signal file that it names is not among the sources")
            files[signal[0]] = f"{len(files)}{'.mat' if signal[0].endswith('.mat') else '.dat'}"
            (folder / files[signal[0]]).symlink_to(data.path.resolve())
        signal[0] = files[signal[0]]
    (folder / "record.hea").write_text(
        "\n".join(" ".join(line) for line in [["record", *record[1:4]], *signals]) + "\n"
    )
    return values, len(signals)


def _samples(found: Found, beside: Callable[[str], Found | None], signals: list[list[str]]) -> int:
    """How many samples of each signal the first signal's file holds, by its size."""
    data = beside(signals[0][0])
    forms = [_FORMAT.fullmatch(one[1]) for one in signals if one[0] == signals[0][0] and len(one) > 1]
    sizes = [_BITS.get(re.split("[x:+]", form[0])[0]) if form else None for form in forms]
    if data is None or not sizes or None in sizes:
        raise DataError(f"{found.origin}: WFDB header without the number of samples; state it")
    together = sum(int(form[1] or 1) for form in forms if form) * float(sizes[0] or 1)
    return int(data.path.stat().st_size * 8 // together)


_BITS = {  # a sample takes, by format (WFDB signal(5))
    "8": 8, "80": 8, "16": 16, "61": 16, "160": 16, "212": 12, "310": 32 / 3, "311": 32 / 3, "24": 24, "32": 32,
}  # fmt: skip


def _multiplex(dataset: Dataset, found: Found) -> tuple[Dataset, np.ndarray]:
    """The largest original group and its values (channels, samples) float32, in its units if it states them."""
    groups = list(enumerate(dataset.get("WaveformSequence") or []))
    original = [one for one in groups if one[1].get("WaveformOriginality") != "DERIVED"] or groups
    try:
        index, group = max(
            original, key=lambda one: one[1].NumberOfWaveformChannels * one[1].NumberOfWaveformSamples
        )
        channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
        if not 0 < channels <= MAX_CHANNELS or not 0 < samples * channels <= MAX_VALUES:
            raise DataError(f"{found.origin}: declares {channels} channels of {samples:,} samples")
        if channels * samples * int(group.WaveformBitsAllocated) // 8 > len(group.WaveformData):
            raise DataError(f"{found.origin}: waveform data are shorter than declared; export it again")
        values = multiplex_array(dataset, index, as_raw=False).astype(np.float32).T
        padding = group.get("WaveformPaddingValue")
        if padding is not None:
            raw = multiplex_array(dataset, index, as_raw=True).T
            values[raw == np.frombuffer(padding, raw.dtype)[0]] = np.nan
    except DataError:
        raise
    except Exception as error:  # sequences can hold anything
        raise DataError(f"{found.origin}: not a readable waveform ({type(error).__name__})") from error
    return group, values


def _dicom_name(channel: Dataset) -> str:
    source = (channel.get("ChannelSourceSequence") or [Dataset()])[0]
    number = re.search(r"(?:^2:|-)(\d+)$", str(source.get("CodeValue") or ""))
    if number and source.get("CodingSchemeDesignator") in ("MDC", "SCPECG"):
        return _LEAD_NUMBERS.get(int(number[1]), "")
    return str(source.get("CodeMeaning") or "").removeprefix("Lead ")


def _dicom_unit(channel: Dataset) -> str:
    units = channel.get("ChannelSensitivityUnitsSequence") or []
    return str(units[0].get("CodeValue") or "") if len(units) else ""


def _store_audio(values: np.ndarray, rate: float, found: Found, item: str, out: Path) -> Written:
    _check_rate(rate, found)
    values = resampled(_filled(values[None], found), rate, AUDIO_HZ)[0]
    if not len(values) or float(np.ptp(values)) < 1e-6:
        raise DataError(f"{found.origin}: silent recording")
    file = f"audio/{item}.flac"
    with replacing(_target(out, file)) as partial:
        soundfile.write(partial, values.clip(-1, 1), AUDIO_HZ, format="FLAC", subtype="PCM_16")
    return Written(file, (1, len(values)), (), "", 0)


def store_waveform(
    values: np.ndarray, rate: float, names: list[str], units: list[str], found: Found, item: str, out: Path
) -> Written:
    """``values`` (channels, samples), NaN where nothing was measured. Voltages are stored in mV."""
    _check_rate(rate, found)
    if values.shape[1] > MAX_SECONDS * rate:
        raise DataError(f"{found.origin}: longer than {MAX_SECONDS // 60} minutes; cut it")
    values = resampled(_filled(values, found), rate, WAVEFORM_HZ)
    stored_units = []
    for channel, unit in enumerate(units):
        try:
            values[channel] *= convert(1.0, unit, "mV")
            stored_units.append("mV")
        except NotUsable:
            stored_units.append(unit if is_unit(unit) else "")
    kept = [_known(name) for name in names]
    kept = [name or f"channel {number}" for number, name in enumerate(kept, start=1)]
    order = sorted(
        range(len(kept)), key=lambda i: _LEADS.index(kept[i]) if kept[i] in _LEADS else len(_LEADS) + i
    )
    file = f"waveforms/{item}.npz"
    with replacing(_target(out, file)) as partial, partial.open("wb") as opened:
        np.savez_compressed(
            opened,
            signal=values[order].astype(np.float32),
            rate=np.float64(WAVEFORM_HZ),
            channels=np.array([kept[i] for i in order]),
            units=np.array([stored_units[i] for i in order]),
        )
    return Written(file, values.shape, (), "", 0)


def _known(name: str) -> str:
    """The name of a usual channel, or of the difference of two such as ``Fp1-F7``; "" for any other."""
    parts = [_CHANNELS.get(part.strip().casefold(), "") for part in name.split("-")]
    return "-".join(parts) if all(parts) and len(parts) <= 2 else ""


def _check_rate(rate: float, found: Found) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise DataError(f"{found.origin}: {rate} samples a second; expected {_RATES[0]:g} to {_RATES[1]:g}")


def _filled(values: np.ndarray, found: Found) -> np.ndarray:
    """Missing samples on a straight line between their neighbours; a channel without any is zero."""
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    missing = np.isnan(values)
    if values.size and missing.mean() > _MOST_MISSING:
        raise DataError(f"{found.origin}: {missing.mean():.0%} of the samples are missing")
    for channel, gaps in zip(values, missing, strict=True):
        if gaps.all():
            channel[:] = 0
        elif gaps.any():
            channel[gaps] = np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), channel[~gaps])
    return values


def _target(out: Path, file: str) -> Path:
    target = out / file
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return target
