"""Rényi differential privacy of the subsampled Gaussian at whole orders, in closed form.

Used where the choice of later mechanisms may depend on earlier results: PLD numbers do not compose there, a
sum of RDP values at pre-committed orders does (Feldman and Zrnic 2021, arXiv 2008.11193).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from privacy.accounting.events import DpSgdEvent
from privacy.errors import AccountingError


def rdp(event: DpSgdEvent, order: int) -> float:
    """RDP of `event` at a whole `order` of 2 or more (Mironov, Talwar and Zhang 2019, arXiv 1908.10530, eq. 6)."""
    if order < 2 or order != int(order):
        raise AccountingError(f"The order must be a whole number, 2 or more. Found {order!r}.")
    sigma, q = event.noise_multiplier, event.sampling_rate
    if q == 1.0:
        return event.steps * order / (2 * sigma**2)
    logs = [
        math.log(math.comb(order, k))
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    top = max(logs)
    log_moment = top + math.log(math.fsum(math.exp(value - top) for value in logs))
    return event.steps * max(0.0, log_moment) / (order - 1)


def rdp_to_epsilon(value: float, order: float, delta: float) -> float:
    """Epsilon at `delta` of RDP `value` at `order` (Canonne, Kamath and Steinke 2020, arXiv 2004.00010, Prop. 12)."""
    return max(0.0, value + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))


def adaptive_epsilon(events: Iterable[DpSgdEvent], delta: float, orders: Sequence[int]) -> float:
    """Epsilon at `delta` that holds even if each event was chosen after seeing the results of the earlier ones.

    `orders` must have been fixed before the first event. At one order this is the filter of Feldman and Zrnic;
    over several, delta is split evenly between them (a union bound over the order that stops).
    """
    if not orders:
        raise AccountingError("At least one order is needed.")
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1). Found {delta!r}.")
    charged = list(events)
    share = delta / len(orders)
    if not any(event.steps for event in charged):
        return 0.0
    return min(
        rdp_to_epsilon(math.fsum(rdp(event, order) for event in charged), order, share) for order in orders
    )
