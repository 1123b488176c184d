"""A run tried on made-up records, before a patient is charged or a record read.

Whatever can be known of a model, its engine, its optimiser and its update without a patient is found here: so nobody is
charged for a run that cannot work, and no refusal after the charge can be about what a record holds.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from client.error_feedback import pack_update
from client.mechanism import patient_batches, private_step
from client.model import device, made_up, open_model
from mmmed.config import RunConfig
from mmmed.data.loader import Records
from mmmed.errors import MmmedError, ModelError, WireError
from mmmed.federation.strategies.base import SiteRound, Tensors
from mmmed.inference.predict import predict
from mmmed.modalities import MODALITIES
from mmmed.models import MultimodalModel, trainable_state
from mmmed.training import PlainStep, batch_losses, make_optimizer, train
from mmmed.training.loop import part_size
from mmmed.wire import unpack
from privacy.dpsgd import PrivateStep
from privacy.errors import PrivacyError

_PROBED = 8  # records that the engine's checks are made on


@lru_cache(maxsize=16)
def try_run(config: RunConfig) -> None:
    """Predict, take a private step on a batch and on an empty one, and pack the update; once a configuration.

    The model is the run's as built, so that nothing that a server sends decides what is found.

    Raises:
        ModelError: the model cannot be built, run or trained here, or its update cannot be sent.
        PrivacyError: the model cannot be trained privately, or not by the configured engine.
    """
    model, records = open_model(config).to(device()), made_up(config)
    incoming = {name: value.clone() for name, value in trainable_state(model).items()}
    try:
        with torch.random.fork_rng(devices=[]):
            _one_round(model, records, config)
            _send(model, incoming, config)
    except (MmmedError, PrivacyError):
        raise
    except Exception as error:  # torch raises whatever a model stumbles over
        raise ModelError(
            f"The model does not train on made-up records of the run's shapes ({type(error).__name__}: {error}). "
            "Choose another model or smaller sizes"
        ) from error


def _one_round(model: MultimodalModel, records: Records, config: RunConfig) -> None:
    if not np.isfinite(predict(model, config.task.target(), records)).all():
        given = ", ".join(filter(None, (MODALITIES[name].given(config.model) for name in model.modalities)))
        raise ModelError(
            "The model's outputs on made-up records are not finite: its weights are damaged, or hold values too large "
            f"for float32. Choose other weights{f' ({given})' if given else ''}"
        )
    optimizer = make_optimizer(model.train(), config.training)
    if config.privacy.enabled:
        step = private_step(model, optimizer, config, noise_multiplier=1.0)
        _check(step, model, records, config)
    batches = patient_batches(records, config, seed=0)
    drawn = [_enough(records, config), np.empty(0, dtype=np.int64)]
    train(model, config, step if config.privacy.enabled else PlainStep(optimizer), drawn, batches)


def _check(step: PrivateStep, model: MultimodalModel, records: Records, config: RunConfig) -> None:
    """Compare by definition, in float32: of gradients that nearly cancel, bfloat16 keeps too few bits to tell anything.

    `_one_round` then steps in the run's own precision.
    """
    units = torch.from_numpy(records.patient[:_PROBED])

    def losses(rows: torch.Tensor) -> torch.Tensor:
        batch = records.batch(rows.cpu().numpy(), np.arange(len(rows))).to(device())
        return batch_losses(model, config.task.target(), batch, "float32")

    step.try_on(losses, units.to(device()))


def _enough(records: Records, config: RunConfig) -> np.ndarray:
    """Patients whose records fill one part of a batch and begin another."""
    training = config.training
    taken = np.minimum(np.bincount(records.patient), training.records_per_patient) * training.views
    return np.arange(min(records.patients, 1 + int(np.searchsorted(np.cumsum(taken), part_size(config) + 1))))


def _send(model: MultimodalModel, incoming: dict[str, torch.Tensor], config: RunConfig) -> None:
    with TemporaryDirectory(prefix="mmmed-trial-") as folder:
        try:
            update = pack_update(
                trainable_state(model),
                incoming,
                config.federation.wire,
                residual=Path(folder) / "rounded",
                server_round=1,
            )
        except WireError as error:
            raise ModelError(
                f"The update of one step on made-up records cannot be sent: {error}. "
                f"Lower training.learning_rate ({config.training.learning_rate:g})"
            ) from error
        _strategy(model, incoming, unpack(update), config, Path(folder))


def _strategy(
    model: MultimodalModel,
    incoming: dict[str, torch.Tensor],
    update: Tensors,
    config: RunConfig,
    folder: Path,
) -> None:
    """What the strategy does at a site in round 1, with what the server would send before it."""
    section, before = config.federation.strategy, {n: value.cpu() for n, value in incoming.items()}
    server = section.at_server(config, {name: value.float().numpy() for name, value in before.items()})
    sent = {name: {n: torch.from_numpy(a) for n, a in one.items()} for name, one in server.extras().items()}
    site = section.halves().site
    half = site(section, SiteRound(config, 1, folder, before, {name: sent[name] for name in site.wants}))
    with torch.no_grad():
        half.correct(trainable_state(model))
    if not server.accepts(half.finish(update, 1)):
        raise ModelError(f"federation.strategy {section.kind!r}: its server does not accept its site's reply")
