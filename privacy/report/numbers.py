"""The report's numbers, each computed from serialised events alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from privacy.accounting import DpSgdEvent, TradeOff, account, epsilon, merge, trade_off
from privacy.accounting.pld import MIN_DELTA
from privacy.accounting.rdp import rdp, rdp_to_epsilon
from privacy.report.statement import Rounds

COURSE_POINTS = 12
_ORDERS = (*range(2, 33), 48, 64, 128)
_FALSE_POSITIVES = (*np.round(np.geomspace(1e-3, 0.1, 13), 6).tolist(), *np.linspace(0.15, 1.0, 18).tolist())


def mechanism(event: DpSgdEvent, delta: float) -> dict[str, Any]:
    """Everything about one plan: `privacy.accounting.account`, and its two curves.

    Raises:
        AccountingError: the accountants disagree.
    """
    return copy.deepcopy(_mechanism(event, delta))


@lru_cache(maxsize=64)
def _mechanism(event: DpSgdEvent, delta: float) -> dict[str, Any]:
    deltas = [d for d in 10.0 ** np.arange(-9.0, -0.5) if d >= MIN_DELTA]
    curve = _trade_off((event,))
    return {
        **account([event], delta, group_sizes=()).to_json(),
        "epsilon_by_delta": [[float(d), number(_epsilon((event,), float(d)))] for d in deltas],
        "trade_off": [[float(a), curve.true_positive_rate(float(a))] for a in _FALSE_POSITIVES],
    }


def charged(event: DpSgdEvent, steps: int, delta: float) -> float:
    """Epsilon at `delta` of `steps` steps of the event."""
    return _epsilon((DpSgdEvent(event.noise_multiplier, event.sampling_rate, steps),), delta)


def course(event: DpSgdEvent, rounds: Rounds, delta: float) -> list[list[float | str]]:
    """[round, epsilon of all charged so far] at a few rounds, the last among them."""
    totals: list[tuple[int, int]] = []
    steps = 0
    for first, last, each in rounds:
        totals += [(number, steps + (number - first + 1) * each) for number in range(first, last + 1)]
        steps = totals[-1][1]
    stride = max(1, math.ceil(len(totals) / COURSE_POINTS))
    chosen = dict.fromkeys([*totals[stride - 1 :: stride], *totals[-1:]])
    return [[number_, number(charged(event, total, delta))] for number_, total in chosen]


def joint(plans: Sequence[DpSgdEvent], delta: float) -> list[dict[str, Any]]:
    """What bounds a patient who is in 1, in 2, and in all of the sites with these plans.

    A patient in several sites is drawn and noised independently in each: their mechanisms compose.
    """
    worst: dict[int, tuple[DpSgdEvent, ...]] = {
        1: max(((plan,) for plan in plans), key=lambda each: _epsilon(each, delta))
    }
    if len(plans) > 1:
        worst[2] = _worst_pair(plans, delta)
        worst[len(plans)] = merge(plans)
    return [
        {
            "sites": sites,
            "epsilon": number(_epsilon(events, delta)),
            "true_positive_rate": [
                [rate, _trade_off(events).true_positive_rate(rate)] for rate in (0.01, 0.1)
            ],
            "advantage": _trade_off(events).advantage,
        }
        for sites, events in worst.items()
    ]


def number(value: float) -> float | str:
    """A number as JSON has it; infinity as a word."""
    return value if value < math.inf else "infinity"


@lru_cache(maxsize=8192)
def _epsilon(events: tuple[DpSgdEvent, ...], delta: float) -> float:
    return epsilon(events, delta)


@lru_cache(maxsize=256)
def _trade_off(events: tuple[DpSgdEvent, ...]) -> TradeOff:
    return trade_off(events)


def _worst_pair(plans: Sequence[DpSgdEvent], delta: float) -> tuple[DpSgdEvent, ...]:
    """The two plans that cost a patient in both the most.

    More steps of the same mechanism cost more, so the two longest of each suffice. Of these pairs only those are
    composed whose RDP bound, which is above the true value, exceeds the worst found so far.
    """
    longest: dict[tuple[float, float], list[DpSgdEvent]] = {}
    for plan in sorted(plans, key=lambda event: -event.steps):
        same = longest.setdefault((plan.noise_multiplier, plan.sampling_rate), [])
        if len(same) < 2:
            same.append(plan)
    candidates = [event for same in longest.values() for event in same]
    bounded = sorted(
        ((_rdp_epsilon(pair, delta), merge(pair)) for pair in combinations(candidates, 2)),
        key=lambda item: -item[0],
    )
    worst, most = bounded[0][1], 0.0
    for bound, pair in bounded:
        if bound <= most:
            break
        if (value := _epsilon(pair, delta)) > most:
            worst, most = pair, value
    return worst


def _rdp_epsilon(events: Iterable[DpSgdEvent], delta: float) -> float:
    values = [_rdp(event) for event in events]
    return min(
        rdp_to_epsilon(math.fsum(each), order, delta)
        for order, each in zip(_ORDERS, zip(*values, strict=True), strict=True)
    )


@lru_cache(maxsize=256)
def _rdp(event: DpSgdEvent) -> tuple[float, ...]:
    return tuple(rdp(event, order) for order in _ORDERS)
