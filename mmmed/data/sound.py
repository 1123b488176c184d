"""A heart, lung or breath sound as a log-mel spectrogram by public constants."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
import torch

from mmmed._transformers import mel_filter_bank
from mmmed.data.recording import LONGEST, check_length, middle, resampled, stored
from mmmed.errors import DataError

_LOWEST_HZ = 20.0
_RANGE_DB = 80.0  # below a recording's own loudest cell
_SILENT = 1e-6
_BLOCK = 1 << 18


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """A WAV or FLAC file: (1, samples) float32, its channels mixed, 1 the loudest; and samples a second.

    Raises:
        DataError: it is no such file, silent, or of no usable length. The message names it.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, blocks, samples = file.samplerate, [], 0
            # what the header declares is not believed: blocks are read until there are no more
            while samples <= LONGEST * rate and len(
                block := file.read(_BLOCK, dtype="float32", always_2d=True)
            ):
                blocks.append(block.mean(axis=1))
                samples += len(block)
    except Exception as error:  # the reader raises whatever it stumbles over
        raise DataError(
            f"{path}: not a readable WAV or FLAC file; export it again, or name the column of sounds in data.audio"
        ) from error
    check_length(path, samples, rate)
    values = np.nan_to_num(np.concatenate(blocks))[None]
    if float(np.ptp(values)) < _SILENT:
        raise DataError(f"{path}: silent; record it again or leave the row's cell empty")
    return values / np.abs(values).max(), rate


def log_mel(path: Path, *, rate: int, hop: int, mels: int, frames: int) -> np.ndarray:
    """The sound as (mels, frames) float32, a stored recording (`mmmed.data.recording`).

    Power in mel bands (HTK's scale) from 20 Hz to half the rate, in dB: 1 at the loudest cell of the recording itself,
    as gains differ from device to device, and 0 at 80 dB below it. The middle of a longer sound is kept.

    Args:
        path: of the file.
        rate: samples a second that it is brought to.
        hop: samples from frame to frame; a window is two of them.
        mels: bands.
        frames: of the result.

    Raises:
        DataError: as `read_sound`.
    """
    values, own_rate = read_sound(path)
    values = resampled(middle(values, math.ceil(frames * hop / rate * own_rate)), own_rate, rate)
    sound = torch.from_numpy(np.ascontiguousarray(middle(values, frames * hop)[0]))
    spectrum = torch.stft(
        sound, 2 * hop, hop, window=torch.hann_window(2 * hop), pad_mode="constant", return_complex=True
    )  # [hop + 1, frames + 1]
    power = _bands(hop + 1, rate, mels) @ spectrum[:, : math.ceil(len(sound) / hop)].abs().square().numpy()
    decibels = 10 * np.log10(np.maximum(power, 1e-20))
    return stored(1 + (decibels - decibels.max()) / _RANGE_DB, frames)


def _bands(bins: int, rate: int, mels: int) -> np.ndarray:
    """(mels, bins) triangular filters."""
    bank: np.ndarray = mel_filter_bank(bins, mels, _LOWEST_HZ, rate / 2, rate, norm=None, mel_scale="htk")
    return bank.T
