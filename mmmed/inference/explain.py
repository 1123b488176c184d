"""What each modality of a study did to a prediction, and within each its parts: places, words, columns, times.

The shares of modalities are exact over all subsets of what the study has: the model takes a study without a modality as
it takes any that lacks it, so nothing is made up in its place. How well it does so depends on whether it was trained on
such studies (``training.modality_dropout``). What a part did is what changes without it, all else being there
(`Modality.parts` says what stands in its place): it asks the model alone, and so works for every encoder and fusion.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, cast

import numpy as np
import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Input
from mmmed.data.loader import Records
from mmmed.data.parts import Parts
from mmmed.data.stored import Stored
from mmmed.inference.predict import predict
from mmmed.inference.study import modalities_of
from mmmed.modalities import MODALITIES
from mmmed.models import MultimodalModel
from mmmed.tasks.base import Target


@dataclass(frozen=True)
class Shares:
    """The parts that modalities have in the K numbers of a prediction.

    Attributes:
        prediction: (K,) from all that the study has.
        nothing: (K,) what the model gives where it knows nothing.
        shares: (K,) by modality, its Shapley value (Shapley 1953): the mean, over all orders in which the modalities
            could be given, of what it changes. They add up to the prediction less `nothing`.
        without: (K,) by modality, the prediction without it alone.
    """

    prediction: np.ndarray
    nothing: np.ndarray
    shares: Mapping[str, np.ndarray]
    without: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Detail:
    """What the P parts of one modality did to the K numbers of a prediction.

    Attributes:
        shown: "map" of a picture, "clip" of frames, "views" of several pictures, "curve" of a recording, "words" of a
            note or "columns" of a table.
        shares: (K, P) float64, of each part: the prediction less the one without it.
        names: (P,) of words, which put together are what was read of the note, or of columns with their values; empty
            where parts are places.
        rest: of a note, what is beyond the tokens that are read.
        map: (K, *shape) float64, the shares at each place; None where parts have names.
        plain: (*shape) float32 in [0, 1], the picture or recording as the model reads it, its channels' mean.
        step: of a recording, seconds from place to place, else 0.
    """

    shown: Literal["map", "clip", "views", "curve", "words", "columns"]
    shares: np.ndarray
    names: tuple[str, ...] = ()
    rest: str = ""
    map: np.ndarray | None = None
    plain: np.ndarray | None = None
    step: float = 0.0


def details(
    model: MultimodalModel, config: RunConfig, study: Records, cells: Mapping[str, str]
) -> dict[str, Detail]:
    """`Detail` of each modality that the one record of `study` has and that has parts (`Modality.parts`).

    Args:
        model: it is not changed.
        config: the model's.
        study: see `mmmed.inference.study.read_study`.
        cells: see `mmmed.inference.study.cells_of`.
    """
    target, found, own = config.task.target(), {}, np.zeros(1, dtype=np.int64)
    batch = study.batch(own, own)
    whole = predict(model, target, study)
    for name in modalities_of(study):
        parts = MODALITIES[name].parts(batch.inputs[name], cells, config)
        if parts is not None:
            found[name] = _detail(_others_given(model, batch.inputs, name), target, study, name, parts, whole)
    return found


def _detail(
    model: MultimodalModel, target: Target, study: Records, name: str, parts: Parts, whole: np.ndarray
) -> Detail:
    total = len(parts.without.present)
    same = np.zeros(total, dtype=np.int64)
    asked = {
        other: Stored(_Repeated(stored[study.rows].values), stored[study.rows].present.expand(total, -1))
        for other, stored in study.modalities.items()
    }
    records = Records(asked | {name: parts.without}, study.label[same], same, study.names, np.arange(total))
    shares = (whole - predict(model, target, records)).T
    return Detail(
        parts.shown,
        shares,
        parts.names,
        parts.rest,
        parts.map_of(shares) if parts.windows else None,
        parts.plain,
        parts.step,
    )


class _Repeated:
    """Rows of which each is the same one."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        return self._values.expand(len(rows), *self._values.shape[1:])


class _Same(nn.Module):
    """Takes the place of an encoder that would read the same again; it gives what that gave, (1, S, width)."""

    def __init__(self, width: int, tokens: torch.Tensor) -> None:
        super().__init__()
        self.width, self.tokens = width, tokens

    def forward(self, given: Input) -> torch.Tensor:
        return self.tokens.expand(len(given.values), -1, -1)


@torch.no_grad()
def _others_given(model: MultimodalModel, study: Mapping[str, Input], name: str) -> MultimodalModel:
    """The model with what the encoders of all modalities but `name` give of a study in their place."""
    given = copy.copy(model)
    given._modules = dict(model._modules)  # else the model itself would change
    device = next(model.parameters()).device
    for other in model.modalities:
        if other != name:
            encoder = model.encoder(other)
            tokens = encoder(study[other].to(device))
            setattr(given, other, _Same(cast(int, getattr(encoder, "width", tokens.shape[-1])), tokens))
    return given


def modality_shares(model: MultimodalModel, target: Target, study: Records) -> Shares:
    """`Shares` of the one record of `study`, over the modalities that it has: 2^M predictions of M."""
    there = modalities_of(study)
    value = {
        frozenset(kept): predict(model, target, _only(study, kept))[0]
        for size in range(len(there) + 1)
        for kept in combinations(there, size)
    }
    shares = {}
    for name in there:
        share = np.zeros_like(value[frozenset()])
        for others in (subset for subset in value if name not in subset):
            weight = 1 / (len(there) * math.comb(len(there) - 1, len(others)))
            share += weight * (value[others | {name}] - value[others])
        shares[name] = share
    every = frozenset(there)
    without = {name: value[every - {name}] for name in there}
    return Shares(value[every], value[frozenset()], shares, without)


def _only(study: Records, kept: tuple[str, ...]) -> Records:
    """The study with these modalities alone."""
    modalities = {
        name: one if name in kept else Stored(one.values, torch.zeros_like(one.present))
        for name, one in study.modalities.items()
    }
    return replace(study, modalities=modalities)
