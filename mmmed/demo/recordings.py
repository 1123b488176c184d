"""A breath sound and an ECG for a study of the generated hospitals, each with a weak sign of the finding.

A sound is noise that swells with every breath, and crackles: short damped bursts while breathing in. The more the
evidence says, the more of them there are, and the higher is the breath's pitch, as over a consolidated lung. An ECG is
a row of beats whose waves point along one axis of the heart; the evidence makes it faster and flattens its T waves.
Device, length and loudness say nothing. Both draw their evidence apart from film and note.
"""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_SECONDS = (3.5, 6.0)
_CRACKLES = (1.0, 9.0)  # of a breath, at evidence -1 and 1
_HIGHEST_HZ = (420.0, 680.0)  # of the breath
_BURST = 0.06  # seconds
_BEATS = (68.0, 92.0)  # a minute
_WAVES = (  # of a beat: seconds from its R wave, width in seconds, mV
    ("P", -0.17, 0.025, 0.12), ("Q", -0.035, 0.010, -0.1), ("R", 0.0, 0.012, 1.1), ("S", 0.035, 0.012, -0.25),
    ("T", 0.26, 0.050, 0.32),
)  # fmt: skip
_AXES = {  # direction of each lead: degrees in the frontal plane (x left, y down), and how far it looks from the front
    "I": (0, 0.0), "II": (60, 0.0), "III": (120, 0.0), "aVR": (210, 0.0), "aVL": (330, 0.0), "aVF": (90, 0.0),
    "V1": (180, 0.9), "V2": (140, 0.95), "V3": (60, 0.8), "V4": (45, 0.5), "V5": (20, 0.2), "V6": (0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Devices:
    """What a hospital records with."""

    sound_hz: int = 4000  # 0: records no sounds
    leads: tuple[str, ...] = _LEADS
    ecg_hz: int = 250


DEVICES: dict[str, Devices] = {  # by hospital
    "northgate": Devices(),
    "harbour": Devices(sound_hz=2000),
    "meadow": Devices(leads=_LEADS[:6], ecg_hz=125),
    "old-mill": Devices(sound_hz=0, ecg_hz=200),
}


def write_sound(path: Path, devices: Devices, evidence: float, rng: np.random.Generator) -> None:
    """Write a breath sound as WAV: one channel, 16 bits.

    Args:
        path: of the file.
        devices: the hospital's, which record sounds.
        evidence: -1 (well) to 1 (ill).
        rng: public randomness.
    """
    rate, seconds = devices.sound_hz, rng.uniform(*_SECONDS)
    time = np.arange(int(rate * seconds)) / rate
    breath, begin = rng.uniform(1.6, 2.4), rng.uniform()  # seconds of a breath; where it is at the start
    phase = (time / breath + begin) % 1
    swell = np.sin(np.pi * np.minimum(phase / 0.45, 1)) ** 2 + 0.35 * (phase > 0.5) * np.sin(
        np.pi * np.clip((phase - 0.5) / 0.4, 0, 1)
    )
    highest = float(np.clip(_between(_HIGHEST_HZ, evidence) + rng.normal(0, 60), 250, 950))
    band = butter(2, (80, highest), "bandpass", fs=rate, output="sos")
    sound = sosfilt(band, rng.standard_normal(len(time))) * (0.1 + swell)
    number = rng.poisson(_between(_CRACKLES, evidence) * seconds / breath)
    while_in = np.flatnonzero(phase < 0.45)
    since = np.arange(round(_BURST * rate)) / rate
    for start in rng.choice(while_in, number):
        pitch, decay = rng.uniform(300, 700), rng.uniform(0.004, 0.009)
        burst = rng.uniform(0.6, 1.6) * np.exp(-since / decay) * np.sin(2 * math.pi * pitch * since)
        heard = sound[start : start + len(burst)]
        heard += burst[: len(heard)]
    sound *= rng.uniform(0.2, 0.9) / np.abs(sound).max()
    with path.open("wb") as opened, wave.open(opened, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).astype("<i2").tobytes())


def write_ecg(path: Path, devices: Devices, evidence: float, rng: np.random.Generator) -> None:
    """Write an ECG as `mmmed site ingest` stores waveforms; the arguments are those of `write_sound`."""
    rate = devices.ecg_hz
    time = np.arange(int(rate * rng.uniform(*_SECONDS))) / rate
    interval = 60 / (_between(_BEATS, evidence) + rng.normal(0, 7))
    beats = np.arange(rng.uniform(-1, 0) * interval, time[-1] + interval, interval)
    beats = beats + rng.normal(0, 0.02, len(beats))
    axis, forward = rng.normal(50, 15), rng.normal(-0.1, 0.15)
    heights = {"P": 1.0, "Q": 1.0, "R": rng.uniform(0.8, 1.2), "S": 1.0, "T": 1 - 0.35 * (evidence + 1) / 2}
    toward = np.zeros((len(devices.leads), len(time)))
    for name, after, width, height in _WAVES:
        turned = axis + (rng.normal(0, 8) if name in ("P", "T") else 0)
        shape = np.exp(-(((time - after)[:, None] - beats) ** 2) / (2 * width**2)).sum(1)
        toward += _seen_from(devices.leads, turned, forward)[:, None] * (heights[name] * height * shape)
    wander = 0.08 * np.sin(2 * math.pi * (rng.uniform(0.1, 0.3) * time + rng.uniform(size=(len(toward), 1))))
    signal = toward + wander + rng.normal(0, 0.02, toward.shape)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            signal=np.round(signal, 2).astype(np.float32),
            rate=np.float64(rate),
            channels=np.array(devices.leads),
            units=np.array(["mV"] * len(devices.leads)),
        )


def _seen_from(leads: tuple[str, ...], axis: float, forward: float) -> np.ndarray:
    """(leads,) what each lead sees of a wave along `axis` (degrees) that also points to the front."""
    angles, depths = np.array([_AXES[lead] for lead in leads]).T
    seen: np.ndarray = np.cos(np.radians(axis - angles)) * np.sqrt(1 - depths**2) + forward * depths * 2
    return seen


def _between(ends: tuple[float, float], evidence: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * (evidence + 1) / 2
