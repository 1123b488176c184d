"""Numbers as the report prints them: always rounded up, so that no risk looks smaller than it is."""

from __future__ import annotations

import math

from privacy.accounting import DpSgdEvent, Event
from privacy.accounting.claim import shown

__all__ = ["mechanism_cells", "percent", "run_cell", "shown"]


def percent(probability: float) -> str:
    """A probability in per cent with one decimal, rounded up, with a space that does not break."""
    return f"{math.ceil(probability * 1000 - 1e-9) / 10:g}\u00a0%"


def mechanism_cells(event: Event) -> tuple[str, str, str]:
    """Noise multiplier, sampling rate and steps of a plan for a table; of a sweep, the bounds over its trials."""
    if isinstance(event, DpSgdEvent):
        return f"{event.noise_multiplier:.4f}", f"{event.sampling_rate:.4g}", str(event.steps)
    noise = min(trial.noise_multiplier for trial in event.trials)
    rate = max(trial.sampling_rate for trial in event.trials)
    return f"{noise:.4f} or more", f"{rate:.4g} or less", "1 sweep"


def run_cell(run_id: str) -> str:
    """A run's id for a table: cut short, but for what says that it is its evaluation."""
    name, _, part = run_id.partition("/")
    return f"{name[:12]}/{part}" if part else name[:12]
