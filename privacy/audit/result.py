"""What an audit found: checks with p-values, lower bounds on epsilon, and a verdict with its false-alarm rate."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from privacy.accounting import DpSgdEvent

SCHEMA = "mmmed-audit/1"
FALSE_ALARM_RATE = 1e-4  # of a whole audit of code that does what it claims
STATISTICAL = ("C1", "C2", "C3", "C4", "C5", "C6", "E1", "E2", "E3")  # the others cannot fail by chance
LEVEL = FALSE_ALARM_RATE / len(STATISTICAL)  # Bonferroni


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        code: short name, as in docs/audit.md.
        claim: what must hold, in plain words.
        found: what was found, with numbers.
        p_value: probability, at most, of a finding so bad by chance although the claim holds. Checks that do not
            rest on chance have 1 or 0.
    """

    code: str
    claim: str
    found: str
    p_value: float

    @property
    def passed(self) -> bool:
        """Whether the finding is compatible with the claim. A p-value that is not a number is a failure."""
        return self.p_value >= LEVEL


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon at 95 % confidence, beside the claimed upper bound for the same steps.

    Of correct code, one in twenty may lie above its claim: the verdict rests on the checks.
    """

    code: str
    method: str
    epsilon: float
    claimed_epsilon: float
    steps: int


@dataclass(frozen=True)
class AuditResult:
    """The audit of one subject.

    Attributes:
        claim: the mechanism that the accountant is told.
        delta: of every epsilon here.
        claimed_epsilon: of all steps of the claim.
        canaries: in the canary game; 0 if it was not played.
        checks: everything that was checked.
        bounds: lower bounds on epsilon; empty if the game was not played.
    """

    claim: DpSgdEvent
    delta: float
    claimed_epsilon: float
    canaries: int
    checks: tuple[Check, ...]
    bounds: tuple[Bound, ...]

    @property
    def violations(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether no violation was found. That is evidence, not proof."""
        return not self.violations

    def to_json(self) -> str:
        """JSON text; a number that is not finite becomes null."""
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "passed": self.passed,
            "violations": [check.code for check in self.violations],
            "false_alarm_rate": FALSE_ALARM_RATE,
            "level_per_check": LEVEL,
            "claim": self.claim.to_json(),
            "delta": self.delta,
            "claimed_epsilon": _number(self.claimed_epsilon),
            "canaries": self.canaries,
            "checks": [
                {
                    "code": check.code,
                    "claim": check.claim,
                    "found": check.found,
                    "p_value": _number(check.p_value),
                    "passed": check.passed,
                }
                for check in self.checks
            ],
            "bounds": [
                {
                    "code": bound.code,
                    "method": bound.method,
                    "confidence": 0.95,
                    "epsilon_at_least": _number(bound.epsilon),
                    "claimed_epsilon": _number(bound.claimed_epsilon),
                    "steps": bound.steps,
                }
                for bound in self.bounds
            ],
        }
        return json.dumps(body, indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """A few lines for a terminal."""
        claim = self.claim
        lines = [
            f"Claimed: epsilon {self.claimed_epsilon:.3f} at delta {self.delta:g} (noise multiplier "
            f"{claim.noise_multiplier:g}, sampling rate {claim.sampling_rate:g}, {claim.steps} steps)",
            "",
        ]
        lines += [
            f"{'ok  ' if check.passed else 'FAIL'}  {check.code:<3} {check.claim}: {check.found}"
            for check in self.checks
        ]
        lines += [""] * bool(self.bounds)
        lines += [
            f"{bound.code}: epsilon is at least {bound.epsilon:.2f} (95 % confidence), claimed at most "
            f"{bound.claimed_epsilon:.2f}, over {bound.steps} steps ({bound.method})"
            for bound in self.bounds
        ]
        verdict = (
            "No violation found."
            if self.passed
            else f"VIOLATION: {', '.join(c.code for c in self.violations)}. Do not train with this code."
        )
        lines += ["", f"{verdict} Correct code fails an audit at most once in {1 / FALSE_ALARM_RATE:,.0f}."]
        return "\n".join(lines) + "\n"


def certain(code: str, claim: str, found: str, holds: bool) -> Check:
    """A check that does not rest on chance."""
    return Check(code, claim, found, 1.0 if holds else 0.0)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
