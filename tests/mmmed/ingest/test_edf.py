"""EDF recordings: the signals stay right, what names somebody stays behind, and what lies is refused."""

from __future__ import annotations

import datetime
from pathlib import Path

import edfio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmmed.errors import DataError
from mmmed.ingest import edf
from mmmed.ingest.edf import person_of, write_edf
from mmmed.ingest.options import TableOptions
from mmmed.ingest.sources import Found
from tests.mmmed.ingest.test_read_or_refused import film, read

SECONDS = 6
RATES = {
    "EEG Fp1-REF": 256,
    "EEG C3": 100,
    "EEG Fp1-F7": 200,
    "ECG II": 500,
    "Muster Erika": 50,
    "Trend": 0.5,
}


def _write(path: Path, *, plus: bool = True) -> Path:
    signals = [
        edfio.EdfSignal(
            500 * np.sin(2 * np.pi * 3 * np.arange(int(rate * SECONDS)) / rate) + 100, rate, label=label,
            physical_dimension="uV", physical_range=(-1000, 1000), transducer_type="Dr Tamm",
        )
        for label, rate in RATES.items()
    ]  # fmt: skip
    recording = edfio.Edf(
        signals,
        patient=edfio.Patient(code="P-4711", sex="F", birthdate=datetime.date(1951, 5, 2), name="Erika_Muster"),
        recording=edfio.Recording(
            startdate=datetime.date(2020, 3, 10), hospital_administration_code="EEG77",
            investigator_technician_code="Tamm",
        ),
        data_record_duration=2,
        annotations=[edfio.EdfAnnotation(1, None, "Erika Muster blinks")] if plus else None,
    )  # fmt: skip
    recording.write(path)
    return path


def _found(path: Path) -> Found:
    return Found(path, str(path))


@pytest.mark.parametrize("plus", [True, False])
def test_each_channel_comes_from_its_own_rate_and_no_name_stays(tmp_path: Path, plus: bool) -> None:
    written = write_edf(_found(_write(tmp_path / "a.edf", plus=plus)), "item", tmp_path)
    with np.load(tmp_path / written.file) as stored:
        assert sorted(stored) == ["channels", "rate", "signal", "units"] and float(stored["rate"]) == 250
        assert list(stored["channels"]) == ["II", "Fp1", "C3", "Fp1-F7", "channel 5"]
        assert set(stored["units"]) == {"mV"}
        at = np.arange(SECONDS * 250) / 250
        right = 0.5 * np.sin(2 * np.pi * 3 * at) + 0.1
        assert stored["signal"].shape == (5, len(at))
        assert np.abs(stored["signal"] - right)[:, 50:-50].max() < 0.005
    content = (tmp_path / written.file).read_bytes()
    assert not any(name in content for name in (b"Muster", b"Tamm", b"4711", b"blinks"))


def _changed(path: Path, place: int, value: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(bytes(content))
    return path


def test_what_is_interrupted_short_or_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "a.edf")
    content = path.read_bytes()

    def refused(content: bytes, reason: str) -> None:
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            write_edf(_found(path), "item", tmp_path)

    onset = content.index(b"+4\x14\x14")
    refused(content[:onset] + b"+5" + content[onset + 2 :], "interrupted")
    plain = _write(tmp_path / "b.edf", plus=False).read_bytes()
    refused(plain[:192] + b"EDF+D" + plain[197:], "interrupted")  # without times of its parts
    refused(content[:-100], "states 3 data records and holds 2")
    refused(content + content[-5000:], "states 3")
    refused(b"RIFF" + content[4:], "not an EDF")
    refused(content[:100], "not a readable EDF")
    refused(content[:252] + b"9999" + content[256:], "9999 channels")
    digital = content.index(b"32767", content.index(b"32767") + 1)  # the first is of the annotations
    refused(content[:digital] + b"-32768 " + content[digital + 7 :], "minimum is not below")
    monkeypatch.setattr(edf, "MAX_SECONDS", 5)
    refused(content, "of 6 s")
    assert not (tmp_path / "waveforms").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_recordings_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.edf")
    header = data.draw(st.integers(0, 256 * (len(RATES) + 2) - 1))
    _changed(path, header, data.draw(st.binary(min_size=1, max_size=8)))
    person_of(_found(path))
    try:
        written = write_edf(_found(path), "item", tmp_path)
    except DataError:
        return
    with np.load(tmp_path / written.file) as stored:
        assert np.isfinite(stored["signal"]).all()


@pytest.mark.parametrize("by_table", [False, True])
def test_notes_are_cleared_of_whom_the_header_names(tmp_path: Path, by_table: bool) -> None:
    film(tmp_path, PatientName="", PatientID="P1")
    name = "r.edf" if by_table else "A1.edf"
    _write(tmp_path / name)
    (tmp_path / "A1.txt").write_text("stable, as erika muster and Tamm say. EEG77, P-4711. Slow waves.")
    (tmp_path / "t.csv").write_text("pid,acc,file\n" + ("P1,A1,r.edf\n" if by_table else ""))
    _, notes = read(tmp_path, tables=(TableOptions(patient="pid", study="acc", file="file"),))
    [entry] = notes.studies.values()
    assert not any(word in entry.text.lower() for word in ("erika", "muster", "tamm", "eeg77", "4711"))
    assert "Slow waves." in entry.text
