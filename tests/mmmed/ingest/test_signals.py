"""Sounds and waveforms: what is stored is what was recorded, without a word of who or where."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import soundfile
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.waveforms import multiplex_array

from mmmed.errors import DataError
from mmmed.ingest import signals
from mmmed.ingest.items import Written
from mmmed.ingest.signals import write_audio, write_dicom_waveform, write_wfdb
from mmmed.ingest.sources import Found

ECG = Path(str(get_testdata_file("waveform_ecg.dcm")))


def _found(path: Path) -> Found:
    return Found(path, str(path))


def _tone(rate: int, seconds: float = 2.0, hz: float = 110.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("ending", "rate"), [("wav", 4000), ("wav", 44100), ("flac", 8000), ("flac", 44100), ("mp3", 44100)]
)
def test_sounds_are_stored_at_one_rate(tmp_path: Path, ending: str, rate: int) -> None:
    tone = _tone(rate)
    path = tmp_path / f"muster.{ending}"
    soundfile.write(path, np.stack([tone, tone], axis=1), rate)
    with soundfile.SoundFile(path, "r+") if ending == "wav" else soundfile.SoundFile(path) as file:
        if ending == "wav":
            file.title = file.artist = "Muster Erika"
    written = write_audio(_found(path), "item", tmp_path / "out")
    target = tmp_path / "out" / written.file
    info = soundfile.info(target)
    assert (info.samplerate, info.channels, info.subtype, written.file) == (
        4000,
        1,
        "PCM_16",
        "audio/item.flac",
    )
    values, _ = soundfile.read(target)
    inner = slice(400, 7600)
    lag = 0 if ending != "mp3" else _best_lag(values, _tone(4000))
    expected = _tone(4000, 3.0)[lag : lag + len(values)]
    assert np.abs(values[inner] - expected[: len(values)][inner]).max() < (0.01 if ending != "mp3" else 0.05)
    assert b"uster" not in target.read_bytes()


def _best_lag(values: np.ndarray, tone: np.ndarray) -> int:
    return int(
        np.argmin([np.abs(values[400:4000] - tone[lag + 400 : lag + 4000]).max() for lag in range(40)])
    )


def test_what_would_alias_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, _tone(44100, hz=110) + 0.4 * _tone(44100, hz=3890), 44100, subtype="FLOAT")
    values, _ = soundfile.read(tmp_path / write_audio(_found(path), "item", tmp_path).file)
    assert np.abs(values[400:7600] - _tone(4000)[400:7600]).max() < 0.02


@pytest.mark.parametrize(
    "content, reason",
    [(b"RIFF" + bytes(40), "not a readable"), (b"", "not a readable"), (b"ID3 no music", "not a readable")],
)
def test_broken_sounds_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.mp3").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        write_audio(_found(tmp_path / "x.mp3"), "item", tmp_path)


def test_silent_long_and_odd_sounds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(4000), 4000)
    with pytest.raises(DataError, match="silent"):
        write_audio(_found(path), "item", tmp_path)
    soundfile.write(path, _tone(4000), 4000)
    monkeypatch.setattr(signals, "MAX_SECONDS", 1)
    with pytest.raises(DataError, match="longer than"):
        write_audio(_found(path), "item", tmp_path)
    soundfile.write(path, np.full(4000, np.nan), 4000, subtype="FLOAT")
    with pytest.raises(DataError, match="missing"):
        write_audio(_found(path), "item", tmp_path)


def test_a_sound_of_one_sample_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.array([0.5]), 3886)
    with pytest.raises(DataError, match="silent"):
        write_audio(_found(path), "item", tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_sounds_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, _tone(4000, 0.1), 4000)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        written = write_audio(_found(path), "item", tmp_path)
    except DataError:
        return
    assert soundfile.info(tmp_path / written.file).samplerate == 4000


# ---------------------------------------------------------------- DICOM


def _load(out: Path, written: Written) -> dict[str, np.ndarray]:
    with np.load(out / written.file, allow_pickle=False) as file:
        return dict(file)


def test_an_ecg_is_stored_in_millivolts_with_its_leads_in_order(tmp_path: Path) -> None:
    stored = _load(tmp_path, write_dicom_waveform(_found(ECG), "item", tmp_path))
    assert list(stored["channels"]) == [
        "I",
        "II",
        "III",
        "aVR",
        "aVL",
        "aVF",
        "V1",
        "V2",
        "V3",
        "V4",
        "V5",
        "V6",
    ]
    assert set(stored["units"]) == {"mV"} and float(stored["rate"]) == 250
    assert stored["signal"].dtype == np.float32 and stored["signal"].shape == (12, 2500)
    original = multiplex_array(pydicom.dcmread(ECG), 0, as_raw=False).T / 1000  # uV, 1000 Hz
    smooth = np.apply_along_axis(lambda lead: np.convolve(lead, np.ones(4) / 4, "same"), 1, original)[:, ::4]
    assert np.abs(stored["signal"] - smooth).mean() < 0.01
    np.testing.assert_allclose(
        stored["signal"][0] + stored["signal"][2], stored["signal"][1], atol=0.01
    )  # Einthoven


def test_channels_are_sorted_and_their_free_text_dropped(tmp_path: Path) -> None:
    ds = pydicom.dcmread(ECG)
    definitions = ds.WaveformSequence[0].ChannelDefinitionSequence
    definitions[0].ChannelSourceSequence[0].CodingSchemeDesignator = "99X"
    definitions[0].ChannelSourceSequence[0].CodeMeaning = "Muster Erika"
    definitions[1].ChannelSourceSequence[0].CodeValue = "5.6.3-9-8"  # V6
    definitions[11].ChannelSourceSequence[0].CodeValue = "5.6.3-9-2"  # II
    ds.save_as(tmp_path / "x.dcm")
    stored = _load(tmp_path, write_dicom_waveform(_found(tmp_path / "x.dcm"), "item", tmp_path))
    assert list(stored["channels"])[:1] == ["II"] and list(stored["channels"])[-2:] == ["V6", "channel 1"]
    original = _load(tmp_path, write_dicom_waveform(_found(ECG), "other", tmp_path))
    np.testing.assert_array_equal(stored["signal"][0], original["signal"][11])
    np.testing.assert_array_equal(stored["signal"][-1], original["signal"][0])


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"NumberOfWaveformSamples": 2**31 - 1}, "declares"),
        ({"NumberOfWaveformSamples": 20000}, "shorter than declared"),
        ({"NumberOfWaveformChannels": 0}, "declares|not a readable"),
        ({"SamplingFrequency": 0}, "samples a second"),
    ],
)
def test_waveforms_that_lie_are_refused(tmp_path: Path, change: dict[str, int], reason: str) -> None:
    ds = pydicom.dcmread(ECG)
    for keyword, value in change.items():
        setattr(ds.WaveformSequence[0], keyword, value)
    del ds.WaveformSequence[1]
    ds.save_as(tmp_path / "x.dcm")
    with pytest.raises(DataError, match=reason):
        write_dicom_waveform(_found(tmp_path / "x.dcm"), "item", tmp_path)


# ---------------------------------------------------------------- WFDB


def _record(folder: Path, values: np.ndarray, names: list[str], units: list[str], rate: int = 360) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        "r1", fs=rate, units=units, sig_name=names, p_signal=values, fmt=["16"] * len(names), write_dir=str(folder),
        comments=["Erika Muster, 1953"],
    )  # fmt: skip
    return folder / "r1.hea"


def _beside(folder: Path) -> object:
    def find(name: str) -> Found | None:
        path = folder / name
        return Found(path, str(path)) if "/" not in name and path.is_file() else None

    return find


def _wfdb(header: Path, out: Path) -> Written:
    return write_wfdb(_found(header), _beside(header.parent), "item", out)  # type: ignore[arg-type]


def test_a_record_keeps_values_and_loses_comments(tmp_path: Path) -> None:
    seconds = np.arange(3600) / 360
    values = np.stack([500 * np.sin(2 * np.pi * 3 * seconds), 80 + 20 * np.sin(2 * np.pi * seconds)], axis=1)
    values[100:110, 1] = np.nan
    header = _record(tmp_path / "in", values, ["MLII", "Muster"], ["uV", "mmHg"])
    stored = _load(tmp_path, _wfdb(header, tmp_path))
    assert list(stored["channels"]) == ["MLII", "channel 2"] and list(stored["units"]) == ["mV", "mmHg"]
    at = np.arange(2500) / 250
    np.testing.assert_allclose(
        stored["signal"][0][25:-25], 0.5 * np.sin(2 * np.pi * 3 * at)[25:-25], atol=0.01
    )
    np.testing.assert_allclose(
        stored["signal"][1][25:-25], (80 + 20 * np.sin(2 * np.pi * at))[25:-25], atol=0.3
    )


@pytest.mark.parametrize(
    "header, reason",
    [
        ("r1 1 360 3600\n../../secret.dat 16 200 16 0 0 0 0 II\n", "not among the sources"),
        ("r1 1 360 3600\nhttp://host/x.dat 16 200 16 0 0 0 0 II\n", "not among the sources"),
        ("r1/2 1 360 3600\nr1a 1800\nr1b 1800\n", "several segments"),
        ("r1 1 360 99999999999\nr1.dat 16 200 16 0 0 0 0 II\n", "too many"),
        ("r1 65 360 100\n" + "r1.dat 16 200 16 0 0 0 0 II\n" * 65, "too many"),
        ("r1 1 360 360000\nr1.dat 16 200 16 0 0 0 0 II\n", "not a readable"),
        ("r1 1 360 3600\nr1.dat 9999 200 16 0 0 0 0 II\n", "not a readable"),
        ("", "not a WFDB header"),
        ("r1 x\n", "not a WFDB header"),
    ],
)
def test_headers_that_lie_or_reach_out_are_refused(tmp_path: Path, header: str, reason: str) -> None:
    path = _record(tmp_path / "a" / "in", np.zeros((3600, 1)), ["II"], ["mV"])
    (tmp_path / "secret.dat").write_bytes(bytes(7200))
    path.write_text(header)
    with pytest.raises(DataError, match=reason):
        _wfdb(path, tmp_path)


def test_a_recording_that_is_mostly_gaps_is_refused(tmp_path: Path) -> None:
    values = np.full((3600, 1), np.nan)
    values[:1800] = np.linspace(0, 1, 1800)[:, None]
    with pytest.raises(DataError, match="50% of the samples are missing"):
        _wfdb(_record(tmp_path / "in", values, ["II"], ["mV"]), tmp_path)


def test_a_signal_without_a_name_has_a_number(tmp_path: Path) -> None:
    header = _record(
        tmp_path / "in", np.random.default_rng(0).normal(size=(300, 2)), ["I", "II"], ["mV", "mV"]
    )
    header.write_text(header.read_text().replace(" II\n", "\n"))
    assert list(_load(tmp_path, _wfdb(header, tmp_path))["channels"]) == ["I", "channel 2"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_records_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.rmtree(folder, ignore_errors=True)
    header = _record(folder, np.random.default_rng(0).normal(size=(300, 2)), ["I", "II"], ["mV", "mV"])
    content = bytearray(header.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.sampled_from(b"0129 /-.~:\n#xr()")
        )
    header.write_bytes(bytes(content))
    try:
        written = _wfdb(header, tmp_path)
    except DataError:
        return
    assert np.isfinite(_load(tmp_path, written)["signal"]).all()
