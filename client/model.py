"""The run's model as this site builds it, once a run; its frozen encoders are replaced by their kept features."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from weakref import WeakKeyDictionary

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
        self._features: WeakKeyDictionary[SiteData, SiteData] = WeakKeyDictionary()
        self._replica: MultimodalModel | None = None

    def as_read(self, data: SiteData) -> SiteData:
        """A site's records in the form that the model takes; found once for as long as they are open."""
        if self.encoders is None:
            return data
        if data not in self._features:
            self._features[data] = self.encoders.site(data)
        return self._features[data]

    def replica(self) -> MultimodalModel:
        """The one copy that is used again and again, as built but for its trainable parameters."""
        if self._replica is None:
            self._replica = copy.deepcopy(self.model)
            self._untouched = _versions(self._replica)
        replica = self._replica
        with torch.no_grad():
            for buffer, built in zip(replica.buffers(), self.model.buffers(), strict=True):
                buffer.copy_(built)
            if _versions(replica) != self._untouched:
                for one, built in zip(replica.parameters(), self.model.parameters(), strict=True):
                    one.copy_(built)
                self._untouched = _versions(replica)
        for one, built in zip(replica.parameters(), self.model.parameters(), strict=True):
            one.requires_grad_(built.requires_grad).grad = None
        return replica.train()


def _versions(model: MultimodalModel) -> list[int]:
    """How often each frozen parameter was written."""
    return [one._version for one in model.parameters() if not one.requires_grad]


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


def reused_model(config: RunConfig) -> MultimodalModel:
    """The run's model, the same object at each call and for all sites of this process: building a copy costs more than
    a small site's step. Nothing of what was done with it is left but the trainable parameters: load them first.

    A private step gets a model of its own (`open_model`), since it leaves hooks in it.
    """
    return _run_model(config).replica()


def made_up(config: RunConfig) -> Records:
    """Made-up records in the form that the run's model takes."""
    return _run_model(config).made_up


def as_read(data: SiteData, config: RunConfig) -> SiteData:
    """The site's records in the form that the run's model takes: features in place of a frozen encoder's inputs."""
    return _run_model(config).as_read(data)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=16)
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
