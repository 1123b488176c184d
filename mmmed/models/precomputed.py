"""A model whose frozen encoders are replaced by their features: a step pays only for what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Input
from mmmed.data.features import FeatureFile, FeatureRows
from mmmed.data.loader import Records, SiteData
from mmmed.data.stored import Stored
from mmmed.errors import DataError
from mmmed.modalities import MODALITIES
from mmmed.models.frozen import frozen_digest
from mmmed.models.multimodal import MultimodalModel


class Precomputed(nn.Module):
    """Takes the place of a frozen encoder; its input already holds the encoder's features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, given: Input) -> torch.Tensor:
        return given.values


class FrozenEncoders:
    """The frozen encoders of a model, taken out of it; what is left of it reads their features.

    Args:
        model: changed in place: a frozen encoder becomes `Precomputed`.
        config: the model's; with `training.augment` there are `training.views` fixed views of a record.
        folder: where features are kept.
    """

    def __init__(self, model: MultimodalModel, config: RunConfig, folder: Path) -> None:
        self._folder, self._config = folder, config
        self._encoders: Mapping[str, nn.Module] = {
            name: model.encoder(name).eval() for name in model.modalities if model.frozen(name)
        }
        self._digests = {name: frozen_digest(encoder) for name, encoder in self._encoders.items()}
        self._shapes: dict[str, torch.Size] = {}
        self._files: dict[str, FeatureFile] = {}
        for name, encoder in self._encoders.items():
            setattr(model, name, Precomputed(cast(int, encoder.width)))

    def site(self, data: SiteData) -> SiteData:
        """A site's records with features in place of what the frozen encoders read.

        They are computed when they are first used, the same that the encoders give in any batch. Only of the first
        records that are ever given here is one encoded at once, to see the shape of its features: give made-up ones
        first, so that nothing is read of a patient's.
        """
        features = {name: self._features(name, data.train.modalities[name]) for name in self._encoders}
        modalities = {**data.train.modalities, **features}
        return SiteData(replace(data.train, modalities=modalities), replace(data.test, modalities=modalities))

    def records(self, records: Records) -> Records:
        """One set of records, with features in place of what the frozen encoders read. See `site`."""
        return self.site(SiteData(records, records)).train

    def _features(self, name: str, stored: Stored) -> Stored:
        encoder, training = self._encoders[name], self._config.training
        device = next(encoder.parameters()).device

        @torch.no_grad()
        def encode(given: Input) -> torch.Tensor:
            features: torch.Tensor = encoder(given.to(device))
            return features.float().cpu()

        if name not in self._shapes:
            self._shapes[name] = encode(stored[np.zeros(1, dtype=np.int64)]).shape[1:]
        shape = self._shapes[name]  # [s, width]
        modality = MODALITIES[name]
        views = training.views if training.augment and modality.viewed else 1
        present = stored.present
        if shape[0] != present.shape[1]:  # pooled, or one flag for the tokens of an image
            present = present.any(1, keepdim=True)
        rows = FeatureRows(stored, encode, self._file(name, shape), view=modality.view, views=views)
        return Stored(rows, present, fixed_views=views)

    def _file(self, name: str, shape: torch.Size) -> FeatureFile:
        """Where an encoder's features are, opened once for all sites of a process."""
        if (file := self._files.get(name)) is not None:
            with suppress(DataError):  # it was removed: a new one is begun
                file.refresh()
                return file
        path = self._folder / f"{name}-{self._digests[name]}-{'x'.join(map(str, shape))}.rows"
        self._files[name] = FeatureFile(path, shape)
        return self._files[name]
