"""Whose note is the longest of a batch is a patient's own: nobody else's part may hang on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.mechanism import patient_batches, private_step
from client.model import open_model
from client.simulated import simulated_manifest
from client.site import Site
from mmmed.config import RunConfig
from mmmed.data.loader import SiteData, open_site_data
from mmmed.inference.predict import predict
from mmmed.models import MultimodalModel
from mmmed.training import make_optimizer, train

RARELY, TOLERANCE = 1e-7, 1e-3
PATIENTS = 20
Change = Callable[[MultimodalModel], None]


@torch.no_grad()
def unbounded(model: MultimodalModel) -> None:
    """What is computed of padding is not finite, though every parameter is."""
    table = model.text.encoder.embeddings.word_embeddings.weight
    table[0] = 3e38 * (-1.0) ** torch.arange(table.shape[1])


@torch.no_grad()
def large(model: MultimodalModel) -> None:
    """Padding gives inputs of 1e8 to a layer whose output at padding nobody reads; words give it none of them."""
    encoder = model.text.encoder
    encoder.embeddings.word_embeddings.weight[0, 0] = 1e4
    layer = encoder.encoder.layer[0]
    first = layer.intermediate.dense
    first.weight[0], first.bias[0] = 0.0, -4e8
    first.weight[0, 0] = 1e8


CHANGES: dict[str, Change] = {"unbounded": unbounded, "large": large}


def opened(site: Site, config: RunConfig, longest: int, tmp_path: Path) -> SiteData:
    """A few patients of short notes, of whom the last has a note of so many words; and the others as held out."""
    manifest = simulated_manifest(config).of_site(site.name)
    records = manifest.records
    kept = records[records["patient"].isin(site.data.train.names[:PATIENTS])].groupby("patient").head(1)
    last = kept["patient"] == kept["patient"].max()
    text = np.where(last, "left " * longest, "left").tolist()
    changed = replace(manifest, records=kept.assign(text=text, image="", label=1).reset_index(drop=True))
    return open_site_data(changed, config, tmp_path / "images")


@pytest.mark.parametrize("name", CHANGES)
def test_a_long_note_moves_only_its_own_patients_part(
    name: str, configured: Callable[..., RunConfig], site: Site, tmp_path: Path
) -> None:
    config = configured()
    sums = []
    for longest in (1, 12):
        model = open_model(config)
        CHANGES[name](model)
        records = opened(site, config, longest, tmp_path).train
        step = private_step(model, make_optimizer(model, config.training), config, RARELY, tried=True)
        scale = config.training.batch_size / config.privacy.max_grad_norm
        step.optimizer.attach_step_hook(
            lambda o, scale=scale: sums.append(
                torch.cat([p.grad.flatten().double() * scale for p in o.params])
            )
        )
        train(model, config, step, [np.arange(records.patients)], patient_batches(records, config, 0))
    moved = float((sums[0] - sums[1]).norm())  # one patient's part taken out, another put in
    assert moved <= 2 * (1 + TOLERANCE), moved


@pytest.mark.parametrize("name", CHANGES)
def test_a_long_note_changes_only_its_own_patients_prediction(
    name: str, configured: Callable[..., RunConfig], site: Site, tmp_path: Path
) -> None:
    config = configured()
    found = []
    for longest in (1, 12):
        model = open_model(config)
        CHANGES[name](model)
        found.append(predict(model, config.task.target(), opened(site, config, longest, tmp_path).train)[:-1])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
