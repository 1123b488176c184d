"""Predict the held-out records of every site of a data set, in one place.

For whoever holds all of the data: a researcher's simulation, or one site with its own table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmmed.config import RunConfig
from mmmed.data.loader import Records, open_site_data
from mmmed.data.manifest import read_manifest
from mmmed.inference.predict import Predictions, predict
from mmmed.models import FrozenEncoders, MultimodalModel
from mmmed.paths import cache_home, image_cache


def predict_sites(model: MultimodalModel, config: RunConfig, root: Path) -> list[Predictions]:
    """Predictions of each site's held-out records; sites that hold out nothing are left out.

    The model's frozen encoders are taken out of it (`FrozenEncoders`).

    Raises:
        DataError: see `mmmed.data.manifest.read_manifest`.
    """
    manifest = read_manifest(root, config.data, config.task)
    encoders = FrozenEncoders(model, config, cache_home() / "features")
    predictions = []
    for name in manifest.sites:
        site = open_site_data(manifest.of_site(name), config, image_cache())
        if len(site.test):
            shares = class_shares(site.train, len(config.task.classes))
            probability = predict(model, encoders.records(site.test))
            predictions.append(Predictions(name, site.test.patient, site.test.labels, probability, shares))
    return predictions


def class_shares(records: Records, classes: int) -> np.ndarray:
    """(K,) float64 share of each class among the records."""
    return np.bincount(records.labels, minlength=classes) / len(records)
