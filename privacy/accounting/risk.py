"""What an epsilon means to a patient: how well the best attacker can tell whether they took part.

Every pair (epsilon, delta(epsilon)) bounds the attacker's error rates; all of them together are the trade-off
function of f-DP (Dong, Roth and Su 2022, arXiv 1905.02383): at false-positive rate a, the true-positive rate is
at most min over epsilon of delta + e^epsilon a and 1 - e^-epsilon (1 - delta - a).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from privacy.accounting.events import DpSgdEvent, merge
from privacy.accounting.pld import Adjacency, compose, interval, slack
from privacy.errors import AccountingError

_LEVELS = 200


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Upper bounds on what any attacker who sees all releases can achieve against one unit.

    Attributes:
        epsilons: grid of epsilon, float64 [levels], ascending from 0.
        deltas: delta at each, float64 [levels].
    """

    epsilons: np.ndarray
    deltas: np.ndarray

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Highest true-positive rate of a membership test with this false-positive rate, both in [0, 1]."""
        a = _probability("false_positive_rate", false_positive_rate)
        with np.errstate(over="ignore"):
            small = self.deltas + np.exp(self.epsilons) * a
        large = 1 - np.exp(-self.epsilons) * (1 - self.deltas - a)
        return float(min(1.0, np.min(small), np.min(np.maximum(large, a))))

    @property
    def advantage(self) -> float:
        """Highest true-positive rate less false-positive rate (total variation, delta at epsilon 0)."""
        return float(min(1.0, self.deltas[0]))

    def posterior(self, prior: float, false_positive_rate: float) -> float:
        """Highest probability that a unit which the test flags did take part, given the `prior` probability."""
        p = _probability("prior", prior)
        hit = p * self.true_positive_rate(false_positive_rate)
        miss = (1 - p) * false_positive_rate
        return hit / (hit + miss) if hit + miss > 0 else p


def trade_off(
    events: Iterable[DpSgdEvent], *, adjacency: Adjacency = Adjacency.ADD_REMOVE, group_size: int = 1
) -> TradeOff:
    """The trade-off function of all events together, from the PLD. Raises as `privacy.accounting.epsilon`."""
    segments = merge(events)
    if not segments:
        return TradeOff(np.zeros(1), np.zeros(1))
    distribution = compose(segments, interval(segments), adjacency, group_size)
    if distribution is None:
        return TradeOff(np.zeros(1), np.ones(1))
    top = float(distribution.get_epsilon_for_delta(1e-9))
    epsilons = np.linspace(0.0, min(top, 500.0), _LEVELS)
    deltas = np.array([float(distribution.get_delta_for_epsilon(float(level))) for level in epsilons])
    return TradeOff(epsilons, np.clip(deltas + slack(segments), 0.0, 1.0))


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise AccountingError(f"{name} must be in [0, 1]. Found {value!r}.")
    return float(value)
