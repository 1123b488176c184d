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

from client.exchange import Exchange
from client.mechanism import patient_batches, private_step
from client.model import device, made_up, open_model
from mmmed.config import RunConfig
from mmmed.data.loader import Records
from mmmed.errors import MmmedError, ModelError, WireError
from mmmed.federation.strategies.base import SiteRound
from mmmed.inference.predict import predict
from mmmed.modalities import MODALITIES
from mmmed.models import MultimodalModel, trainable_state
from mmmed.training import PlainStep, Step, batch_losses, make_optimizer, train
from mmmed.training.loop import part_size
from privacy.errors import PrivacyError

_PROBED = 8  # records that the engine's checks are made on


@lru_cache(maxsize=16)
def try_run(config: RunConfig) -> None:
    """Predict, take a private step on a batch and on an empty one, and make the update; once a configuration.

    The model is the run's as built, so that nothing that a server sends decides what is found.

    Raises:
        ModelError: the model cannot be built, run or trained here, or its update cannot be sent.
        PrivacyError: the model cannot be trained privately, or not by the configured engine.
    """
    model, records, section = open_model(config).to(device()), made_up(config), config.federation.strategy
    start = {name: value.cpu().clone() for name, value in trainable_state(model).items()}
    try:
        with torch.random.fork_rng(devices=[]), TemporaryDirectory(prefix="mmmed-trial-") as folder:
            _train(model, records, config)
            server = section.at_server(config, {name: value.float().numpy() for name, value in start.items()})
            sent = {n: {k: torch.from_numpy(v) for k, v in one.items()} for n, one in server.extras().items()}
            exchange = Exchange(SiteRound(config, 1, Path(folder), start, sent))
            with torch.no_grad():
                exchange.correct(trainable_state(model))
            _, told = exchange.finish(trainable_state(model), steps=1)
            if not server.accepts(told):
                raise ModelError(
                    f"federation.strategy {section.kind!r}: its server does not accept its site's reply"
                )
    except WireError as error:
        raise ModelError(
            f"The update of one step on made-up records cannot be sent: {error}. "
            f"Lower training.learning_rate ({config.training.learning_rate:g})"
        ) from error
    except (MmmedError, PrivacyError):
        raise
    except Exception as error:  # torch raises whatever a model stumbles over
        raise ModelError(
            f"The model does not train on made-up records of the run's shapes ({type(error).__name__}: {error}). "
            "Choose another model or smaller sizes"
        ) from error


def _train(model: MultimodalModel, records: Records, config: RunConfig) -> None:
    """Predict, compare a step with its definition, and take it on a batch and on an empty one.

    It is compared in float32, and then taken in the run's own precision: of gradients that nearly cancel, bfloat16
    keeps too few bits to tell anything.
    """
    target, training = config.task.target(), config.training
    if not np.isfinite(predict(model, target, records)).all():
        given = ", ".join(filter(None, (MODALITIES[name].given(config.model) for name in model.modalities)))
        raise ModelError(
            "The model's outputs on made-up records are not finite: its weights are damaged, or hold values too large "
            f"for float32. Choose other weights{f' ({given})' if given else ''}"
        )

    optimizer, private = make_optimizer(model.train(), training), config.privacy.enabled
    step: Step = (
        private_step(model, optimizer, config, noise_multiplier=1.0) if private else PlainStep(optimizer)
    )
    taken = np.minimum(np.bincount(records.patient), training.records_per_patient) * training.views
    needed = 1 + int(np.searchsorted(np.cumsum(taken), part_size(config) + 1))
    enough = np.arange(min(records.patients, needed))  # to fill one part of a batch and begin another
    nobody = np.empty(0, dtype=np.int64)
    for centring in (True, False) if config.model.fusion.is_centring(1) else (False,):

        def losses(rows: torch.Tensor, centring: bool = centring) -> torch.Tensor:
            batch = records.batch(rows.cpu().numpy(), np.arange(len(rows))).to(device())
            return batch_losses(model, target, batch, "float32", centring=centring)

        step.try_on(losses, torch.from_numpy(records.patient[:_PROBED]).to(device()))
        batches = patient_batches(records, config, seed=0)
        train(model, config, step, [enough, nobody], batches, centring=centring)
