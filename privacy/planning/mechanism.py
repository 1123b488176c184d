"""From what a run asks and a site knows to the mechanism that the site will run.

A site calibrates its own noise. Sampling rate and noise multiplier show in an update, so they may not follow from how
many patients the site has: two neighbouring data sets have different numbers, and epsilon would hold only for those
that give the same rate. They follow from a **stated** number instead, which the site's policy holds (`run.patients`), a
public constant like the batch size: rate = batch size / stated number. The update is divided by the public batch size.

What if the data set has fewer patients than stated, or many more? Nothing of epsilon changes: Poisson sampling at rate
q with noise sigma costs what it costs, whatever data set it runs on; the accountant asks for q, sigma and steps alone.
Only utility changes: with fewer patients a step draws fewer than the batch size says, and the noise counts for more.
So a site answers all the same. A refusal would be a release of its own, of whether the number is reached, without
noise: exactly what the stated number is to prevent. That a site keeps its number is checked where it stays at the
hospital: `mmmed privacy policy check` and `mmmed site doctor` say it. For the same reason a batch size and a delta are
judged by the stated number, and `run.min_patients` is then no ground on which a request is refused.

**The fallback**, for policies that state no number and for simulations, derives it: the site's *size class*, the
largest power of two not above its number of patients. Given the class nothing released depends on the number; but
255 and 256 patients are of two classes, and show it by another rate. Epsilon then holds given that class, and
the report says so on its first page. A refusal there may not tell more either: whoever sends the same request with ever
other values would find the number where the answer changes. A batch size is judged by the class; delta, whatever
a run asks, by the largest that the site's policy allows, which no request moves.
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
        """The event that all steps of the run make up."""
        return DpSgdEvent(self.noise_multiplier, self.sampling_rate, self.steps_per_round * self.rounds)


def size_class(patients: int) -> int:
    """The largest power of two not above `patients`: all that a site's schedule reveals of its size."""
    if patients < 1:
        raise PlanError("The site has no patient to train on.")
    return 1 << (patients.bit_length() - 1)


def schedule(
    *,
    patients: int,
    batch_size: int,
    local_epochs: float,
    stated: int | None = None,
    rate: float | None = None,
) -> tuple[float, int]:
    """Sampling rate and steps a round for a site.

    Args:
        patients: the site's number of patients to train on; not used where a number is stated.
        batch_size, local_epochs: as the run asks.
        stated: the number that the site's policy states, if it does.
        rate: of a run whose rounds are one step each, the same at every site: nothing then follows from a site's size.

    Raises:
        PlanError: the expected batch is larger than the stated number, or than any site of this size class.
    """
    if rate is not None:
        return rate, 1
    public = stated or size_class(patients)
    if batch_size > (stated or 2 * public - 1):
        raise PlanError(
            f"training.batch_size is {batch_size}, more than the patients that this site trains on. "
            "Lower training.batch_size, or leave the site out."
        )
    rate = min(1.0, batch_size / public)
    return rate, max(1, math.ceil(local_epochs / rate - 1e-9))


def delta_is_large(delta: float, patients: int) -> bool:
    """Whether delta is above 0.1 / patients, the usual bound. This alone refuses nobody."""
    return 10 * delta * patients > 1 + 1e-9


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
    stated: int | None = None,
    rate: float | None = None,
) -> TrainingPlan:
    """Calibrate the noise multiplier so that all rounds together stay within (target_epsilon, delta).

    Args:
        patients: the site's number of patients to train on, which stays there; not used where a number is stated.
        batch_size, local_epochs, rounds, target_epsilon, delta: as the run asks.
        largest_delta: the largest that the site's policy allows any run.
        stated: the number that the site's policy states, if it does.
        rate: see `schedule`.

    Raises:
        PlanError: the delta that may be asked is not below 1 / patients (releasing one patient's record outright
            would satisfy it), or the batch is larger than the site.
        AccountingError: no noise multiplier reaches the target.
    """
    check_delta(max(delta, largest_delta), stated or patients)
    rate, steps = schedule(
        patients=patients, batch_size=batch_size, local_epochs=local_epochs, stated=stated, rate=rate
    )
    noise = calibrate_noise_multiplier(target_epsilon, delta, rate, steps * rounds)
    return TrainingPlan(rate, noise, steps, rounds)
