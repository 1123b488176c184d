"""C4, C5: the sampler draws as the accountant assumes, each unit in each step with probability q, independently."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from privacy.audit.result import Check
from privacy.audit.subject import Subject, seeded

_UNITS = 200
_WINDOWS = 40
_MOST_STEPS = 50_000


def sampler_checks(subject: Subject) -> list[Check]:
    """Draw batches without training, and test rate and independence; all p-values are exact binomial tails."""
    q = subject.claim.sampling_rate
    window = min(round(1 / q), _MOST_STEPS // 4)
    masks = _masks(subject, max(2, min(_WINDOWS, _MOST_STEPS // window)) * window)
    return [_rate(masks, q), _independence(masks, q, window), _seeds(subject)]


def _masks(subject: Subject, steps: int) -> np.ndarray:
    masks = np.zeros((steps, _UNITS), dtype=bool)
    for mask, indices in zip(masks, subject.make_sampler(_UNITS, steps), strict=False):
        mask[indices] = True
    return masks


def _rate(masks: np.ndarray, q: float) -> Check:
    """No unit is drawn more often than claimed: all together, and the one drawn most."""
    steps, units = masks.shape
    total, most = int(masks.sum()), int(masks.sum(0).max())
    p_value = min(stats.binom.sf(total - 1, masks.size, q), units * stats.binom.sf(most - 1, steps, q))
    found = f"rate {total / masks.size:.5g}, claimed {q:.5g}"
    return Check("C4", "no patient is drawn more often than claimed", found, min(1.0, 2 * float(p_value)))


def _independence(masks: np.ndarray, q: float, window: int) -> Check:
    """Two counts of independent trials whose probabilities are known under Poisson sampling.

    Units drawn exactly once within a window of 1/q steps (shuffling: all of them; a repeated batch: few), and
    steps whose batch size is in its central half (fixed sizes: all of them).
    """
    steps, units = masks.shape
    counts = masks.reshape(steps // window, window, units).sum(1)
    once = _two_sided(int((counts == 1).sum()), counts.size, float(stats.binom.pmf(1, window, q)))
    sizes, mean = masks.sum(1), units * q
    reach = stats.binom(units, q).std() * 0.6745
    inside = np.abs(np.arange(units + 1) - mean) <= reach
    central = float(stats.binom.pmf(np.flatnonzero(inside), units, q).sum())
    size = _two_sided(int(inside[sizes].sum()), steps, central)
    found = (
        f"{np.mean(counts == 1):.3f} of patients drawn exactly once in {window} steps "
        f"(expected {stats.binom.pmf(1, window, q):.3f}); batch size varies by {sizes.std():.2f} "
        f"(expected {math.sqrt(mean * (1 - q)):.2f})"
    )
    return Check("C5", "patients and steps are drawn independently", found, min(1.0, 2 * min(once, size)))


def _seeds(subject: Subject) -> Check:
    """With every public random state set alike, batches differ. By chance they never agree in 2,000 draws."""
    claim = "no public seed repeats the batches"
    if subject.claim.sampling_rate > 0.999:
        return Check("S3", claim, "every patient is in every batch", 1.0)
    steps = math.ceil(2000 / (_UNITS * min(subject.claim.sampling_rate, 1 - subject.claim.sampling_rate)))
    runs = []
    for _ in range(2):
        with seeded(0):
            runs.append(_masks(subject, steps))
    same = bool((runs[0] == runs[1]).all())
    return Check("S3", claim, "the same batches again" if same else "other batches", 0.0 if same else 1.0)


def _two_sided(count: int, trials: int, probability: float) -> float:
    if trials == 0 or probability >= 1:
        return 1.0 if count == trials else 0.0
    law = stats.binom(trials, probability)
    return float(min(1.0, 2 * min(law.cdf(count), law.sf(count - 1))))
