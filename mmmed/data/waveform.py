"""An ECG, EEG or other waveform with its leads in the run's order, in physical units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfiltfilt

from mmmed.data.recording import check_length, middle, resampled, stored
from mmmed.errors import DataError

_MAX_BYTES = 1 << 30  # of a file's arrays; 64 channels of 30 minutes at 250 Hz are half of it
_LISTED = 12


def open_waveform(path: Path) -> tuple[np.ndarray, float, list[str]]:
    """What `mmmed site ingest` wrote of a WFDB or DICOM waveform.

    Returns:
        (channels, samples) float32 in physical units, samples a second, and the channels' names.

    Raises:
        DataError: it is no such file, or holds what no waveform does. The message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(one.file_size for one in file.zip.infolist()) > _MAX_BYTES:
                raise DataError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; cut it")
            values, rate = np.asarray(file["signal"], np.float32), float(file["rate"])
            names = [str(name) for name in file["channels"]]
    except DataError:
        raise
    except Exception as error:  # the reader raises whatever it stumbles over
        raise DataError(
            f"{path}: not a waveform (.npz with signal, rate and channels) as `mmmed site ingest` writes it; ingest "
            "the record, or name the column of waveforms in data.waveform"
        ) from error
    if values.ndim != 2 or len(values) != len(names):
        raise DataError(
            f"{path}: a signal of shape {values.shape} with {len(names)} names; expected (channels, samples) and "
            "a name each. Ingest it again"
        )
    return values, rate, names


def read_waveform(
    path: Path,
    *,
    leads: Sequence[str],
    fewest: int,
    rate: int,
    length: int,
    window: tuple[float, float],
    band: tuple[float, ...],
) -> np.ndarray:
    """The waveform as (leads, length) float32, a stored recording (`mmmed.data.recording`).

    The middle of a longer one is kept. A lead that it lacks, or that was off (no value but one), is not recorded.

    Args:
        path: of the file.
        leads: the names of the leads, upper or lower case; a file that has two of a name gives its first.
        fewest: leads that it must have.
        rate: samples a second that it is brought to.
        length: samples.
        window: (low, high), the values that become 0 and 1, in the unit of the file (mV of an ECG).
        band: (low, high) in Hz of a zero-phase Butterworth filter of second order; () filters nothing.

    Raises:
        DataError: as `open_waveform`; or it lacks too many leads, is not finite, or of no usable length.
    """
    values, own_rate, names = open_waveform(path)
    check_length(path, values.shape[1], own_rate)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds values that are no finite numbers; ingest it again")
    rows = {name.casefold(): row for row, name in reversed(list(enumerate(names)))}
    found = {place: rows[lead.casefold()] for place, lead in enumerate(leads) if lead.casefold() in rows}
    found = {place: row for place, row in found.items() if np.ptp(values[row]) > 0}
    if len(found) < fewest:
        raise DataError(
            f"{path}: {len(found)} of the {len(leads)} leads in data.waveform_leads, {fewest} or more are needed. It "
            f"has {', '.join(names[:_LISTED])}. Name its leads, lower data.waveform_fewest, or leave the cell empty"
        )
    chosen = values[list(found.values())]
    if band:
        chosen = _filtered(chosen, own_rate, band)
    chosen = resampled(middle(chosen, math.ceil(length / rate * own_rate)), own_rate, rate)
    chosen = middle(chosen, length)
    out = np.zeros((len(leads), length), dtype=np.float32)
    low, high = window
    out[list(found)] = stored((chosen - low) / (high - low), length)
    return out


def _filtered(values: np.ndarray, rate: float, band: tuple[float, ...]) -> np.ndarray:
    """Values (channels, samples) without what is slower or faster than `band`, as far as the rate carries it."""
    high = min(band[1], 0.45 * rate)
    if band[0] >= high:
        return values
    filters = butter(2, (band[0], high), "bandpass", fs=rate, output="sos")
    padding = min(values.shape[1] - 1, round(rate / band[0]))
    return sosfiltfilt(filters, values, axis=1, padlen=padding).astype(np.float32)
