"""Sounds and waveforms over time: brought to one rate and length, and stored so that what was not recorded is told.

A stored recording is (channels, length) in [0, 1]: 0 where nothing was recorded, behind its end and in a lead that it
lacks; what was recorded is above 0.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly

from mmmed.errors import DataError

SHORTEST = 0.25  # seconds; less holds neither a heart beat nor a breath
LONGEST = 1800.0  # seconds
RATES = (1.0, 100_000.0)  # samples a second
_LEAST = 1 / 65535  # the smallest value that the cache tells from 0


def resampled(values: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """Values (channels, samples) at another rate by a polyphase filter, which keeps out what would alias."""
    step = (Fraction(wanted) / Fraction(rate)).limit_denominator(10_000)
    if step == 1 or values.shape[1] < 2:  # through one point there is no line
        return values
    return resample_poly(values, step.numerator, step.denominator, axis=1, padtype="line").astype(np.float32)


def middle(values: np.ndarray, length: int) -> np.ndarray:
    """The `length` samples in the middle of values (channels, samples), all of them if there are no more."""
    start = max(0, (values.shape[1] - length) // 2)
    return values[:, start : start + length]


def check_length(path: Path, samples: int, rate: float) -> None:
    """Raise `DataError` unless so many samples at `rate` a second are a recording of a usable rate and length."""
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(
            f"{path}: {rate:g} samples a second; expected {RATES[0]:g} to {RATES[1]:g}. Export it again"
        )
    seconds = samples / rate
    if not SHORTEST <= seconds <= LONGEST:
        raise DataError(
            f"{path}: {seconds:.2f} s long; expected {SHORTEST:g} s to {LONGEST / 60:.0f} minutes. Record it again, "
            "cut it, or leave the row's cell empty"
        )


def stored(values: np.ndarray, length: int) -> np.ndarray:
    """Values (channels, at most `length`) in [0, 1] as a stored recording, (channels, length) float32."""
    recorded = _LEAST + (1 - _LEAST) * np.nan_to_num(values).clip(
        0, 1
    )  # (what overflowed in a filter is no number)
    return np.pad(recorded, [(0, 0), (0, length - values.shape[1])]).astype(np.float32)


def recorded_spans(values: torch.Tensor, span: int) -> torch.Tensor:
    """(R, channels, length) stored recordings -> (R, length / span) bool, whether anything of a span was recorded."""
    return (values > 0).any(1).unflatten(1, (-1, span)).any(2)
