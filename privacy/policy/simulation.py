"""The policy of a simulated site that has none: the data are generated or public, so everything may be tried."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.ledger import Budget, Sublimit
from privacy.policy.rules import RunRequest
from privacy.secure_sum import Terms

SHOWN = "shown"  # a metric leaves as it is; no site policy can say so


@dataclass(frozen=True)
class SimulationPolicy:
    """Allows everything within `limit`. No hospital has it: a deployed site without a signed policy refuses."""

    limit: Budget
    patients: int | None = None  # no number is stated: see `privacy.planning`

    @property
    def largest_delta(self) -> float:
        """The delta of the limit, which is the largest that a run may ask for."""
        return self.limit.delta

    def check(self, request: RunRequest, now: float) -> None:
        """Allow every request."""

    def check_plan(self, purpose: str, noise_multiplier: float, patients: int) -> None:
        """Allow every plan; the ledger still holds it to the limit."""

    def check_peers(self, terms: Terms) -> None:
        """Allow every roster, and any number of sites that are relied upon."""

    def sublimits(self, purpose: str, now: float) -> tuple[Sublimit, ...]:
        """No parts of the limit: the limit alone holds."""
        return ()

    def metric_rule(self, name: str) -> str:
        """`SHOWN` for every metric: it leaves unchanged."""
        return SHOWN
