"""Heart, lung and breath sounds, a file each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from mmmed.modalities.columns import Recordings
from mmmed.section import PositiveFloat, Section, later

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from mmmed.check.result import CheckResult
    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.manifest import Manifest
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder

_HOP = 0.032  # seconds from frame to frame


class AudioData(Section):
    """Which column holds sounds, and how they are read."""

    audio: str = later("", description='column: sound (WAV, FLAC) below the source folder; "" for no sounds')
    audio_rate: int = later(
        4000,
        ge=1000,
        le=48_000,
        description="samples a second that sounds are brought to; 4,000 hold a stethoscope's",
    )
    audio_seconds: PositiveFloat = later(
        10.0,
        le=300,
        description="of a sound that are read: the middle of a longer one, a shorter one is masked",
    )
    audio_mels: int = later(32, ge=8, le=128, description="bands of the log-mel spectrogram")

    @model_validator(mode="after")
    def _audio_mels(self) -> AudioData:
        most = round(_HOP * self.audio_rate) // 2  # more would be narrower than what a window can tell apart
        if self.audio_mels > most:
            raise ValueError(
                f"audio_mels is {self.audio_mels}, but at audio_rate = {self.audio_rate} there are {most} at most: "
                "lower it, or raise the rate"
            )
        return self


class AudioModel(Section):
    """The encoder of sounds."""

    audio: Literal["cnn", "transformer"] = later(
        "cnn",
        description="2D CNN with GroupNorm over the log-mel spectrogram, or a transformer over spans of it",
    )
    audio_width: int = later(
        16,
        ge=8,
        le=64,
        multiple_of=8,
        description="channels of its first stage; a token is four times as wide",
    )


@dataclass(frozen=True)
class AudioForm:
    """Log-mel spectrograms in the cache; see `mmmed.data.sound.log_mel`."""

    VERSION: ClassVar[int] = 1  # raise it whenever `build` gives other values

    rate: int
    mels: int
    frames: int

    @property
    def name(self) -> str:
        return f"audio-v{self.VERSION}-{self.rate}hz-{self.mels}x{self.frames}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.mels, self.frames

    def build(self, path: Path) -> np.ndarray:
        """(mels, frames) float32, a stored recording. Raises `DataError` as `read_sound`."""
        from mmmed.data.sound import log_mel

        return log_mel(path, rate=self.rate, hop=round(_HOP * self.rate), mels=self.mels, frames=self.frames)


class Audio(Recordings):
    """WAV or FLAC; log-mel (R, mels, frames), a token for every 8 frames (0.26 s)."""

    name = "audio"
    plural = "sounds"
    data_keys = AudioData
    model_keys = AudioModel
    column_keys = ("audio",)
    span = 8

    def form(self, data: DataConfig) -> AudioForm:
        keys = data.of(AudioData)
        spans = math.ceil(keys.audio_seconds / (self.span * _HOP))
        return AudioForm(keys.audio_rate, keys.audio_mels, self.span * spans)

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        _require_reader()
        return super().open(manifest, config, cache)

    def asked(self, cells: Mapping[str, str], config: RunConfig) -> Stored:
        _require_reader()
        return super().asked(cells, config)

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        _require_reader()
        return super().make_up(config, total, rng)

    def step(self, data: DataConfig) -> float:
        rate = data.of(AudioData).audio_rate
        return round(_HOP * rate) / rate

    def louder(self, values: torch.Tensor, uniform: float) -> torch.Tensor:
        """By up to 10 dB either way."""
        moved = values + (2 * uniform - 1) / 8  # of the 80 dB that [0, 1] is
        return moved.clamp(1e-3, 1) * (values > 0)

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.recording import PatchTransformer, SpectrogramCNN

        keys, form = config.model.of(AudioModel), self.form(config.data)
        width = 4 * keys.audio_width
        if keys.audio == "cnn":
            return SpectrogramCNN(form.mels, self.span, width)
        return PatchTransformer(*form.shape, self.span, width)

    def label(self, model: ModelConfig) -> str:
        return f"audio-{model.of(AudioModel).audio}"

    def in_words(self, model: ModelConfig) -> str:
        return f"{model.of(AudioModel).audio} for sounds"

    def measure(
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        """Describe sounds, also those that the table has and the run does not read."""
        from mmmed.check.recordings import files_of, measure_sounds

        used = bool(data.of(AudioData).audio)
        measure_sounds(records[self.name] if used else files_of(table, self.name), root, used, result)


def _require_reader() -> None:
    from mmmed.extras import require

    require("ingest", "data.audio")
