"""AUROC and calibration from noised tables, each with its error. Post-processing: it costs no privacy.

The area is the Mann-Whitney statistic of the binned scores, pairs of one bin counting half (Hanley and McNeil 1982).
Three errors are kept apart: of the noise, by the delta method; of the bins, a bound, since a pair within one bin
may be in either order; and of the sample, which tests on these patients would have without any privacy too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from privacy.metrics.release import edges

MIN_PATIENTS = 200  # pooled; below, the noise says more than the patients
_NORMAL_95 = 1.959964
_SURE = 4.0  # a class whose number is not so many standard errors above 0 may be absent


@dataclass(frozen=True)
class Estimate:
    """What the pooled tables show; numbers are None where there is no result, and `refused` says why.

    Attributes:
        patients: estimated number of patients, and `patients_error`, its standard error.
        auroc: area under the ROC curve, a patient weighing 1; for more than two classes the mean of one-versus-rest.
        noise_error: standard error of `auroc` from the noise.
        bin_error: the most by which the bins may have moved `auroc`.
        sample_error: standard error of `auroc` from the choice of patients (Hanley and McNeil 1982).
        low, high: `auroc` without noise and bins lies in here with 95 % confidence or more.
        calibration: observed less predicted share of the class, scores taken at the middle of their bin; for more than
            two classes the mean size of it.
        calibration_error: half the width of its 95 % interval, of noise and of scores anywhere in their bins.
        reliability: for each table and bin [middle, observed share, its standard error from the noise at the share
            where that is largest]; bins with too few are left out.
        refused: why there is no result: "few-patients" or "noise".
    """

    patients: float
    patients_error: float
    auroc: float | None = None
    noise_error: float | None = None
    bin_error: float | None = None
    sample_error: float | None = None
    low: float | None = None
    high: float | None = None
    calibration: float | None = None
    calibration_error: float | None = None
    reliability: tuple[tuple[tuple[float, float, float], ...], ...] = ()
    refused: str | None = None

    @property
    def goodness(self) -> float | None:
        """The area, by which models are compared; None without a result."""
        return self.auroc

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def estimate(tables: np.ndarray, std: float) -> Estimate:
    """Read pooled tables.

    Args:
        tables: (T, 2, B) float64, the sum over sites.
        std: standard deviation of the noise in each cell of the sum.
    """
    bins = tables.shape[2]
    total_error = std * math.sqrt(2 * bins / len(tables))
    patients = float(tables.sum() / len(tables))
    if patients < MIN_PATIENTS:
        return Estimate(patients, total_error, refused="few-patients")
    sizes = tables.sum(axis=2)
    if (sizes < max(1.0, _SURE * std * math.sqrt(bins))).any():
        return Estimate(patients, total_error, refused="noise")
    parts = [_area(table, std) for table in tables]
    auroc, bin_error, sample_error = (float(np.mean([part[i] for part in parts])) for i in (0, 2, 3))
    noise_error = math.sqrt(sum(part[1] ** 2 for part in parts)) / len(parts)
    reach = _NORMAL_95 * noise_error + bin_error
    off = [_in_the_large(table, std) for table in tables]
    return Estimate(
        patients=patients,
        patients_error=total_error,
        auroc=auroc,
        noise_error=noise_error,
        bin_error=bin_error,
        sample_error=sample_error,
        low=max(0.0, auroc - reach),
        high=min(1.0, auroc + reach),
        calibration=off[0][0] if len(off) == 1 else float(np.mean([abs(value) for value, _ in off])),
        calibration_error=float(np.mean([error for _, error in off])),
        reliability=tuple(_reliability(table, std) for table in tables),
    )


def _area(table: np.ndarray, std: float) -> tuple[float, float, float, float]:
    """(area, noise error, bin error, sample error) of one table."""
    negative, positive = table
    n, p = negative.sum(), positive.sum()
    below = np.cumsum(negative) - negative / 2  # pairs that a positive of each bin wins
    above = p - np.cumsum(positive) + positive / 2
    area = float(positive @ below / (p * n))
    slope_positive, slope_negative = below / (p * n) - area / p, above / (p * n) - area / n
    noise = std * math.sqrt(float(slope_positive @ slope_positive + slope_negative @ slope_negative))
    ties = float(np.maximum(positive, 0) @ np.maximum(negative, 0) / (2 * p * n))
    within = min(1.0, max(0.0, area))
    one, two = within / (2 - within), 2 * within**2 / (1 + within)
    spread = within * (1 - within) + (p - 1) * (one - within**2) + (n - 1) * (two - within**2)
    return area, noise, ties, math.sqrt(max(0.0, spread) / (p * n))


def _in_the_large(table: np.ndarray, std: float) -> tuple[float, float]:
    """Observed less predicted share of the class, and half the width of its 95 % interval.

    The two ends are those of all scores at the lower and at the upper edge of their bins, each with its noise.
    """
    limits = edges(table.shape[1])
    total = table.sum()

    def off(score: np.ndarray) -> tuple[float, float]:
        value = float((table[1].sum() - score @ table.sum(axis=0)) / total)
        slopes = np.stack([-score - value, 1 - score - value]) / total
        return value, _NORMAL_95 * std * float(np.sqrt((slopes**2).sum()))

    value, _ = off((limits[:-1] + limits[1:]) / 2)
    ends = [off(limits[:-1]), off(limits[1:])]
    return value, max(abs(end - value) + noise for end, noise in ends)


def _reliability(table: np.ndarray, std: float) -> tuple[tuple[float, float, float], ...]:
    rows = []
    limits = edges(table.shape[1])
    for low, high, (negative, positive) in zip(limits[:-1], limits[1:], table.T, strict=True):
        count = negative + positive
        if count < max(1.0, _SURE * std * math.sqrt(2)):
            continue
        # With s the true share, positive - s count is noise alone, of std hypot(1 - s, s): at most std. The share
        # that was found must not stand in for s: noise that pulls it to the middle would shrink its own error.
        share, error = positive / count, std / count
        rows.append((float(low + high) / 2, float(min(1.0, max(0.0, share))), float(error)))
    return tuple(rows)
