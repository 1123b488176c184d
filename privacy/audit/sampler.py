"""C4, C5: the sampler draws as the accountant assumes, each unit in each step with probability q, independently."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from privacy.audit.laws import worst
from privacy.audit.result import Check
from privacy.audit.subject import Subject, seeded

_UNITS = 200
_FEW = 8  # units of a second, small site, whose batches are often empty
_WINDOWS = 40
_LEAST_STEPS, _MOST_STEPS = 1000, 50_000


def sampler_checks(subject: Subject) -> list[Check]:
    """Draw batches without training, and test rate and independence; all p-values are exact binomial tails."""
    q = subject.claim.sampling_rate
    window = min(round(1 / q), _MOST_STEPS // 4)
    windows = max(_WINDOWS, math.ceil(_LEAST_STEPS / window))
    steps = max(2, min(windows, _MOST_STEPS // window)) * window
    masks, few = _masks(subject, steps), _masks(subject, steps, _FEW)
    return [_rate([masks, few], q), _independence(masks, few, q, window), _seeds(subject)]


def _masks(subject: Subject, steps: int, units: int = _UNITS) -> np.ndarray:
    masks = np.zeros((steps, units), dtype=bool)
    for mask, indices in zip(masks, subject.make_sampler(units, steps), strict=False):
        mask[indices] = True
    return masks


def _rate(populations: list[np.ndarray], q: float) -> Check:
    """No unit is drawn more often than claimed: all together, and the one drawn most."""
    p_values = []
    for masks in populations:
        steps, units = masks.shape
        total, most = int(masks.sum()), int(masks.sum(0).max())
        p_values.append(float(stats.binom.sf(total - 1, masks.size, q)))
        p_values.append(min(1.0, units * float(stats.binom.sf(most - 1, steps, q))))
    found = f"rate {populations[0].mean():.5g}, claimed {q:.5g}"
    return Check("C4", "no patient is drawn more often than claimed", found, worst(p_values))


def _independence(masks: np.ndarray, few: np.ndarray, q: float, window: int) -> Check:
    """Counts of trials whose probabilities are known under Poisson sampling; exact binomial tails.

    Units drawn exactly once within a window of 1/q steps (shuffling: all of them; a repeated batch: few), steps
    whose batch size is in its central half (fixed sizes: all of them), empty batches of a small site (drawn again
    until somebody is there: none), and how often each two units are drawn together, or one step after the other.
    """
    steps, units = masks.shape
    counts = masks.reshape(steps // window, window, units).sum(1)
    once = _two_sided(int((counts == 1).sum()), counts.size, float(stats.binom.pmf(1, window, q)))
    sizes, mean = masks.sum(1), units * q
    reach = stats.binom(units, q).std() * 0.6745
    inside = np.abs(np.arange(units + 1) - mean) <= reach
    central = float(stats.binom.pmf(np.flatnonzero(inside), units, q).sum())
    size = _two_sided(int(inside[sizes].sum()), steps, central)
    empty = _two_sided(int((~few.any(1)).sum()), len(few), (1 - q) ** few.shape[1])
    found = (
        f"{np.mean(counts == 1):.3f} of patients drawn exactly once in {window} steps "
        f"(expected {stats.binom.pmf(1, window, q):.3f}); batch size varies by {sizes.std():.2f} "
        f"(expected {math.sqrt(mean * (1 - q)):.2f})"
    )
    p_value = worst([once, size, empty, _together(masks, masks, q), _together(masks[:-1], masks[1:], q)])
    return Check("C5", "patients and steps are drawn independently", found, p_value)


def _together(first: np.ndarray, second: np.ndarray, q: float) -> float:
    """The two units drawn together most, and those drawn together least, for their number of pairs."""
    drawn = first.astype(np.float32).T @ second.astype(np.float32)
    pairs = drawn[np.triu_indices(len(drawn), 1)] if first is second else drawn.ravel()
    # Independent coins agree with probability q^2; of one unit and itself a step later, likewise.
    law = stats.binom(len(first), q * q)
    most, least = float(law.sf(pairs.max() - 1)), float(law.cdf(pairs.min()))
    return min(1.0, 2 * min(most, least) * len(pairs))


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
