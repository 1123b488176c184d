"""A site's own copy of a federated model, trained on with the site's own patients (fine-tuning after federation).

It is the simplest way to personalise a model (Yu et al. 2020, arXiv 2002.04758) and needs nothing of the other sites.
How many passes help is chosen on patients of the site that are not trained on; none at all is one of the choices.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from client.mechanism import patient_batches
from mmmed.config import RunConfig
from mmmed.data.batch import Batch
from mmmed.data.loader import PatientBatches, Records, SiteData
from mmmed.data.split import position
from mmmed.errors import DataError
from mmmed.inference.evaluate import Interval, evaluate
from mmmed.inference.predict import predict
from mmmed.inference.sites import predict_opened
from mmmed.models import FrozenEncoders, MultimodalModel, trainable_state
from mmmed.training import PlainStep, make_optimizer, train

_VALIDATED = 0.25  # of the patients to train on, by whom the passes are chosen
_PATIENCE = 5  # passes without a better one, after which it ends
_BATCH = 32  # patients at most


@dataclass(frozen=True)
class Personal:
    """A model of one site.

    Attributes:
        model: all of it, its frozen encoders included.
        config: the run's, without privacy.
        passes: over the site's patients that made it; 0 if none was better than the model as it came.
        before: the main score of the model as it came, on the site's held-out patients.
        after: the same of this one.
    """

    model: MultimodalModel
    config: RunConfig
    passes: int
    before: Interval
    after: Interval


def personalise(
    model: MultimodalModel,
    config: RunConfig,
    data: SiteData,
    features: Path,
    *,
    passes: int = 20,
    learning_rate: float = 1e-3,
) -> Personal:
    """Train a model on with the patients of one site, without privacy: what comes out must not leave the site.

    Args:
        model: the federated model; it is left as it is.
        config: the model's. What is trained and how a batch is made stay; steps are Adam's, of 32 patients at most.
        data: the site's records. The held-out ones are for the two scores alone.
        features: folder where features of frozen encoders are kept.
        passes: over the site's patients, at most.
        learning_rate: of a step.

    Raises:
        DataError: too few patients to choose by, or none held out.
    """
    if not len(data.test):
        raise DataError(
            "the site holds out no patients to tell by whether this helped: set data.test_fraction"
        )
    steps = {"optimizer": "adam", "learning_rate": learning_rate, "momentum": 0.0}
    own = config.model_copy(update={"training": config.training.model_copy(update=steps)})
    worked = copy.deepcopy(model)
    encoders = FrozenEncoders(worked, own, features)
    fit, chosen_by = (encoders.records(part) for part in _parts(data.train, config.training.seed))
    step, batches = (
        PlainStep(make_optimizer(worked, own.training)),
        patient_batches(fit, own, own.training.seed),
    )
    order = np.random.default_rng(own.training.seed)
    best, kept, number = _value(worked, own, chosen_by), _state(worked), 0
    for done in range(1, passes + 1):
        first = (done - 1) * -(-fit.patients // _BATCH)  # so that no step has the views of another
        train(worked, own, step, _shuffled(fit, order), partial(_from, batches, first))
        found = _value(worked, own, chosen_by)
        if found > best:
            best, kept, number = found, _state(worked), done
        if done - number >= _PATIENCE:
            break
    whole = copy.deepcopy(model)
    whole.load_state_dict(kept, strict=False)
    before, after = (
        evaluate(
            config.task.target(),
            predict_opened(copy.deepcopy(one), config, {"own": data}),
            seed=config.training.seed,
        ).pooled
        for one in (model, whole)
    )
    return Personal(whole.eval(), _plain(config), number, before, after)


def _plain(config: RunConfig) -> RunConfig:
    """The run without privacy: of masked steps, plain ones."""
    federation, privacy = config.federation, config.privacy.model_copy(update={"enabled": False})
    if federation.release == "secure-steps":
        federation = federation.model_copy(update={"release": "steps"})
    return config.model_copy(update={"privacy": privacy, "federation": federation})


def _parts(records: Records, seed: int) -> tuple[Records, Records]:
    """To train on, and to choose by: no patient is in both."""
    mask = np.array([position(f"validated {name}", seed) for name in records.names]) < _VALIDATED
    if mask.all() or not mask.any():
        raise DataError(
            f"{records.patients} patients to train on are too few to choose by some of them how far to go"
        )
    return records.part(~mask[records.patient]), records.part(mask[records.patient])


def _value(model: MultimodalModel, config: RunConfig, records: Records) -> float:
    """The main score, more is better."""
    target = config.task.target()
    value = target.scores(predict(model, target, records), records.labels)[target.score.name]
    if np.isnan(value):
        raise DataError(
            f"{target.score.title} is not defined on the patients by whom it is chosen how far to go: there are too "
            "few, or of one kind alone"
        )
    return value if target.score.higher else -value


def _state(model: MultimodalModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainable_state(model).items()}


def _from(batches: PatientBatches, first: int, step: int, patients: np.ndarray) -> Batch:
    return batches(first + step, patients)


def _shuffled(records: Records, order: np.random.Generator) -> Iterator[np.ndarray]:
    """A pass over the patients, in batches."""
    patients = order.permutation(records.patients)
    return (patients[start : start + _BATCH] for start in range(0, len(patients), _BATCH))
