"""The private mechanism that a site runs: its step, its sampler, its batches.

`client.training` trains with these and `client.audit` audits these, so that what is audited is what runs.
"""

from __future__ import annotations

import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.loader import PatientBatches, Records
from privacy.dpsgd import PrivateStep
from privacy.noise import PrivateRandom, noise_std
from privacy.planning import schedule
from privacy.sampling import PoissonSampler


def private_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    noise_multiplier: float,
    *,
    tried: bool = False,
) -> PrivateStep:
    """The step of a private round.

    Args:
        model: trained in place.
        optimizer: holds every trainable parameter of `model`.
        config: clipping norm, rule and engine, and the expected patients of a batch (`training.batch_size`).
        noise_multiplier: noise standard deviation over the clipping norm, as planned.
        tried: `client.trial.try_run` has found that this configuration works, so no batch is checked.

    Raises:
        StepError, UnsupportedModel: as `privacy.dpsgd.PrivateStep`.
        NoiseError: this much noise cannot be added to this many parameters.
    """
    dimension = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    noise_std(noise_multiplier, config.privacy.max_grad_norm, dimension)  # now, not once patients are charged
    return PrivateStep(
        model,
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=config.privacy.max_grad_norm,
        expected_units=config.training.batch_size,
        clipping=config.privacy.clipping,
        engine=config.privacy.engine,
        tried=tried,
    )


def local_schedule(config: RunConfig, patients: int, stated: int | None = None) -> tuple[float, int]:
    """Sampling rate and steps a round of a run at a site of so many `patients`, whose policy states a number or none.

    Raises:
        PlanError: as `privacy.planning.schedule`.
    """
    return schedule(
        patients=patients,
        batch_size=config.training.batch_size,
        local_epochs=config.training.local_epochs,
        stated=stated,
        rate=config.step_rate,
    )


def private_draws(patients: int, sampling_rate: float, steps: int) -> PoissonSampler:
    """Poisson samples of patients, one for each step of a private round."""
    return PoissonSampler(patients, sampling_rate, steps, PrivateRandom())


def patient_batches(records: Records, config: RunConfig, seed: int) -> PatientBatches:
    """Makes batches of drawn patients. `seed` is public: it chooses records and views, never patients."""
    training = config.training
    return PatientBatches(
        records,
        records_per_patient=training.records_per_patient,
        seed=seed,
        augment=training.augment,
        views=training.views,
        modality_dropout=training.modality_dropout,
    )
