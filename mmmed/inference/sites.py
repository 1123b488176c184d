"""Predict the held-out records of every site of a data set, in one place.

For whoever holds all of the data: a researcher's simulation, or one site with its own table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mmmed.config import RunConfig
from mmmed.data.cells import text_of
from mmmed.data.loader import SiteData, open_site_data
from mmmed.data.manifest import read_manifest, read_table, table_file
from mmmed.errors import DataError
from mmmed.inference.predict import Predictions, predict
from mmmed.inference.subgroups import Group, age_band, subgroups
from mmmed.models import FrozenEncoders, MultimodalModel
from mmmed.paths import feature_cache, image_cache

_MOST_GROUPS = 30


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
            test = site.test
            predictions.append(Predictions(name, test.patient, test.labels, prediction, guess, test.rows))
    return predictions


def score_groups(
    config: RunConfig, root: Path, predictions: Sequence[Predictions], by: Sequence[str], seed: int = 0
) -> list[Group]:
    """The main score in groups of the patients of all sites: `mmmed.inference.subgroups`.

    Args:
        config: of the model.
        root: the data folder that the predictions are of.
        predictions: as `predict_sites` gives them.
        by: columns of the table, "site", or "age_band", which is made from a column "age" where there is none of it.
        seed: of the intervals.

    Raises:
        DataError: no such column, or one with more values than groups that anybody could read.
    """
    manifest = read_manifest(root, config.data, config.task)
    path = table_file(root, config.data)
    table = read_table(path)
    rows = np.concatenate([manifest.of_site(p.site).records["row"].to_numpy()[p.rows] for p in predictions])
    sites = np.concatenate([np.full(len(p.label), p.site) for p in predictions])
    groups = {name: sites.tolist() if name == "site" else _column(table, rows, name, path) for name in by}
    patient = np.concatenate([[f"{i} {own}" for own in p.patient] for i, p in enumerate(predictions)])
    return subgroups(
        config.task.target(),
        np.concatenate([p.prediction for p in predictions]),
        np.concatenate([p.label for p in predictions]),
        patient,
        groups,
        seed=seed,
    )


def check_groups(config: RunConfig, root: Path, by: Sequence[str]) -> None:
    """Raise `DataError` if the table of a data folder has no column for one of the groupings `by`."""
    path = table_file(root, config.data)
    table = read_table(path)
    for name in by:
        if name != "site":
            _column(table, table.index.to_numpy(), name, path)


def _column(table: pd.DataFrame, rows: np.ndarray, name: str, path: Path) -> list[str]:
    banded = name == "age_band" and name not in table.columns
    column = "age" if banded else name
    if column not in table.columns:
        raise DataError(f"{path}: no column {column!r} to make groups by. It has: {', '.join(table.columns)}")
    values = [age_band(cell) if banded else text_of(cell) for cell in table[column].loc[rows]]
    if len(set(values)) > _MOST_GROUPS:
        mend = ": take age_band" if name == "age" else ""
        raise DataError(f"{path}: column {column!r} has {len(set(values))} values, too many for groups{mend}")
    return values
