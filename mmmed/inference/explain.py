"""What each modality of a study did to a prediction.

Exact over all subsets of what the study has: the model takes a study without a modality as it takes any that lacks it,
so nothing is made up in its place. How well it does so depends on whether it was trained on such studies
(``training.modality_dropout``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from mmmed.data.loader import Records
from mmmed.data.stored import Stored
from mmmed.inference.predict import predict
from mmmed.inference.study import modalities_of
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
