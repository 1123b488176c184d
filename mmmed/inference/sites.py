"""Predict the held-out records of every site of a data set, in one place.

For whoever holds all of the data: a researcher's simulation, or one site with its own table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmmed.config import RunConfig
from mmmed.data.loader import SiteData, open_site_data
from mmmed.data.manifest import read_manifest
from mmmed.inference.predict import Predictions, predict
from mmmed.models import FrozenEncoders, MultimodalModel
from mmmed.paths import feature_cache, image_cache


def predict_sites(model: MultimodalModel, config: RunConfig, root: Path) -> list[Predictions]:
    """`predict_opened` of every site of the data set in the folder `root`.

    Raises:
        DataError: see `mmmed.data.manifest.read_manifest`.
    """
    manifest = read_manifest(root, config.data, config.task)
    sites = {name: open_site_data(manifest.of_site(name), config, image_cache()) for name in manifest.sites}
    return predict_opened(model, config, sites)


def predict_opened(
    model: MultimodalModel, config: RunConfig, sites: Mapping[str, SiteData]
) -> list[Predictions]:
    """Predictions of each site's held-out records; sites that hold out nothing are left out.

    The model's frozen encoders are taken out of it (`FrozenEncoders`).
    """
    encoders = FrozenEncoders(model, config, feature_cache())
    target, predictions = config.task.target(), []
    for name, site in sites.items():
        if len(site.test):
            guess = target.guess(site.train.labels)
            prediction = predict(model, target, encoders.records(site.test))
            predictions.append(Predictions(name, site.test.patient, site.test.labels, prediction, guess))
    return predictions
