"""The epsilon that may be claimed for mechanisms that were all fixed beforehand, whatever their kind."""

from __future__ import annotations

import math
from collections.abc import Iterable

from privacy.accounting import pld
from privacy.accounting.events import DpSgdEvent, Event, merge
from privacy.accounting.rdp import ORDERS, rdp, rdp_to_epsilon
from privacy.errors import AccountingError


def claimed_epsilon(events: Iterable[Event], delta: float) -> float:
    """Epsilon of all events together at `delta`: by PLD; by RDP if any is a selection, for which no PLD is known.

    Raises:
        AccountingError: a value is out of range.
    """
    segments = merge(events)
    steps = [event for event in segments if isinstance(event, DpSgdEvent)]
    if len(steps) == len(segments):
        return pld.epsilon(steps, delta)
    if not pld.MIN_DELTA <= delta < 1:
        raise AccountingError(f"delta must be in [{pld.MIN_DELTA}, 1). Found {delta!r}.")
    return min(
        rdp_to_epsilon(math.fsum(rdp(event, order) for event in segments), order, delta) for order in ORDERS
    )


def shown(epsilon: float) -> str:
    """An epsilon with three digits, rounded up: what is printed is never below what was spent."""
    if math.isinf(epsilon):
        return "infinity"
    return f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"
