"""What parts of a study did: against the same question asked of the model one part at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmmed.cli.predict import _strongest
from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.data.loader import Records
from mmmed.data.made_up import made_up_records
from mmmed.data.parts import hats
from mmmed.inference import Detail, details, predict, read_study
from mmmed.inference.pictures import pairs
from mmmed.modalities import MODALITIES
from mmmed.models import MultimodalModel, build_model

NOTE = "No fever.  Cough\nand crackles, dull base; CRP raised"
SMALL: dict[str, Any] = {
    "data": {
        "image": "film",
        "text": "note",
        "image_size": 16,
        "text_tokens": 24,
        "numbers": {"age": [0, 90], "crp": [0, 5]},
        "categories": {"sex": ["F", "M"]},
        "audio": "sound",
        "audio_seconds": 1.0,
        "audio_mels": 8,
    },
    "model": {"image_width": 8, "audio_width": 8, "fusion": {"width": 8, "heads": 2}},
}
CELLS = {"note": NOTE, "age": "61", "sex": "M"}


def loud(config: RunConfig) -> MultimodalModel:
    """An untrained model whose head does not start at zero, which would hide all before it."""
    model = build_model(config).eval()
    nn.init.normal_(model.head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.model_validate(SMALL)


@pytest.fixture(scope="module")
def model(config: RunConfig) -> MultimodalModel:
    return loud(config)


@pytest.fixture(scope="module")
def study(config: RunConfig) -> Records:
    """A made-up picture and sound beside a real note and values."""
    told = read_study(
        config.model_copy(update={"data": config.data.model_copy(update={"image": "", "audio": ""})}),
        {"text": NOTE, "age": "61", "sex": "M"},
    )
    made = made_up_records(config, 2)
    first = np.zeros(1, dtype=np.int64)
    own = {
        name: replace(stored, values=stored.values[first], present=stored.present[:1])
        for name, stored in made.modalities.items()
    }
    return replace(told, modalities=own | dict(told.modalities))


@pytest.fixture(scope="module")
def found(config: RunConfig, model: MultimodalModel, study: Records) -> dict[str, Detail]:
    return details(model, config, study, CELLS)


def answer(model: MultimodalModel, config: RunConfig, study: Records, name: str, given: Input) -> np.ndarray:
    """(K,) the prediction with one modality replaced, asked plainly."""
    one = np.zeros(1, dtype=np.int64)
    inputs = study.batch(one, one).inputs
    batch = Batch({**inputs, name: given}, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        return config.task.target().predictions(model(batch)).double().numpy()[0]


def given(study: Records, name: str) -> Input:
    one = np.zeros(1, dtype=np.int64)
    return study.batch(one, one).inputs[name]


def test_each_modality_is_taken_apart_in_its_own_way(found: dict[str, Detail]) -> None:
    shown = {name: detail.shown for name, detail in found.items()}
    assert shown == {"image": "map", "text": "words", "table": "columns", "audio": "curve"}
    for detail in found.values():
        assert len(detail.shares) == 2 and np.abs(detail.shares).max() > 1e-5
        np.testing.assert_allclose(detail.shares.sum(0), 0, atol=1e-6)  # of two probabilities


def test_a_word_counts_what_the_note_without_it_changes(
    config: RunConfig, model: MultimodalModel, study: Records, found: dict[str, Detail]
) -> None:
    detail, whole = found["text"], predict(model, config.task.target(), study)[0]
    assert "".join(detail.names) == NOTE and detail.rest == ""
    assert [word.strip() for word in detail.names] == NOTE.split()
    alone = config.model_copy(
        update={
            "data": config.data.model_copy(update={"image": "", "audio": "", "numbers": {}, "categories": {}})
        }
    )
    for number, _ in enumerate(detail.names):
        words = NOTE.split()
        other = read_study(alone, {"text": " ".join(words[:number] + words[number + 1 :])})
        without = answer(model, config, study, "text", given(other, "text"))
        np.testing.assert_allclose(detail.shares[:, number], whole - without, atol=1e-6)


def test_words_beyond_what_is_read_are_told_apart(config: RunConfig, model: MultimodalModel) -> None:
    run = config.model_copy(
        update={
            "data": config.data.model_copy(update={"image": "", "audio": "", "numbers": {}, "categories": {}})
        }
    )
    words = [f"fever{'s' * (number % 3)}" for number in range(40)]
    long, short = " ".join(words), "  No cough. "
    for note, whole in ((long, False), (short, True), ("fever", True)):
        own = loud(run)
        detail = details(own, run, read_study(run, {"text": note}), {"note": note})["text"]
        assert "".join(detail.names) + detail.rest == note and (detail.rest == "") is whole
        if not whole:  # the first word that is not read changes nothing, the last that is read does
            read = "".join(detail.names)
            same = read_study(run, {"text": read})
            cut = read_study(run, {"text": "".join(detail.names[:-1])})
            tokens = given(read_study(run, {"text": note}), "text").values
            assert given(same, "text").values.equal(tokens)
            assert not given(cut, "text").values.equal(tokens)


def test_a_value_counts_what_a_table_without_it_changes(
    config: RunConfig, model: MultimodalModel, study: Records, found: dict[str, Detail]
) -> None:
    detail, whole = found["table"], predict(model, config.task.target(), study)[0]
    assert detail.names == ("age = 61", "sex = M")  # crp was not given
    alone = config.model_copy(
        update={"data": config.data.model_copy(update={"image": "", "audio": "", "text": ""})}
    )
    for number, rest in enumerate(({"sex": "M"}, {"age": "61"})):
        without = answer(model, config, study, "table", given(read_study(alone, rest), "table"))
        np.testing.assert_allclose(detail.shares[:, number], whole - without, atol=1e-6)


def test_a_place_counts_what_fading_it_changes(
    config: RunConfig, model: MultimodalModel, study: Records, found: dict[str, Detail]
) -> None:
    detail, whole = found["image"], predict(model, config.task.target(), study)[0]
    image, count = given(study, "image"), MODALITIES["image"].windows
    hat = hats(16, count).numpy()
    heat = np.zeros((2, 16, 16))
    for row, column in itertools.product(range(count), repeat=2):
        window = np.outer(hat[row], hat[column]).astype(np.float32)
        values = image.values * (1 - torch.from_numpy(window))
        share = whole - answer(model, config, study, "image", Input(values, image.present))
        np.testing.assert_allclose(detail.shares[:, row * count + column], share, atol=1e-5)
        heat += share[:, None, None] * window
    assert detail.map is not None and detail.plain is not None
    np.testing.assert_allclose(detail.map, heat, atol=1e-5)
    np.testing.assert_allclose(detail.plain, image.values[0, 0])


def test_a_time_counts_what_fading_it_changes_and_what_was_not_recorded_stays_so(
    config: RunConfig, model: MultimodalModel, study: Records
) -> None:
    sound = given(study, "audio")
    length = sound.values.shape[2] - 8
    values = sound.values.clone()
    values[:, :, length:] = 0
    present = sound.present.clone()
    present[:, -1] = False
    stored = replace(study.modalities["audio"], values=values, present=present)
    short = replace(study, modalities={**study.modalities, "audio": stored})
    detail, whole = (
        details(model, config, short, CELLS)["audio"],
        predict(model, config.task.target(), short)[0],
    )
    assert detail.map is not None and detail.map.shape == (2, length) and detail.step == pytest.approx(0.032)
    hat = hats(length, MODALITIES["audio"].windows)
    mean = values[0, :, :length].mean(1, keepdim=True)
    for number in (0, 7, len(hat) - 1):
        faded = values.clone()
        faded[0, :, :length] += hat[number] * (mean - faded[0, :, :length])
        share = whole - answer(model, config, short, "audio", Input(faded, present))
        np.testing.assert_allclose(detail.shares[:, number], share, atol=1e-5)


def test_hats_share_out_every_place() -> None:
    for length, count in ((64, 8), (50, 8), (7, 3), (3, 8)):
        hat = hats(length, count)
        assert hat.shape == (count, length) and (hat >= 0).all()
        torch.testing.assert_close(hat.sum(0), torch.ones(length))


def test_the_model_is_left_as_it_was(config: RunConfig, model: MultimodalModel, study: Records) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    details(model, config, study, CELLS)
    assert dict(model.named_modules()) == modules
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_clip_is_shown_by_the_frames_about_the_strongest_place(tmp_path: Path) -> None:
    keys = {"image": "", "text": "", "video": "clip", "video_frames": 7, "video_size": 16}
    run = RunConfig.model_validate({**SMALL, "data": keys, "model": {**SMALL["model"], "video_width": 8}})
    frames = [Image.fromarray(np.full((20, 24), 30 * k, np.uint8)) for k in range(7)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    study = read_study(run, {"video": str(tmp_path / "clip.gif")})
    detail = details(loud(run), run, study, {"clip": str(tmp_path / "clip.gif")})["video"]
    assert detail.shown == "clip" and detail.map is not None and detail.map.shape == (2, 7, 16, 16)
    for strongest, shown in ((0, "1 2"), (3, "3 4 5"), (6, "6 7")):
        heat = np.zeros((2, 7, 16, 16))
        heat[0, strongest, 4, 9] = -1
        views = [one.view for one in pairs(replace(detail, map=heat), 0)]
        assert views == [f"frame {number} of 7" for number in shown.split()]
        assert _strongest(replace(detail, map=heat), 0) == (
            f"-1.000 in frame {strongest + 1} of 7, 28%, 59% from the top and the left"
        )
