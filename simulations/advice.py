"""Whether privacy leaves a run enough to learn from, said before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmmed.config import RunConfig
from mmmed.models import MultimodalModel
from mmmed.models.head import linear_head
from privacy.accounting import DpSgdEvent, near_noise_multiplier
from privacy.errors import AccountingError
from privacy.planning import schedule
from privacy.planning.settings import SPREAD, agreeing

_ENOUGH = 10.0  # signal over noise of a whole run, at most, above which nothing is said


def advice(config: RunConfig, model: MultimodalModel, patients: Mapping[str, int]) -> str:
    """A warning with the lines to write, if noise is expected to drown what the run learns; else "".

    Args:
        config: the run's.
        model: as built.
        patients: that each site trains on.
    """
    if not config.privacy.enabled:
        return ""
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    ratio = signal_to_noise(config, patients) / math.sqrt(trained)
    better = {key: value for key, value in linear_head(config).items() if _value(config, key) != value}
    fits = not better and config.step_rate is not None  # already what would be said
    if fits or ratio >= _ENOUGH:
        return ""
    privacy, total = config.privacy, sum(patients.values())
    lines = "; ".join(f'{key} = "{value}"' for key, value in better.items())
    head = f"Train less, a linear head: {lines}. " if better else ""
    return (
        f"warning: noise leaves this run little. It trains {trained:,} parameters on {total:,} patients; what it "
        f"learns is at most {ratio:.2g} times as long as the noise of epsilon {privacy.target_epsilon:g}. {head}"
        f"Settings that fit: mmmed privacy plan -c FILE --patients {total} --sites {len(patients)} "
        f"--epsilon {privacy.target_epsilon:g} --delta {privacy.delta:g}"
    )


def signal_to_noise(config: RunConfig, patients: Mapping[str, int]) -> float:
    """Of the whole run in one coordinate, all sites together, at most (`privacy.planning.settings`).

    Infinite where no noise keeps the budget: the plan says so itself.
    """
    training, signal, variance = config.training, 0.0, 0.0
    for count in patients.values():
        rate, steps = schedule(
            patients=count,
            batch_size=training.batch_size,
            local_epochs=training.local_epochs,
            rate=config.step_rate,
        )
        steps *= config.federation.rounds
        try:
            noise = near_noise_multiplier(config.privacy.target_epsilon, config.privacy.delta, rate, steps)
        except AccountingError:
            return math.inf
        event = DpSgdEvent(noise, rate, steps)
        signal += event.steps * event.sampling_rate * count
        variance += event.steps * event.noise_multiplier**2
    return signal / math.sqrt(variance) * agreeing(training.records_per_patient, SPREAD)


def _value(config: RunConfig, key: str) -> object:
    found: object = config
    for name in key.split("."):
        found = getattr(found, name)
    return found
