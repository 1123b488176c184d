"""The run's model as this site builds it, once a run; its frozen encoders are replaced by their kept features."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from mmmed.config import RunConfig, TrainingConfig
from mmmed.data.loader import Records, SiteData
from mmmed.data.made_up import made_up_records, record_counts
from mmmed.errors import WeightsDiffer
from mmmed.models import (
    FrozenEncoders,
    MultimodalModel,
    build_model,
    check_frozen,
    frozen_digests,
)
from mmmed.paths import feature_cache
from mmmed.training import part_size

_MADE_UP = 32  # patients at least


class _RunModel:
    def __init__(self, config: RunConfig) -> None:
        self.model = build_model(config)
        self.digests = frozen_digests(self.model, config)
        self.encoders: FrozenEncoders | None = None
        if config.model.trainable in ("lora", "fusion-head"):
            self.encoders = FrozenEncoders(self.model.to(device()), config, feature_cache())
        records = made_up_records(config, _enough(config))
        self.made_up = records if self.encoders is None else self.encoders.records(records)


def _enough(config: RunConfig) -> int:
    """Made-up patients whose records fill one part of a step and begin another."""
    training, size = config.training, part_size(config)
    taken = np.minimum(record_counts(config, size + 1), training.records_per_patient) * training.views
    return max(_MADE_UP, 1 + int(np.searchsorted(np.cumsum(taken), size, "right")))


def check_weights(config: RunConfig, wanted: Mapping[str, str]) -> None:
    """Compare what this site does not train, and so takes from its own disk, with the server's. Reads no record.

    Args:
        config: the run's.
        wanted: the server's digests, `mmmed.models.frozen_digests`.

    Raises:
        WeightsDiffer: they differ.
        ModelError: the model cannot be built here.
    """
    try:
        check_frozen(_run_model(config).digests, wanted, config)
    except WeightsDiffer:
        _built.cache_clear()  # the mended weights are read when the server asks again
        raise


def open_model(config: RunConfig) -> MultimodalModel:
    """A new copy of the run's model, as built, for training."""
    return copy.deepcopy(_run_model(config).model)


def made_up(config: RunConfig) -> Records:
    """Made-up records in the form that the run's model takes."""
    return _run_model(config).made_up


def as_read(data: SiteData, config: RunConfig) -> SiteData:
    """The site's records in the form that the run's model takes: features in place of a frozen encoder's inputs."""
    return _read_as(data, built_by(config))


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def built_by(config: RunConfig) -> RunConfig:
    """The run's task, data and model, and of its training what decides how they are built; the rest as by default.

    Runs that differ in nothing of this have the same model, as built, and the same records.
    """
    training = config.training
    own = TrainingConfig(
        seed=training.seed,
        augment=training.augment,
        views=training.views,
        records_per_patient=training.records_per_patient,
    )
    return RunConfig.model_construct(task=config.task, data=config.data, model=config.model, training=own)


def _run_model(config: RunConfig) -> _RunModel:
    return _built(built_by(config))


@lru_cache(maxsize=2)
def _built(config: RunConfig) -> _RunModel:
    return _RunModel(config)


@lru_cache(maxsize=16)
def _read_as(data: SiteData, built: RunConfig) -> SiteData:
    encoders = _built(built).encoders
    return data if encoders is None else encoders.site(data)
