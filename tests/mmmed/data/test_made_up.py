"""Made-up records have the shapes of real ones, in every modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmmed.config import RunConfig, from_flat
from mmmed.data.loader import PatientBatches, open_site_data
from mmmed.data.made_up import made_up_records
from mmmed.data.manifest import read_manifest
from mmmed.models import build_model, load_tokenizer

EVERYTHING = {
    "data.image_size": 16, "data.text_tokens": 12, "data.volume": "scan", "data.volume_size": 16,
    "data.numbers": '{"age": [0, 90]}', "data.categories": '{"sex": ["F", "M"]}', "model.image_width": 8,
    "model.volume_width": 8, "model.fusion_dim": 8, "model.fusion_heads": 2, "task.classes": '["a", "b", "c"]',
}  # fmt: skip


def configured(**more: Any) -> RunConfig:
    return from_flat(EVERYTHING | {key.replace("__", "."): value for key, value in more.items()})


def test_every_modality_is_there_and_a_model_reads_it() -> None:
    config = configured()
    records = made_up_records(config, 12)
    assert tuple(records.modalities) == config.data.modalities == ("image", "text", "volume", "table")
    assert records.patients == 12 and set(records.labels) == {0, 1, 2}
    batch = records.batch(np.arange(len(records)), records.patient)
    logits = build_model(config).eval()(batch)
    assert logits.shape == (len(records), 3) and torch.isfinite(logits).all()
    for given in batch.inputs.values():
        assert given.present[0].all() and not given.present[1].any() and given.present[2:].any()
        assert torch.isfinite(given.values).all()
    image = batch.inputs["image"]
    assert image.values.min() >= 0 and image.values.max() <= 1 and not image.values[1].any()


def test_the_same_seed_gives_the_same_records_and_another_gives_others() -> None:
    first, again, other = (made_up_records(configured(), 5, seed=seed) for seed in (0, 0, 1))
    rows = np.array([4, 0, 3])
    for name, modality in first.modalities.items():
        assert torch.equal(modality[rows].values, again.modalities[name][rows].values)
        assert not torch.equal(modality[rows].values, other.modalities[name][rows].values)


def test_the_longest_note_holds_the_highest_token_and_all_special_ones() -> None:
    tokenizer = load_tokenizer("tiny")
    text = made_up_records(configured(), 3).modalities["text"]
    note = text[np.array([0])]
    assert note.present.all() and note.values.shape == (1, 12)
    wanted = {max(tokenizer.get_vocab().values()), *tokenizer.all_special_ids} - {tokenizer.pad_token_id}
    assert wanted <= set(note.values[0].tolist())


def test_a_patient_may_have_more_records_than_a_batch_takes() -> None:
    records = made_up_records(configured(training__records_per_patient=2), 6)
    assert np.bincount(records.patient).tolist() == [1, 2, 3, 1, 2, 3]
    batches = PatientBatches(records, records_per_patient=2, seed=0)
    assert len(batches(0, np.arange(6))) == 10


def test_they_are_shaped_as_a_hospitals(hospitals: Path, tmp_path: Path) -> None:
    config = from_flat({"data.image_size": 32, "data.text_tokens": 16, "data.source": str(hospitals)})
    manifest = read_manifest(hospitals, config.data, config.task)
    real = open_site_data(manifest.of_site(manifest.sites[0]), config, tmp_path / "images").train
    made_up = made_up_records(config, 4)
    assert real.modalities.keys() == made_up.modalities.keys()
    for name in real.modalities:
        theirs, ours = (records.modalities[name][np.array([0, 2])] for records in (real, made_up))
        assert (theirs.values.shape, theirs.values.dtype) == (ours.values.shape, ours.values.dtype)
        assert (theirs.present.shape, theirs.present.dtype) == (ours.present.shape, ours.present.dtype)


@pytest.mark.parametrize("names", [("image",), ("text",), ("volume",), ("table",)])
def test_one_modality_alone(names: tuple[str, ...]) -> None:
    changes = {f"data__{name}": "" for name in ("image", "text", "volume") if name not in names}
    if "table" not in names:
        changes |= {"data__numbers": "{}", "data__categories": "{}"}
    config = configured(**changes)
    records = made_up_records(config, 3)
    assert tuple(records.modalities) == names
