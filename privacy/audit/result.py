"""What an audit found: checks with p-values, lower bounds on epsilon, and a verdict with its false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from privacy.accounting import DpSgdEvent, epsilon, shown
from privacy.errors import AccountingError, ReportError
from privacy.versions import versions

SCHEMA = "mmmed-audit/1"
FALSE_ALARM_RATE = 1e-4  # of a whole audit of code that does what it claims
STATISTICAL = (  # the others cannot fail by chance
    "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "E1", "E2", "E3", "E4",
)  # fmt: skip
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
    """A lower bound on epsilon at 95 % confidence, and the claimed upper bound for the same steps.

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
        parameters: trained parameters of the model.
        quick: whether it was the quick audit.
        canaries: in the canary game; 0 if it was not played.
        checks: everything that was checked.
        bounds: lower bounds on epsilon; empty if the game was not played.
        time: when it ended, RFC 3339.
        software: versions of the packages that were audited.
    """

    claim: DpSgdEvent
    delta: float
    parameters: int
    quick: bool
    canaries: int
    checks: tuple[Check, ...]
    bounds: tuple[Bound, ...]
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    software: Mapping[str, str] = field(default_factory=versions)

    @property
    def claimed_epsilon(self) -> float:
        """Epsilon of all steps of the claim, by the accountant."""
        return epsilon([self.claim], self.delta)

    @property
    def violations(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether no violation was found. That is evidence, not proof."""
        return not self.violations

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads; a number that is not finite becomes null."""
        return {
            "schema": SCHEMA,
            "time": self.time,
            "passed": self.passed,
            "violations": [check.code for check in self.violations],
            "false_alarm_rate": FALSE_ALARM_RATE,
            "level_per_check": LEVEL,
            "claim": self.claim.to_json(),
            "delta": self.delta,
            "claimed_epsilon": _number(self.claimed_epsilon),
            "parameters": self.parameters,
            "quick": self.quick,
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
            "software": dict(self.software),
        }

    @staticmethod
    def from_json(value: Any) -> AuditResult:
        """Read what `to_json` wrote; what follows from the rest (the verdict, the claim's epsilon) must do so.

        Raises:
            ReportError: it is something else, or was edited so that it contradicts itself.
        """
        try:
            if value["schema"] != SCHEMA:
                raise ValueError(f"schema {value['schema']!r}")
            result = AuditResult(
                claim=DpSgdEvent.from_json(value["claim"]),
                delta=float(value["delta"]),
                parameters=int(value["parameters"]),
                quick=bool(value["quick"]),
                canaries=int(value["canaries"]),
                checks=tuple(
                    Check(str(c["code"]), str(c["claim"]), str(c["found"]), _p_value(c["p_value"]))
                    for c in value["checks"]
                ),
                bounds=tuple(
                    Bound(
                        str(b["code"]),
                        str(b["method"]),
                        _finite(b["epsilon_at_least"]),
                        _finite(b["claimed_epsilon"]),
                        int(b["steps"]),
                    )
                    for b in value["bounds"]
                ),
                time=str(value["time"]),
                software={str(name): str(version) for name, version in value["software"].items()},
            )
            again = result.to_json()
            close = math.isclose(again["claimed_epsilon"], value["claimed_epsilon"], rel_tol=1e-4)
            if not close or {**value, "claimed_epsilon": 0} != {**again, "claimed_epsilon": 0}:
                raise ValueError("its parts contradict each other")
        except (KeyError, TypeError, ValueError, AttributeError, AccountingError) as error:
            raise ReportError(f"Not a result of `mmmed privacy audit`: {error!r}.") from None
        return result

    def to_text(self) -> str:
        """A few lines for a terminal."""
        claim = self.claim
        lines = [
            f"Claimed: epsilon {shown(self.claimed_epsilon)} at delta {self.delta:g} (noise multiplier "
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
            f"{shown(bound.claimed_epsilon)}, over {bound.steps} steps ({bound.method})"
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
    """A check whose outcome does not depend on chance.

    Args:
        code: such as "S1", as in the table of docs/audit.md.
        claim: what must hold.
        found: what was seen.
        holds: whether it does; the p-value is then 1, else 0.
    """
    return Check(code, claim, found, 1.0 if holds else 0.0)


def _p_value(value: float | None) -> float:
    return math.nan if value is None else float(value)  # which fails


def _finite(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
