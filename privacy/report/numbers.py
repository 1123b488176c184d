"""The report's numbers, each computed from serialised events alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from privacy.accounting import DpSgdEvent, TradeOff, account, epsilon, merge, pld, trade_off
from privacy.accounting.pld import MIN_DELTA
from privacy.ledger.state import Rounds
from privacy.report.statement import Shared

COURSE_POINTS = 12
_FALSE_POSITIVES = (*np.round(np.geomspace(1e-3, 0.1, 13), 6).tolist(), *np.linspace(0.15, 1.0, 18).tolist())


def mechanism(event: DpSgdEvent, delta: float) -> dict[str, Any]:
    """Everything about one plan: `privacy.accounting.account`, and its two curves.

    Raises:
        AccountingError: the accountants disagree.
    """
    return copy.deepcopy(_mechanism(event, delta))


@lru_cache(maxsize=1024)
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


def course(event: DpSgdEvent, rounds: Rounds, of: int, delta: float) -> list[list[float | str]]:
    """[round, epsilon of all charged so far] at every charged round, or at `COURSE_POINTS` of more.

    Points are denser at the start, where epsilon rises fastest. Sites that answer in the same rounds share them.

    Args:
        event: the mechanism.
        rounds: steps charged by round.
        of: rounds of the run.
        delta: the delta of every epsilon.
    """
    totals: list[tuple[int, int]] = []
    steps = 0
    for first, last, each in rounds:
        totals += [(done, steps + (done - first + 1) * each) for done in range(first, last + 1)]
        steps = totals[-1][1]
    if max(of, len(totals)) > COURSE_POINTS:
        wanted = {
            math.ceil(max(of, len(totals)) * (i / COURSE_POINTS) ** 2) for i in range(1, COURSE_POINTS + 1)
        }
        totals = [total for i, total in enumerate(totals, start=1) if i in wanted or i == len(totals)]
    return [[round_, number(charged(event, total, delta))] for round_, total in totals]


def joint(
    plans: Sequence[DpSgdEvent],
    delta: float,
    evaluations: Sequence[DpSgdEvent] = (),
    *,
    one_sum: bool = False,
) -> list[dict[str, Any]]:
    """What bounds a patient who is in 1, in 2, and in all of the sites with these plans: the worst over the sites.

    A patient in several sites is drawn and noised independently in each: their mechanisms compose. A site tests on
    other patients than it trains on; for several sites both are added, which bounds either.

    Args:
        plans: the mechanism of each site's training.
        delta: the delta of every epsilon.
        evaluations: the mechanisms of the sites' evaluations.
        one_sum: the sites' plans are of one sum and share its noise: who is in k of them moves it k times as far, and
            counts as a group of k.
    """
    return copy.deepcopy(_joint(tuple(plans), delta, tuple(evaluations), one_sum))


@lru_cache(maxsize=8)  # the same after every round of a run
def _joint(
    plans: tuple[DpSgdEvent, ...], delta: float, evaluations: tuple[DpSgdEvent, ...], one_sum: bool
) -> list[dict[str, Any]]:
    lines: dict[int, list[tuple[DpSgdEvent, ...]]] = {
        1: [(event,) for event in dict.fromkeys([*plans, *evaluations])]
    }
    if one_sum:
        together = [merge([*plans[:1], *sorted(evaluations, key=lambda event: event.noise_multiplier)[:1]])]
        groups = sorted({1, 2, len(plans)} & {*range(1, len(plans) + 1)})
        return [
            {"sites": k} | (_worst(lines[1], delta) if k == 1 else _worst(together, delta, group=k))
            for k in groups
        ]
    if len(plans) > 1:
        dearest = sorted(evaluations, key=lambda event: event.noise_multiplier)[:2]
        lines |= {
            2: [merge([*pair, *dearest]) for pair in _pairs(plans)],
            len(plans): [merge([*plans, *evaluations])],
        }
    return [{"sites": sites} | _worst(compositions, delta) for sites, compositions in lines.items()]


def colluding(event: DpSgdEvent, delta: float, shared: Shared) -> list[list[int | float | str]]:
    """[colluders, epsilon] of a patient of a site, by how many other sites of a sum work together with the server.

    Args:
        event: the plan's, with the noise of the honest.
        delta: the delta of every epsilon.
        shared: how the noise is shared.

    Returns:
        A row for each number from 0 to all others of the smallest cohort.
    """
    rows: list[list[int | float | str]] = []
    for colluders in range(shared.least_cohort):
        left = DpSgdEvent(
            shared.multiplier(event.noise_multiplier, colluders), event.sampling_rate, event.steps
        )
        rows.append([colluders, number(_epsilon((left,), delta))])
    return rows


def utility(
    shown: Sequence[tuple[int, float]], sites: Sequence[Mapping[str, Any]], lost: int = 0
) -> list[list[Any]]:
    """[epsilon that the worst site has been charged, mean AUROC, round] at the rounds that the courses show.

    A site's charge at a round that its course leaves out is that of the next round it shows.

    Args:
        shown: round and mean AUROC.
        sites: the report's rows, with their courses.
        lost: steps that were charged and asked again: a charge may be of so many rounds more.
    """
    rounds = {point[0] for site in sites for point in site["course"]}
    points = []
    for at, value in shown:
        if at in rounds:
            spent = [
                next((e for r, e in site["course"] if r >= at + lost), site["epsilon_charged"])
                for site in sites
            ]
            worst = max(math.inf if isinstance(e, str) else e for e in spent)
            points.append([number(worst), value, at])
    return points


def number(value: float) -> float | str:
    """A number as JSON has it; infinity as a word."""
    return value if value < math.inf else "infinity"


@lru_cache(maxsize=8192)
def _epsilon(events: tuple[DpSgdEvent, ...], delta: float, group: int = 1) -> float:
    return epsilon(events, delta) if group == 1 else pld.epsilon(events, delta, group_size=group)


@lru_cache(maxsize=1024)
def _trade_off(events: tuple[DpSgdEvent, ...], group: int = 1) -> TradeOff:
    return trade_off(events, group_size=group)


def clear_caches() -> None:
    """Forget every number, so that its cost can be measured."""
    for cached in (_mechanism, _joint, _epsilon, _trade_off):
        cached.cache_clear()
    pld.clear_caches()


def _worst(compositions: Sequence[tuple[DpSgdEvent, ...]], delta: float, group: int = 1) -> dict[str, Any]:
    bounds = [(_epsilon(events, delta, group), _trade_off(events, group)) for events in compositions]
    return {
        "epsilon": number(max(value for value, _ in bounds)),
        "true_positive_rate": [
            [rate, max(curve.true_positive_rate(rate) for _, curve in bounds)] for rate in (0.01, 0.1)
        ],
        "advantage": max(curve.advantage for _, curve in bounds),
    }


def _pairs(plans: Sequence[DpSgdEvent]) -> list[tuple[DpSgdEvent, ...]]:
    """All pairs of plans but those that cost no more than another: more steps of a mechanism cost more."""
    longest: dict[tuple[float, float], list[DpSgdEvent]] = {}
    for plan in sorted(plans, key=lambda event: -event.steps):
        longest.setdefault((plan.noise_multiplier, plan.sampling_rate), []).append(plan)
    same = [merge(each[:2]) for each in longest.values() if len(each) > 1]
    return same + [merge(pair) for pair in combinations([each[0] for each in longest.values()], 2)]
