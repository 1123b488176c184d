"""What holds for every modality in the registry, and for one that a test adds through the registry alone."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from client.audit import run_subject
from client.run_request import run_request
from mmmed.check import check
from mmmed.cli import app
from mmmed.config import RunConfig, from_flat, resolve, to_flat, to_toml
from mmmed.data.batch import Batch, Input
from mmmed.data.loader import PatientBatches, load_records, open_site_data
from mmmed.data.made_up import made_up_records
from mmmed.data.manifest import read_manifest
from mmmed.errors import ConfigError, DataError
from mmmed.modalities import MODALITIES
from mmmed.modalities.base import Reading
from mmmed.modalities.columns import Files
from mmmed.models import MultimodalModel, build_model, load_model, save_model
from mmmed.models.names import former_policy_name, in_words, policy_name
from mmmed.tasks import Classification
from privacy.accounting import DpSgdEvent
from privacy.audit.neighbours import neighbour_check
from privacy.audit.static import static_checks
from privacy.policy import TRAINING
from server.privacy_report import _subject
from tests.contracts.signal import Signal
from tests.contracts.steps import check_independence, check_private_step, exact
from tests.mmmed.modalities.test_recordings import write_sound, write_waveform
from tests.mmmed.models.test_models import changed, set_row, without

CLASSES = Classification().target()
SHORT = {
    "audio_seconds": 1.0, "audio_mels": 8, "waveform_seconds": 1.0, "waveform_leads": ["I", "II", "V1"],
    "video_size": 16, "video_frames": 3,
}  # fmt: skip
SMALL = {
    "data": {"image_size": 16, "text_tokens": 8, "volume_size": 16, **SHORT},
    "model": {
        "image_width": 8,
        "volume_width": 8,
        "audio_width": 8,
        "waveform_width": 8,
        "video_width": 8,
        "fusion": {"width": 8, "heads": 2},
    },
    "training": {"batch_size": 8},
}
COLUMNS: dict[str, dict[str, Any]] = {
    "image": {"image": "film"},
    "text": {"text": "note"},
    "volume": {"volume": "scan"},
    "table": {"numbers": {"age": [0, 90]}, "categories": {"sex": ["F", "M"]}},
    "audio": {"audio": "sound"},
    "waveform": {"waveform": "ecg"},
    "video": {"video": "clip"},
    "views": {"views": ["frontal", "lateral"]},
    "signal": {"signal": ["first", "second"]},
}
EVERY = pytest.mark.parametrize("name", [*MODALITIES, "signal"])


@pytest.fixture(autouse=True)
def signal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(MODALITIES, "signal", Signal())
    yield


def a_run(*names: str, **sections: Any) -> RunConfig:
    data = {"image": "", "text": "", **SMALL["data"]}
    for name in names:
        data |= COLUMNS[name]
    return RunConfig.model_validate({**SMALL, "data": data, **sections})


def made_up(config: RunConfig, patients: int = 4) -> tuple[MultimodalModel, Batch]:
    records = made_up_records(config, patients)
    model = build_model(config)
    nn.init.normal_(model.head.weight)  # one that starts at zero would hide all before it
    return model, records.batch(np.arange(len(records)), records.patient)


@EVERY
def test_a_run_of_it_alone_is_read_shown_and_saved(name: str, tmp_path: Path) -> None:
    config = a_run(name)
    assert config.data.modalities == (name,)
    assert from_flat(to_flat(config)) == config and hash(from_flat(to_flat(config))) == hash(config)
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert resolve(tmp_path / "run.toml").config == config
    assert RunConfig.model_validate(tomllib.loads(to_toml(config))) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)  # noqa: S301
    shown = CliRunner().invoke(app, ["config", "show", "--config", str(tmp_path / "run.toml")])
    keys = [*MODALITIES[name].data_keys.model_fields, *MODALITIES[name].model_keys.model_fields]
    assert shown.exit_code == 0 and all(f".{key}" in shown.output for key in keys)
    model = build_model(config)
    save_model(tmp_path, model, config)
    assert load_model(tmp_path)[1] == config


@EVERY
def test_what_is_watched_of_a_record_is_of_what_it_has_alone(name: str) -> None:
    config = a_run(name)
    records = made_up_records(config, 6)
    given = records.batch(np.arange(len(records)), records.patient).inputs[name]
    told = MODALITIES[name].watched(given, config.data)
    assert [bool(one) for one in told] == given.present.any(1).tolist()
    assert all(isinstance(value, str) or math.isfinite(value) for one in told for value in one.values())
    absent = Input(given.values.clone(), given.present)
    for values, present in zip(absent.values, given.present, strict=True):
        if not present.any():
            values[...] = 1
        elif name == "views":
            values[:, ~present] = 1
        elif values.ndim > 2 and len(values) == len(present):
            values[~present] = 1
    assert MODALITIES[name].watched(absent, config.data) == told
    assert MODALITIES[name].watched(given[2:3], config.data) == told[2:3]


def test_no_two_have_a_name_a_key_or_a_word_in_common() -> None:
    every = list(MODALITIES.values())
    assert all(one.name == name for name, one in MODALITIES.items())
    model = a_run(*MODALITIES).model
    for said in (
        [one.plural for one in every],
        [one.label(model) for one in every],
        [one.in_words(model) for one in every],
    ):
        assert all(said) and len(set(said)) == len(every)
    for first, second in itertools.combinations(every, 2):
        for keys in ("data_keys", "model_keys"):
            one, other = getattr(first, keys), getattr(second, keys)
            assert not set(one.model_fields) & set(other.model_fields)
            validators = [set(of.__pydantic_decorators__.model_validators) for of in (one, other)]
            assert not validators[0] & validators[1]


def test_a_run_is_called_by_what_it_reads_and_by_no_other_runs_name() -> None:
    every = [
        names
        for length in range(1, len(MODALITIES) + 1)
        for names in itertools.combinations(MODALITIES, length)
    ]
    called = [policy_name(a_run(*names)) for names in every]
    assert len(set(called)) == len(every)
    assert policy_name(a_run("volume", "table")) == "3d-resnet10+table"
    assert policy_name(a_run("image", "text", "signal")) == "resnet10+tiny+signal8"


@EVERY
def test_a_report_says_its_columns_and_its_encoder(name: str) -> None:
    config = a_run(name)
    said = _subject(config)
    columns = MODALITIES[name].columns(config.data)
    assert said["reads the columns"] == ", ".join(columns) and columns
    assert said["model"] == in_words(config) == f"{MODALITIES[name].in_words(config.model)}, attention fusion"
    assert set(columns) <= run_request(config, TRAINING, "installed").columns


@EVERY
def test_its_columns_are_no_labels(name: str) -> None:
    column = next(iter(MODALITIES[name].columns(a_run(name).data)))
    with pytest.raises(ValueError, match=f"'{column}' is what the task predicts"):
        a_run(name, task={"label": column})


@EVERY
def test_made_up_records_have_everything_nothing_and_this_or_that(name: str) -> None:
    config = a_run(name)
    model, batch = made_up(config, patients=12)
    given = batch.inputs[name]
    assert given.present[0].all() and not given.present[1].any() and given.present[2:].any()
    assert len(given.values) == len(given.present) == len(batch) and torch.isfinite(given.values).all()
    logits = model.eval()(batch)
    assert logits.shape == (len(batch), 1) and torch.isfinite(logits).all()
    again = made_up(config, patients=12)[1].inputs[name]
    assert torch.equal(again.values, given.values) and torch.equal(again.present, given.present)


@EVERY
def test_what_a_record_lacks_reaches_no_output(name: str) -> None:
    model, batch = made_up(a_run(*MODALITIES))
    model.eval()
    given = batch.inputs[name]
    missing = without(batch, name)
    with torch.no_grad():
        expected = model(missing)
        assert not torch.allclose(expected[0], model(batch)[0])
        garbage = set_row(given.values, 0, given.values[0].flip(-1))
        torch.testing.assert_close(model(changed(missing, name, values=garbage)), expected)
    model.zero_grad()
    absent = changed(batch, name, present=torch.zeros_like(given.present))
    CLASSES.losses(model(absent), batch.label).sum().backward()
    assert all(
        p.grad is None or not p.grad.any() for n, p in model.named_parameters() if n.startswith(f"{name}.")
    )


@EVERY
def test_records_are_independent(name: str) -> None:
    check_independence(*exact(*made_up(a_run(name))))


@EVERY
def test_a_private_step_is_the_definitions(name: str) -> None:
    model, batch = exact(*made_up(a_run(name)))
    check_private_step(model, CLASSES, batch)


@EVERY
def test_views_are_of_each_record_alone_and_of_what_is_there(name: str) -> None:
    if not MODALITIES[name].viewed:
        return
    records = made_up_records(a_run(name), 6)
    batches = [PatientBatches(records, records_per_patient=9, seed=0, augment=augment) for augment in (0, 1)]
    plain, viewed = (one(0, np.arange(6)).inputs[name] for one in batches)
    moved = (plain.values != viewed.values).flatten(1).any(1)
    assert moved.any() and not moved[~plain.present.any(1)].any()
    alone = batches[1](0, np.array([0])).inputs[name]  # the first patient has one record
    torch.testing.assert_close(alone.values, viewed.values[:1])


def cells_of(name: str, folder: Path) -> dict[str, list[str]]:
    """By column, cells of two records: one that has the modality, and one that may lack some of it."""
    rng = np.random.default_rng(0)
    if name == "image":
        Image.fromarray(rng.integers(0, 65535, (30, 20), dtype=np.uint16)).save(folder / "a.png")
        return {"film": ["a.png", ""]}
    if name == "volume":
        nibabel.save(nibabel.Nifti1Image(rng.normal(size=(9, 8, 7)), np.eye(4)), folder / "a.nii.gz")
        return {"scan": ["a.nii.gz", ""]}
    if name == "audio":
        write_sound(folder / "a.wav", seconds=0.6)
        return {"sound": ["a.wav", ""]}
    if name == "waveform":
        write_waveform(folder / "a.npz", seconds=0.7)
        return {"ecg": ["a.npz", ""]}
    if name in ("video", "views"):
        for file, gray in (("a", 40), ("b", 90)):
            Image.fromarray(np.full((30, 20), gray, np.uint8)).save(folder / f"{file}.png")
    return {
        "video": {"clip": ["a.png", ""]},
        "views": {"frontal": ["a.png", ""], "lateral": ["b.png", "a.png"]},
        "text": {"note": [" No fever;\r\ncough\tand  Ödem ", ""]},
        "table": {"age": ["61.5", " 7 "], "sex": ["M", ""]},
        "signal": {"first": ["0.5", "1e-1"], "second": ["2", ""]},
    }[name]


@EVERY
def test_a_study_that_is_asked_about_is_read_as_a_record_of_training(name: str, tmp_path: Path) -> None:
    config, cells = a_run(name), cells_of(name, tmp_path)
    rows = {"patient_id": ["a", "b"], "study_id": ["a", "b"], "site": "north", "finding": [0, 1]}
    pd.DataFrame(rows | cells).to_csv(tmp_path / "data.csv", index=False)
    manifest = read_manifest(tmp_path, config.data, config.task)
    trained = load_records(manifest, config, tmp_path / "cache").modalities[name][np.arange(2)]
    for number in range(2):
        given = {column: row[number] for column, row in cells.items()}
        if isinstance(MODALITIES[name], Files):
            given = {column: str(tmp_path / file) if file else "" for column, file in given.items()}
        asked = MODALITIES[name].asked(given, config)[np.zeros(1, dtype=np.int64)]
        assert asked.values.dtype == trained.values.dtype
        assert torch.equal(asked.values[0], trained.values[number])
        assert torch.equal(asked.present[0], trained.present[number])


# ---------------------------------------------------------------- the one that a test adds


def a_table(folder: Path, cell: str = "1.5") -> Path:
    """Two patients with a signal, one without its second sample, one with `cell` as its first."""
    pd.DataFrame(
        {
            "patient_id": list("abcd"),
            "study_id": range(4),
            "site": "north",
            "finding": [0, 1, 0, 1],
            "first": ["0.5", "-1", "3", cell],
            "second": ["2", "1e-1", "", "0"],
        }
    ).to_csv(folder / "data.csv", index=False)
    return folder


def test_its_records_are_loaded_and_shaped_as_those_that_are_made_up(tmp_path: Path) -> None:
    config = a_run("signal")
    manifest = read_manifest(a_table(tmp_path), config.data, config.task)
    data = open_site_data(manifest, config, tmp_path / "cache")
    given = data.train.modalities["signal"][np.arange(4)]
    assert given.present[:, 0].tolist() == [True, True, False, True]
    expected = torch.tensor([[0.5, 2], [-1, 0.1], [0, 0], [1.5, 0]])
    torch.testing.assert_close(given.values, expected)
    ours = made_up_records(config, 2).modalities["signal"][np.arange(4) % 3]
    assert (ours.values.shape, ours.values.dtype) == (given.values.shape, given.values.dtype)
    facts = dict(check(tmp_path, config.data, config.task).facts["Modalities"])
    assert facts == {"records with signal": "75%"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signal": ["first", "third"]}, r"no column 'third' \(asked for by data\.signal\)"),
        ({"signal": ["first", "study_id"], "where": {"study_id": 2}}, "the same label"),
        ({}, "'first' holds no number in row 4"),
    ],
)
def test_what_is_wrong_with_it_is_told_before_training(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    config = a_run("signal")
    data = config.data.model_copy(update=change)
    with pytest.raises(DataError, match=words):
        read_manifest(a_table(tmp_path, "loud"), data, config.task)


def test_where_problems_are_noted_its_value_is_missing(tmp_path: Path) -> None:
    config, told = a_run("signal"), list[str]()
    manifest = read_manifest(a_table(tmp_path, "loud"), config.data, config.task, told.append)
    assert len(told) == 1 and Signal().has(manifest.records, config.data).tolist() == [
        True,
        True,
        False,
        False,
    ]
    nowhere = manifest.records.assign(**{"signal.0": np.nan})
    reading = Reading(tmp_path, tmp_path, told.append)
    Signal().check(nowhere, config.data, reading)
    assert "no signals anywhere" in told[-1] and "data.signal" in told[-1]


def test_a_whole_run_of_it_trains_and_is_reported(tmp_path: Path) -> None:
    draw, patients = np.random.default_rng(0), 80
    samples = {name: draw.normal(size=patients) for name in ("first", "second")}
    rows = {"patient_id": range(patients), "study_id": range(patients), "site": ["a", "b"] * (patients // 2)}
    pd.DataFrame({**rows, **samples, "finding": (samples["first"] > 0).astype(int)}).to_csv(
        tmp_path / "data.csv"
    )
    (tmp_path / "run.toml").write_text(
        to_toml(a_run("signal", privacy={"delta": 1e-2}, federation={"rounds": 1}))
    )
    run = tmp_path / "run"
    simulate = [
        "simulate",
        "--data",
        tmp_path,
        "--config",
        tmp_path / "run.toml",
        "--workers",
        "0",
        "--out",
        run,
    ]
    for command in (simulate, ["privacy", "report", run]):
        result = CliRunner().invoke(app, [str(one) for one in command])
        assert result.exit_code == 0, result.output
    assert load_model(run / "model")[0].modalities == ("signal",)
    subject = json.loads((run / "report" / "privacy.json").read_text())["run"]["subject"]
    assert subject["reads the columns"] == "first, second"
    assert subject["model"] == "one layer for signals, attention fusion"


def test_a_run_of_it_can_be_audited() -> None:
    config = a_run("signal", training={"batch_size": 8, "learning_rate": 0.01, "augment": True})
    with run_subject(config, DpSgdEvent(1.0, 0.1, 40)) as subject:
        assert all(one.passed for one in static_checks(subject))
        assert neighbour_check(subject).passed


def test_a_new_modality_has_no_former_name() -> None:
    assert former_policy_name(a_run("volume")) == "resnet10+tiny+3d-resnet10"
    for names in (("signal",), ("image", "text", "signal")):
        config = a_run(*names)
        assert former_policy_name(config) is None
        assert run_request(config, TRAINING, "installed").model == policy_name(config)


def test_a_modality_that_is_not_registered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = to_flat(a_run("signal"))
    monkeypatch.delitem(MODALITIES, "signal")
    with pytest.raises(ConfigError, match=r"unknown key 'data\.signal'"):
        from_flat(flat)
    assert "signal" not in RunConfig().data.model_dump()


def test_a_section_from_before_it_was_registered_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without_it:
        without_it.delitem(MODALITIES, "signal")
        before = RunConfig.model_validate({**SMALL, "data": {"image_size": 32}})
        assert not hasattr(before.data, "signal")
    now = RunConfig(data=before.data, model=before.model)
    assert (now.data.signal, now.data.image_size, now.model.signal_width) == ((), 32, 8)
    assert now.model.fusion == before.model.fusion
