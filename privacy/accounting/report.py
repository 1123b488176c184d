"""All numbers about one composition in one place, each computed from the events alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from privacy.accounting import pld
from privacy.accounting.crosscheck import CrossCheck, cross_check
from privacy.accounting.events import DpSgdEvent, merge
from privacy.accounting.pld import Adjacency
from privacy.accounting.risk import trade_off

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
PRIORS = (0.01, 0.1, 0.5)


@dataclass(frozen=True)
class AccountingReport:
    """What a composition of mechanisms costs, and what that means to a unit.

    Attributes:
        events: the merged events.
        delta: the delta of every epsilon below.
        epsilon: the claim: PLD, add/remove of one unit, an upper bound.
        interval: discretisation interval of the privacy loss.
        discretisation_error: how far discretisation may have raised `epsilon`.
        cross_check: the same by RDP and PRV.
        epsilon_replace_one: PLD under replacement of one unit.
        epsilon_group: PLD under add/remove of k linked units, by k.
        true_positive_rate: the best attacker's, by false-positive rate.
        posterior: probability of membership after the test at 1 % false positives flags, by prior.
        advantage: the best attacker's true-positive rate less false-positive rate.
    """

    events: tuple[DpSgdEvent, ...]
    delta: float
    epsilon: float
    interval: float
    discretisation_error: float
    cross_check: CrossCheck
    epsilon_replace_one: float
    epsilon_group: dict[int, float]
    true_positive_rate: dict[float, float]
    posterior: dict[float, float]
    advantage: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object; mappings become lists of pairs, an absent number null."""
        return {
            "events": [event.to_json() for event in self.events],
            "delta": self.delta,
            "epsilon": _number(self.epsilon),
            "accountant": "PLD (dp-accounting), pessimistic connect-the-dots",
            "interval": self.interval,
            "discretisation_error": _number(self.discretisation_error),
            "epsilon_rdp": _number(self.cross_check.rdp),
            "epsilon_prv": self.cross_check.prv,
            "epsilon_prv_unavailable": self.cross_check.prv_unavailable,
            "epsilon_replace_one": _number(self.epsilon_replace_one),
            "epsilon_group": [[size, _number(value)] for size, value in self.epsilon_group.items()],
            "true_positive_rate": [[fpr, tpr] for fpr, tpr in self.true_positive_rate.items()],
            "posterior": [[prior, value] for prior, value in self.posterior.items()],
            "advantage": self.advantage,
        }


def account(
    events: Iterable[DpSgdEvent], delta: float, group_sizes: Sequence[int] = (2,)
) -> AccountingReport:
    """Account for `events` at `delta` in every way that is reported.

    Raises:
        AccountingError: a value is out of range, or the accountants disagree beyond their known error.
    """
    segments = merge(events)
    claim = pld.epsilon(segments, delta)
    error = pld.discretisation_error(segments, delta)
    curve = trade_off(segments)
    return AccountingReport(
        events=segments,
        delta=delta,
        epsilon=claim,
        interval=pld.interval(segments),
        discretisation_error=error,
        cross_check=cross_check(segments, delta, claim, slack=error),
        epsilon_replace_one=pld.epsilon(segments, delta, adjacency=Adjacency.REPLACE_ONE),
        epsilon_group={size: pld.epsilon(segments, delta, group_size=size) for size in group_sizes},
        true_positive_rate={fpr: curve.true_positive_rate(fpr) for fpr in FALSE_POSITIVE_RATES},
        posterior={prior: curve.posterior(prior, 0.01) for prior in PRIORS},
        advantage=curve.advantage,
    )


def _number(value: float) -> float | str:
    return value if value < float("inf") else "infinity"
