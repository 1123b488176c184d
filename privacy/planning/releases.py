"""What a federation pays in noise for being one, by how its sites release updates; before any record is read.

A site clips each patient's gradient to C and adds noise of deviation sigma C to its sum, or sigma C / sqrt(h) where
the noise of h honest sites adds up to the whole. Over T steps at sampling rate q, K sites with N patients together
learn from the mean of q N T clipped gradients, whose noise has in every coordinate the deviation

    C sigma sqrt(K / h) / (q N sqrt(T))        h = 1 if every site's noise protects alone;  K = h = 1 if pooled.

It follows from public numbers alone, and is exact where every site has N / K patients. Pooled training has more of it
the fewer patients it has, so each way is as noisy as private training in one place with fewer patients, or with a
smaller epsilon: that is what is lost. What it costs in accuracy depends on the data, and no formula knows it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier, epsilon
from privacy.errors import PlanError
from privacy.planning.mechanism import TrainingPlan, plan_training

POOLED, ROUNDS, STEPS, SECURE_STEPS = "pooled", "rounds", "steps", "secure-steps"
RATE, COUNT = 0.5, 60  # of single steps: docs/results.md
REPEATS = 6  # secure steps that are asked again where a site drops out, planned and charged in advance
_LARGEST_RATE = 8.0  # learning rate at C = 1 for the mean of clipped gradients, where noise does not bound it
_WANDER = 0.5  # deviation of a parameter after the run that noise may cause: a logit of features of length 1 moves so

_MEAN_NOISE = 0.25  # docs/results.md


@dataclass(frozen=True)
class Release:
    """One way to release, and what its noise is like.

    Attributes:
        kind: "pooled", "rounds", "steps" or "secure-steps".
        event: what is charged at each site for the run.
        steps: optimiser steps that are expected to be taken, no more than are charged.
        epsilon: of the run at a site, by PLD.
        noise: standard deviation of the noise on the mean clipped gradient of the run, in one coordinate, in C.
        patients: with so many private training in one place has this noise.
        like_epsilon: at this epsilon private training in one place, of all patients, has this noise.
    """

    kind: str
    event: DpSgdEvent
    steps: int
    epsilon: float
    noise: float
    patients: int
    like_epsilon: float

    @property
    def passes(self) -> float:
        """Expected passes over the patients."""
        return self.event.sampling_rate * self.steps

    def bears(self, agreeing: float) -> int:
        """Trained parameters for which noise and signal are equally long: (agreeing / noise)^2.

        `agreeing` is the share of a clipped gradient's length that all patients have in common
        (`privacy.planning.settings`).
        """
        return int((agreeing / self.noise) ** 2)


def recommended_honest(sites: int) -> int:
    """Of so many sites, how many are to be assumed honest where they share noise: three quarters, never all."""
    return max(1, min(math.ceil(3 * sites / 4), sites - 1))


def compare_releases(
    *,
    patients: int,
    sites: int,
    target_epsilon: float,
    delta: float,
    honest: int,
    batch_size: int,
    local_epochs: float,
    rounds: int,
    rate: float = RATE,
    steps: int = COUNT,
) -> tuple[list[Release], str]:
    """All ways to release at one budget, pooled training first; and why rounds are not among them, "" if they are.

    Args:
        patients: N, to train on, of all sites together; each is taken to have an equal share.
        sites: K, 2 or more.
        target_epsilon, delta: the budget of the run at every site.
        honest: h, for secure steps.
        batch_size, local_epochs, rounds: of release in rounds.
        rate, steps: q and T of single steps.

    Raises:
        PlanError: fewer patients than sites, `honest` is not in [1, sites], or delta is not below 1 / patients.
        AccountingError: no noise multiplier reaches the target.
    """
    if patients < sites:
        raise PlanError(
            f"{patients} patients cannot be at {sites} sites: give --patients of all sites together."
        )
    if not 1 <= honest <= sites:
        raise PlanError(f"honest sites must be from 1 to {sites}, the number of sites. Found {honest}.")
    each, missing = patients // sites, ""

    def plan(rate: float | None, rounds: int) -> TrainingPlan:
        return plan_training(
            patients=each,
            batch_size=batch_size,
            local_epochs=local_epochs,
            rounds=rounds,
            target_epsilon=target_epsilon,
            delta=delta,
            rate=rate,
        )

    local = plan(rate, steps).event
    whole = local.noise_multiplier / (rate * patients * math.sqrt(steps))

    def release(kind: str, event: DpSgdEvent, done: int, factor: float) -> Release:
        noise = event.noise_multiplier * factor / (event.sampling_rate * patients * math.sqrt(done))
        grown = noise / whole
        like = DpSgdEvent(local.noise_multiplier * grown, rate, steps)
        return Release(
            kind,
            event,
            done,
            epsilon([event], delta),
            noise,
            math.floor(patients / grown + 1e-9),
            epsilon([like], delta),
        )

    found = [release(POOLED, local, steps, 1.0)]
    try:
        in_rounds = plan(None, rounds).event
        found.append(release(ROUNDS, in_rounds, in_rounds.steps, math.sqrt(sites)))
    except PlanError as error:
        missing = str(error)
    found.append(release(STEPS, local, steps, math.sqrt(sites)))
    shared = DpSgdEvent(
        calibrate_noise_multiplier(target_epsilon, delta, rate, steps + REPEATS), rate, steps + REPEATS
    )
    found.append(release(SECURE_STEPS, shared, steps, math.sqrt(sites / honest)))
    return found, missing


def recommend(releases: Collection[Release]) -> Release:
    """The single steps with the least noise; where sites are too few to share it, the plain.

    Rounds are not recommended: a patient of a small site counts more there than one of a large, and what is trained
    depends on sites' sizes.
    """
    able = [one for one in releases if one.kind in (STEPS, SECURE_STEPS)]
    return min(able, key=lambda one: (one.noise, one.kind == SECURE_STEPS))


def steps_for_mean(release: Release, dimension: int, share: float) -> int:
    """How many steps teach the mean of features of length 1 so well that its noise is a quarter of that length or less.

    A step adds to the sum of features q N C share, and its noise; so after k steps the mean's is about
    noise sqrt(T dimension / k) / share long. A fifth of the run's steps at most.

    Args:
        release: the run's.
        dimension: of the features.
        share: of a clipped gradient's length that they are.
    """
    needed = release.steps * dimension * (release.noise / (share * _MEAN_NOISE)) ** 2
    return max(1, min(math.ceil(needed), release.steps // 5))


def learning_rate(release: Release, max_grad_norm: float) -> float:
    """A rate to begin with, for the mean of clipped gradients: 8 / C, or where noise would move a parameter by 0.5.

    It fits a linear layer on features of length 1 (docs/results.md). The best is found on public or generated data.
    """
    wander = release.noise * release.steps  # of a parameter over the run at rate 1, in C
    return float(f"{min(_LARGEST_RATE, _WANDER / wander) / max_grad_norm:.2g}")
