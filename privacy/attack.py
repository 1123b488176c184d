"""How well a strong attacker does in fact tell who took part: the likelihood-ratio attack (LiRA).

Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv 2112.03570), Algorithm 1 with a
variance shared by all patients, as they advise for few shadow models. The attacker trains *shadow models* with the
run's own configuration, each on other patients, and learns for every patient how confident models are that saw
the patient and how confident those that did not; the released model's confidence is then judged by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy import stats

from privacy.errors import ReportError
from privacy.versions import versions

SCHEMA = "mmmed-attack/1"
FALSE_POSITIVE_RATES = (0.01, 0.1)
FALSE_ALARM_RATE = 1e-4  # of the verdict, if the attack did no better than the bound allows
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Rate:
    """The attack at one false-positive rate.

    Attributes:
        at: the false-positive rate aimed at.
        false_positives: falsely accused, of those who took no part.
        true_positives: rightly recognised, of those who took part.
        bound: the true-positive rate that the run's mechanism permits any attacker at `at`; 1 without privacy.
        exceeded: whether the finding contradicts the bound.
    """

    at: float
    false_positives: int
    true_positives: int
    bound: float
    exceeded: bool


@dataclass(frozen=True)
class AttackResult:
    """What the attack achieved against one released model.

    Attributes:
        shadows: shadow models that the attacker trained.
        members: patients who took part.
        others: patients who did not.
        auroc: of telling the two apart.
        rates: at each of `FALSE_POSITIVE_RATES`.
        time: when it ended, RFC 3339.
        software: versions.
    """

    shadows: int
    members: int
    others: int
    auroc: float
    rates: tuple[Rate, ...]
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    software: Mapping[str, str] = field(default_factory=versions)

    @property
    def passed(self) -> bool:
        """Whether the attack stayed within what the mechanism permits."""
        return not any(rate.exceeded for rate in self.rates)

    def interval(self, rate: Rate) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the true-positive rate at a threshold."""
        return clopper_pearson(rate.true_positives, self.members, 0.05)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        return {
            "schema": SCHEMA,
            "attack": "LiRA with shared variance",
            "time": self.time,
            "passed": self.passed,
            "shadows": self.shadows,
            "members": self.members,
            "others": self.others,
            "auroc": self.auroc,
            "rates": [
                {
                    "false_positive_rate": rate.at,
                    "false_positives": rate.false_positives,
                    "true_positives": rate.true_positives,
                    "true_positive_rate": rate.true_positives / self.members,
                    "confidence_95": list(self.interval(rate)),
                    "bound": rate.bound,
                    "exceeded": rate.exceeded,
                }
                for rate in self.rates
            ],
            "software": dict(self.software),
        }

    @staticmethod
    def from_json(value: Any) -> AttackResult:
        """Read what `to_json` wrote.

        Raises:
            ReportError: it is something else, or was edited so that it contradicts itself.
        """
        try:
            rates = tuple(
                Rate(
                    float(r["false_positive_rate"]),
                    int(r["false_positives"]),
                    int(r["true_positives"]),
                    float(r["bound"]),
                    bool(r["exceeded"]),
                )
                for r in value["rates"]
            )
            result = AttackResult(
                shadows=int(value["shadows"]),
                members=int(value["members"]),
                others=int(value["others"]),
                auroc=float(value["auroc"]),
                rates=rates,
                time=str(value["time"]),
                software={str(name): str(version) for name, version in value["software"].items()},
            )
            if result.to_json() != value:
                raise ValueError("its parts contradict each other")
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ReportError(f"Not a result of `mmmed privacy attack`: {error!r}.") from None
        return result

    def to_text(self) -> str:
        """A few lines for a terminal."""
        lines = [
            f"{self.members} patients took part, {self.others} did not; {self.shadows} shadow models; "
            f"AUROC {self.auroc:.3f}"
        ]
        for rate in self.rates:
            low, high = self.interval(rate)
            lines.append(
                f"At {rate.at:.0%} false accusations the attack recognises {rate.true_positives / self.members:.1%} "
                f"[{low:.1%}, {high:.1%}] of those who took part; no attacker can exceed {rate.bound:.1%}"
                f"{'. EXCEEDED: the guarantee does not hold' if rate.exceeded else ''}"
            )
        return "\n".join(lines) + "\n"


def membership_scores(target: np.ndarray, shadows: np.ndarray, included: np.ndarray) -> np.ndarray:
    """LiRA's log likelihood ratio that each patient took part: float64 [patients].

    Args:
        target: the released model's confidence in each patient's label, log(p / (1 - p)), float64 [patients].
        shadows: every shadow model's confidence, likewise, float64 [shadows, patients].
        included: whether the shadow model was trained on the patient, bool [shadows, patients].

    Raises:
        ReportError: a patient was in all shadow models, or in none.
    """
    if not included.any(0).all() or included.all(0).any():
        raise ReportError(
            "Every patient must be in some shadow models and not in others: train more of them."
        )
    score = np.zeros(len(target))
    for sign, mask in ((1, included), (-1, ~included)):
        count = mask.sum(0)
        mean = np.where(mask, shadows, 0).sum(0) / count
        squares = np.where(mask, (shadows - mean) ** 2, 0).sum()
        freedom = int(count.sum()) - len(count)
        spread = np.sqrt(squares / freedom) if freedom > 0 else np.std(shadows - shadows.mean(0))
        # A mean of few models is itself uncertain.
        deviation = max(float(spread), _LEAST_SPREAD) * np.sqrt(1 + 1 / count)
        score += sign * stats.norm.logpdf(target, mean, deviation)
    return score


def judge(
    score: np.ndarray, member: np.ndarray, bound: Callable[[float], float], shadows: int
) -> AttackResult:
    """Compare how well scores tell members from others with the bound of the mechanism.

    The threshold at a false-positive rate is the lowest that accuses no more of the others. Then the true
    false-positive rate of that threshold is Beta distributed whatever the scores are, so the verdict compares
    confidence bounds on both rates; it treats patients as independent.

    Args:
        score: higher for those who seem to have taken part, float64 [patients].
        member: who did, bool [patients]; at least one did and one did not.
        bound: from false-positive rate to the highest true-positive rate of any attacker.
        shadows: how many shadow models were used.
    """
    inside, outside = np.sort(score[member]), np.sort(score[~member])
    level = FALSE_ALARM_RATE / (2 * len(FALSE_POSITIVE_RATES))
    rates = []
    for at in FALSE_POSITIVE_RATES:
        allowed = int(at * len(outside))
        threshold = outside[len(outside) - 1 - allowed]
        false, true = int((outside > threshold).sum()), int((inside > threshold).sum())
        surely_false = clopper_pearson(false, len(outside), 2 * level)[1]
        surely_true = clopper_pearson(true, len(inside), 2 * level)[0]
        rates.append(Rate(at, false, true, bound(at), surely_true > bound(surely_false)))
    ranks = stats.rankdata(np.concatenate([inside, outside]))[: len(inside)]
    pairs = len(inside) * len(outside)
    auroc = float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / pairs)
    return AttackResult(shadows, len(inside), len(outside), auroc, tuple(rates))


def clopper_pearson(events: int, trials: int, level: float) -> tuple[float, float]:
    """Two-sided confidence interval of a probability, wrong with probability `level` at most."""
    low = 0.0 if events == 0 else float(stats.beta.ppf(level / 2, events, trials - events + 1))
    high = 1.0 if events == trials else float(stats.beta.ppf(1 - level / 2, events + 1, trials - events))
    return low, high
