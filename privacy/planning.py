"""From what a run asks and a site knows to the mechanism that the site will run.

The site calibrates its own noise from its own number of patients. That number must not leave: the sampling
rate and the noise multiplier that show in an update are therefore derived from the site's *size class*, the
largest power of two not above its number of patients, and the update is divided by the public batch size.
Given the size class nothing released depends on the number of patients.

Nor does a refusal: whoever sends the same request with ever other values would else find the number where the answer
changes. A batch size is judged by the size class. Delta is judged, whatever a run asks, by the largest that the
site's policy allows, which no request moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier
from privacy.errors import PlanError


@dataclass(frozen=True)
class TrainingPlan:
    """The mechanism of a whole run at one site, fixed before any data is touched.

    Attributes:
        sampling_rate: probability q with which each patient is in a step (Poisson sampling).
        noise_multiplier: noise standard deviation over the clipping norm.
        steps_per_round: optimiser steps in each round.
        rounds: federated rounds.
    """

    sampling_rate: float
    noise_multiplier: float
    steps_per_round: int
    rounds: int

    @property
    def event(self) -> DpSgdEvent:
        """All steps of the run."""
        return DpSgdEvent(self.noise_multiplier, self.sampling_rate, self.steps_per_round * self.rounds)


def size_class(patients: int) -> int:
    """The largest power of two not above `patients`: what a site shows of its size."""
    if patients < 1:
        raise PlanError("The site has no patient to train on.")
    return 1 << (patients.bit_length() - 1)


def schedule(*, patients: int, batch_size: int, local_epochs: float) -> tuple[float, int]:
    """Sampling rate and steps a round for a site.

    Raises:
        PlanError: the expected batch is larger than any site of this size class.
    """
    if batch_size >= 2 * size_class(patients):
        raise PlanError(
            f"training.batch_size is {batch_size}, more than the patients that this site trains on. "
            "Lower training.batch_size, or leave the site out."
        )
    rate = min(1.0, batch_size / size_class(patients))
    return rate, max(1, math.ceil(local_epochs / rate - 1e-9))


def check_delta(delta: float, patients: int) -> None:
    """Refuse a delta that would permit publishing one patient's record.

    At a site that answers others, `delta` is the largest that its policy allows: see the module's text.

    Raises:
        PlanError: delta is not below 1 / patients.
    """
    if delta * patients >= 1:
        raise PlanError(
            f"delta may be {delta:g}, not below 1 / patients of this site: it would permit publishing one patient's "
            "record. Lower privacy.delta, or run.delta of the site's policy (a tenth of 1 / patients is usual)."
        )


def plan_training(
    *,
    patients: int,
    batch_size: int,
    local_epochs: float,
    rounds: int,
    target_epsilon: float,
    delta: float,
    largest_delta: float = 0.0,
) -> TrainingPlan:
    """Calibrate the noise multiplier so that all rounds together stay within (target_epsilon, delta).

    Args:
        patients: the site's number of patients to train on, which stays there.
        batch_size, local_epochs, rounds, target_epsilon, delta: as the run asks.
        largest_delta: the largest that the site's policy allows any run.

    Raises:
        PlanError: the delta that may be asked is not below 1 / patients (releasing one patient's record outright
            would satisfy it), or the batch is larger than the site.
        AccountingError: no noise multiplier reaches the target.
    """
    check_delta(max(delta, largest_delta), patients)
    rate, steps = schedule(patients=patients, batch_size=batch_size, local_epochs=local_epochs)
    noise = calibrate_noise_multiplier(target_epsilon, delta, rate, steps * rounds)
    return TrainingPlan(rate, noise, steps, rounds)
