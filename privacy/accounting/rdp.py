"""Rényi differential privacy at whole orders, in closed form.

Used where the choice of later mechanisms may depend on earlier results: PLD numbers do not compose there, a
sum of RDP values at pre-committed orders does (Feldman and Zrnic 2021, arXiv 2008.11193). And for the best of a random
number of trials, for which no PLD is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from privacy.accounting.events import DpSgdEvent, Event
from privacy.accounting.stopping import negative_log_success
from privacy.errors import AccountingError

ORDERS = (
    *range(2, 65),
    80,
    96,
    128,
    192,
    256,
    512,
)  # to choose from where all mechanisms are fixed beforehand


def rdp(event: Event, order: int) -> float:
    """RDP of `event` at a whole `order` of 2 or more.

    The subsampled Gaussian is that of Mironov, Talwar and Zhang 2019 (arXiv 1908.10530, eq. 6). The best of a random
    number of trials is that of Papernot and Steinke 2022 (arXiv 2110.03620, Theorem 2), where a trial that draws its
    mechanism, and shows which, has at most the largest RDP of those that it may draw:

        rdp(order) <= t(order) + ln(mean) / (order - 1) + (1 + shape) min over a of ((1 - 1/a) t(a) + ln(1/gamma) / a)
    """
    if order < 2 or order != int(order):
        raise AccountingError(f"The order must be a whole number, 2 or more. Found {order!r}.")
    if isinstance(event, DpSgdEvent):
        return _subsampled_gaussian(event, order)
    once = max(_subsampled_gaussian(trial, order) for trial in event.trials)
    return event.steps * (
        once
        + math.log(event.mean) / (order - 1)
        + (1 + event.shape) * _cost_of_choice(event.trials, event.mean, event.shape)
    )


@lru_cache(maxsize=256)
def _cost_of_choice(trials: tuple[DpSgdEvent, ...], mean: float, shape: float) -> float:
    lost = negative_log_success(mean, shape)
    at_one = lost  # at order 1 the first term vanishes
    return min(
        at_one,
        *(
            (1 - 1 / order) * max(_subsampled_gaussian(trial, order) for trial in trials) + lost / order
            for order in ORDERS
        ),
    )


@lru_cache(maxsize=4096)
def _subsampled_gaussian(event: DpSgdEvent, order: int) -> float:
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


def adaptive_epsilon(events: Iterable[Event], delta: float, orders: Sequence[int]) -> float:
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
