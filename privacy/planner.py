"""Compare ways to spend a budget before any data is touched: sampling rate, steps, and the noise they need.

For equal epsilon, what matters to learning is the signal against the noise in the sum of all updates. With
clipped gradients that all agree, T steps at sampling rate q over N patients move the model by T q N C and
their noise by sigma C sqrt(T d) in d coordinates. The planner ranks settings by the first over the second for
one coordinate: an upper bound on the signal-to-noise ratio, comparable between settings, not a forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier, epsilon
from privacy.errors import AccountingError
from privacy.planning import TrainingPlan, check_delta, plan_training

RATES = (0.02, 0.1, 0.25, 0.5, 1.0)
STEPS = (10, 30, 100, 300)


@dataclass(frozen=True)
class Setting:
    """One way to spend the budget.

    Attributes:
        sampling_rate, steps, noise_multiplier: the mechanism of the whole run.
        epsilon: what it costs (PLD), never above the budget.
        signal_to_noise: sqrt(T) q N / sigma, for one coordinate and gradients that all agree.
        passes: expected passes over the patients, q T: what it costs in compute.
    """

    sampling_rate: float
    steps: int
    noise_multiplier: float
    epsilon: float
    signal_to_noise: float
    passes: float

    @property
    def largest_dimension(self) -> int:
        """Parameters for which noise and agreeing signal are equally long: (signal_to_noise)^2."""
        return int(self.signal_to_noise**2)


def setting(event: DpSgdEvent, delta: float, patients: int) -> Setting:
    """Describe one mechanism for a site of so many patients."""
    signal = math.sqrt(event.steps) * event.sampling_rate * patients / event.noise_multiplier
    return Setting(
        event.sampling_rate,
        event.steps,
        event.noise_multiplier,
        epsilon([event], delta),
        signal,
        event.sampling_rate * event.steps,
    )


def asked(
    *, patients: int, batch_size: int, local_epochs: float, rounds: int, target_epsilon: float, delta: float
) -> tuple[TrainingPlan, Setting]:
    """The mechanism that a run's configuration gives at a site, and what it is worth. Raises as `plan_training`."""
    plan = plan_training(
        patients=patients,
        batch_size=batch_size,
        local_epochs=local_epochs,
        rounds=rounds,
        target_epsilon=target_epsilon,
        delta=delta,
    )
    return plan, setting(plan.event, delta, patients)


def alternatives(
    *,
    patients: int,
    target_epsilon: float,
    delta: float,
    rates: Sequence[float] = RATES,
    steps: Sequence[int] = STEPS,
) -> list[Setting]:
    """Settings over a grid of rates and steps at the same budget, best signal-to-noise first.

    Settings that no noise multiplier makes private enough are left out.

    Raises:
        PlanError: delta is not below 1 / patients.
    """
    check_delta(delta, patients)
    found = []
    for rate in rates:
        for count in steps:
            try:
                noise = calibrate_noise_multiplier(target_epsilon, delta, rate, count)
            except AccountingError:
                continue
            found.append(setting(DpSgdEvent(noise, rate, count), delta, patients))
    return sorted(found, key=lambda one: -one.signal_to_noise)
