"""Sounds and waveforms: what an encoder reads of a file, what is refused, and that a run of them alone trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn
from typer.testing import CliRunner

from mmmed.check import check
from mmmed.cli import app
from mmmed.config import RunConfig, to_toml
from mmmed.data.augment import VERSION
from mmmed.data.loader import open_site_data
from mmmed.data.made_up import made_up_records
from mmmed.data.manifest import read_manifest
from mmmed.data.sound import log_mel
from mmmed.data.waveform import read_waveform
from mmmed.errors import DataError
from mmmed.modalities import MODALITIES
from mmmed.modalities.waveform import STANDARD_LEADS
from mmmed.models import build_model, load_model
from mmmed.models.names import policy_name
from mmmed.tasks import Classification
from tests.contracts.steps import check_independence, check_private_step, exact

ENCODERS = [
    ("audio", "cnn"),
    ("audio", "transformer"),
    ("waveform", "xresnet1d"),
    ("waveform", "patch-transformer"),
]
LEADS = ("II", "V1", "I")


def a_run(name: str, encoder: str = "", **sections: Any) -> RunConfig:
    data = {
        "image": "", "text": "", name: name, "audio_seconds": 1.5, "audio_mels": 8, "waveform_leads": LEADS,
        "waveform_seconds": 2.0, "waveform_rate": 50, "waveform_fewest": 2,
    }  # fmt: skip
    model = {name: encoder} if encoder else {}
    model |= {"audio_width": 8, "waveform_width": 8, "fusion": {"width": 8, "heads": 2}}
    return RunConfig.model_validate({"data": data, "model": model, **sections})


def write_sound(path: Path, seconds: float = 1.0, rate: int = 8000, hz: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate), rate)
    return path


def write_waveform(
    path: Path, *, leads: tuple[str, ...] = LEADS, seconds: float = 2.0, **changes: Any
) -> Path:
    """Lead number k is a sine of k + 1 Hz and 1 mV at 250 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(250 * seconds)) / 250
    signal = np.array([np.sin(2 * np.pi * (k + 1) * time) for k in range(len(leads))], np.float32)
    arrays = {
        "signal": signal,
        "rate": np.float64(250),
        "channels": np.array(leads),
        "units": np.array(["mV"]),
    }
    with path.open("wb") as file:  # (of any ending)
        np.savez(file, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def read(path: Path, **changes: Any) -> np.ndarray:
    asked = {"leads": LEADS, "fewest": 1, "rate": 50, "length": 128, "window": (-2.0, 2.0), "band": ()}
    return read_waveform(path, **asked | changes)


# ---------------------------------------------------------------- what is read of a file


def test_a_tone_stands_in_its_band_whatever_its_rate_and_loudness(tmp_path: Path) -> None:
    asked = {"rate": 4000, "hop": 128, "mels": 32, "frames": 64}
    spectra = [
        log_mel(write_sound(tmp_path / f"{rate}.{ending}", rate=rate), **asked)
        for rate, ending in ((4000, "wav"), (44_100, "flac"))
    ]
    mel = 2595 * np.log10(1 + 440 / 700)
    edges = np.linspace(*(2595 * np.log10(1 + hz / 700) for hz in (20, 2000)), 34)
    for spectrum in spectra:
        assert spectrum.shape == (32, 64) and spectrum.max() == 1
        heard = (spectrum > 0).any(0)
        assert heard[:32].all() and not heard[32:].any()  # a second of 32 ms each, the rest is not recorded
        loudest = spectrum[:, 4:28].mean(1).argmax()
        assert edges[loudest] <= mel <= edges[loudest + 2]
    np.testing.assert_allclose(spectra[0][:, 4:28], spectra[1][:, 4:28], atol=0.05)
    soundfile.write(
        tmp_path / "soft.wav", 0.1 * soundfile.read(tmp_path / "4000.wav")[0], 4000, subtype="FLOAT"
    )
    np.testing.assert_allclose(log_mel(tmp_path / "soft.wav", **asked)[:, :32], spectra[0][:, :32], atol=0.02)


def test_leads_are_read_by_name_in_the_runs_order_and_what_is_lacking_is_not_recorded(tmp_path: Path) -> None:
    path = write_waveform(tmp_path / "x.npz", leads=("i", "V6", "II"))
    leads = read(path, leads=("II", "V1", "I"))
    time = np.arange(100) / 50
    for row, hz in ((0, 3), (2, 1)):
        expected = (np.sin(2 * np.pi * hz * time) + 2) / 4
        np.testing.assert_allclose(leads[row, 5:95], expected[5:95], atol=0.01)
        assert (leads[row, :100] > 0).all() and not leads[row, 100:].any()
    assert not leads[1].any()


def test_the_middle_of_a_longer_waveform_is_kept_and_a_lead_that_was_off_is_missing(tmp_path: Path) -> None:
    signal = np.zeros((3, 2000), np.float32)
    signal[0, 1000], signal[1] = 1.0, np.linspace(-9, 9, 2000)
    leads = read(write_waveform(tmp_path / "x.npz", signal=signal), length=64)
    assert abs(int(leads[0].argmax()) - 32) <= 1 and not leads[2].any()
    assert (leads[1] > 0).all() and leads[1].max() <= 1  # what is beyond the window is at its end


def test_a_band_takes_the_wander_and_leaves_the_beat(tmp_path: Path) -> None:
    time = np.arange(2500) / 250
    beat, wander = np.sin(2 * np.pi * 5 * time), 1.5 * np.sin(2 * np.pi * 0.1 * time)
    path = write_waveform(tmp_path / "x.npz", signal=np.array([beat + wander] * 3, np.float32))
    kept = 4 * read(path, length=512, band=(0.5, 20.0))[0, 100:400] - 2
    np.testing.assert_allclose(kept, np.sin(2 * np.pi * 5 * np.arange(100, 400) / 50), atol=0.1)


SOUNDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of no length": (lambda path: write_sound(path, 0), "0.00 s long; expected 0.25 s"),
    "silent": (lambda path: write_sound(path, hz=0), "silent"),
    "no sound": (lambda path: path.write_bytes(b"RIFF of something"), "not a readable WAV or FLAC"),
    "a waveform": (write_waveform, "name the column of sounds in data.audio"),
}
WAVEFORMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of no length": (lambda path: write_waveform(path, seconds=0), "0.00 s long; expected 0.25 s"),
    "of one lead": (
        lambda path: write_waveform(path, leads=("V1", "X")),
        r"1 of the 3 leads in data.waveform_leads, 2 or more are needed. It has V1, X",
    ),
    "not finite": (lambda path: write_waveform(path, signal=np.full((3, 500), np.nan)), "no finite numbers"),
    "of a pickle": (lambda path: write_waveform(path, channels=np.array([{}, 1, 2])), "not a waveform"),
    "without a rate": (lambda path: write_waveform(path, rate=None), "not a waveform"),
    "of rate 0": (lambda path: write_waveform(path, rate=np.float64(0)), "0 samples a second; expected 1 to"),
    "of a rate beyond all": (
        lambda path: write_waveform(path, rate=np.float64(1e9)),
        r"1e\+09 samples a second",
    ),
    "of too few names": (lambda path: write_waveform(path, channels=np.array(["I"])), "a name each"),
    "cut short": (lambda path: path.write_bytes(write_waveform(path).read_bytes()[:200]), "not a waveform"),
    "a sound": (lambda path: soundfile.write(path, np.ones(9), 8000, format="WAV"), "data.waveform"),
}


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [("audio", *case) for case in SOUNDS.values()] + [("waveform", *case) for case in WAVEFORMS.values()],
    ids=[*(f"sound {key}" for key in SOUNDS), *(f"waveform {key}" for key in WAVEFORMS)],
)
def test_what_cannot_be_used_is_told_by_name_or_missing_where_it_is_noted(
    tmp_path: Path, name: str, spoil: Callable[[Path], Any], words: str
) -> None:
    config, ending = a_run(name), {"audio": "wav", "waveform": "npz"}[name]
    folder = a_data_set(tmp_path / "data", name, patients=4)
    spoil(folder / f"{name}/2.{ending}")
    manifest = read_manifest(folder, config.data, config.task)
    with pytest.raises(DataError, match=words) as caught:
        open_site_data(manifest, config, tmp_path / "cache")
    assert f"{name}/2.{ending}" in str(caught.value)
    told: list[str] = []
    noted = read_manifest(folder, config.data, config.task, told.append)
    data = open_site_data(noted, config, tmp_path / "cache")
    assert data.train.modalities[name][np.arange(4)].present.any(1).tolist() == [True, True, False, True]
    assert len(told) == 1 and re.search(words, told[0])


def test_keys_that_do_not_fit_are_refused() -> None:
    for changes, words in (
        ({"waveform_leads": ["I", "i"]}, "each once"),
        ({"waveform_leads": []}, "one or more names"),
        ({"waveform_fewest": 13}, "names 12: lower it"),
        ({"waveform_window": [1, 1]}, r"must be \[low, high\]"),
        ({"waveform_band": [5]}, r"\[low, high\] in Hz"),
        ({"waveform_band": [1e-6, 5]}, "0.01 or more"),
        ({"audio_rate": 1000}, "there are 16 at most"),
    ):
        with pytest.raises(ValueError, match=words):
            RunConfig.model_validate({"data": changes})


def test_an_ecg_is_asked_for_half_of_the_leads_unless_the_run_says_otherwise() -> None:
    form = MODALITIES["waveform"].form(RunConfig().data)  # type: ignore[attr-defined]
    assert (form.leads, form.fewest) == (STANDARD_LEADS, 6)


def test_a_run_without_them_has_the_digest_that_it_had_before_there_were_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_sounds = RunConfig.model_validate({"data": {"audio": "sound"}})
    finer = RunConfig.model_validate({"data": {"audio": "sound", "audio_mels": 16}})
    now = RunConfig().digest
    assert len({now, with_sounds.digest, finer.digest}) == 3
    registered = {name: one for name, one in MODALITIES.items() if name not in ("audio", "waveform")}
    monkeypatch.setattr("mmmed.config.schema.MODALITIES", registered)
    before = RunConfig()
    assert not hasattr(before.data, "audio") and before.digest == now


# ---------------------------------------------------------------- encoders


@pytest.mark.parametrize(("name", "encoder"), ENCODERS)
def test_each_encoder_gives_a_token_a_flag_and_a_private_step_is_the_definitions(
    name: str, encoder: str
) -> None:
    config = a_run(name, encoder)
    assert policy_name(config) == f"{name}-{encoder}"
    records, model = made_up_records(config, 4), build_model(config)
    nn.init.normal_(model.head.weight)
    batch = records.batch(np.arange(len(records)), records.patient)
    given = batch.inputs[name]
    tokens = model.encoder(name)(given)
    assert tokens.shape == (*given.present.shape, model.encoder(name).width) and torch.isfinite(tokens).all()
    partly = given.present.any(1) & ~given.present.all(1)
    assert partly.any()
    behind = given.values.clone()
    behind[~given.present.repeat_interleave(MODALITIES[name].span, 1)[:, None].expand_as(behind)] = 0.7  # type: ignore[attr-defined]
    garbled = model.encoder(name)(type(given)(behind, given.present))
    torch.testing.assert_close(garbled, tokens)
    model, batch = exact(model, batch)
    check_independence(model, batch)
    check_private_step(model.train(), Classification().target(), batch)


def test_a_view_begins_elsewhere_and_keeps_what_is_there() -> None:
    assert VERSION == 3
    for name in ("audio", "waveform"):
        given = made_up_records(a_run(name), 6).modalities[name][np.arange(8)]
        uniforms = np.random.default_rng(0).random((8, 9))
        viewed = MODALITIES[name].view(given, uniforms)
        assert torch.equal(viewed.present, given.present)
        assert torch.equal(viewed.values > 0, given.values > 0) and viewed.values.max() <= 1
        rolled = MODALITIES[name].view(given, np.where(np.arange(9) == 1, 0.5, uniforms))  # no other loudness
        there = given.present.any(1)
        same = torch.isclose(rolled.values.sum((1, 2)), given.values.sum((1, 2)), rtol=1e-4)
        assert same.all() and not torch.equal(rolled.values[there], given.values[there])


# ---------------------------------------------------------------- whole runs


def a_data_set(folder: Path, name: str, patients: int) -> Path:
    """Patients whose label is the pitch of their sound, or which lead their waveform's fast sine is in."""
    ending = {"audio": "wav", "waveform": "npz"}[name]
    label = np.arange(patients) % 2
    for number, ill in enumerate(label):
        path = folder / name / f"{number}.{ending}"
        if name == "audio":
            write_sound(path, seconds=1 + 0.2 * (number % 3), hz=300 + 500 * ill)
        else:
            write_waveform(path, leads=LEADS if ill else LEADS[::-1])
    pd.DataFrame(
        {
            "patient_id": [f"p{number}" for number in range(patients)],
            "study_id": range(patients),
            "site": [("north", "south")[number // 2 % 2] for number in range(patients)],
            "finding": label,
            name: [f"{name}/{number}.{ending}" for number in range(patients)],
        }
    ).to_csv(folder / "data.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["audio", "waveform"])
def test_a_run_of_it_alone_trains_and_a_check_describes_it(name: str, tmp_path: Path) -> None:
    folder = a_data_set(tmp_path / "data", name, patients=40)
    config = a_run(
        name,
        training={"batch_size": 8, "augment": True, "local_epochs": 1},
        federation={"rounds": 1},
        privacy={"delta": 1e-3},
    )
    (tmp_path / "run.toml").write_text(to_toml(config))
    arguments = [
        "simulate",
        "--data",
        folder,
        "--config",
        tmp_path / "run.toml",
        "--workers",
        "0",
        "--out",
        tmp_path / "run",
    ]
    broken = folder / f"{name}/2.{'wav' if name == 'audio' else 'npz'}"
    whole = broken.read_bytes()
    broken.write_bytes(b"x")
    assert any(broken.name in problem for problem in check(folder, config.data, config.task).problems)
    broken.write_bytes(whole)
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "run" / "model")[0].modalities == (name,)
    measured = check(folder, config.data, config.task)
    assert measured.facts[{"audio": "Sounds", "waveform": "Waveforms"}[name]] and not measured.problems
