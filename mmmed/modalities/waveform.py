"""Waveforms: 12-lead ECGs, sets of EEG channels and the like, a file each."""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, dataclass
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
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_GAIN = 0.2


class WaveformData(Section):
    """Which column holds waveforms, and how they are read."""

    waveform: str = later(
        "", description='column: waveform (.npz of `mmmed site ingest`) below the source folder; "" for none'
    )
    waveform_leads: tuple[str, ...] = later(
        STANDARD_LEADS,
        description="names of the leads, in the order in which the encoder reads them",
        max_length=64,
    )
    waveform_fewest: int = later(
        0, ge=0, description="leads that a record must have; one it lacks is masked. 0 for half of them"
    )
    waveform_rate: int = later(
        100, ge=10, le=1000, description="samples a second that waveforms are brought to"
    )
    waveform_seconds: PositiveFloat = later(
        10.0,
        le=600,
        description="of a waveform that are read: the middle of a longer one, a shorter one is masked",
    )
    waveform_window: tuple[float, float] = later(
        (-2.0, 2.0),
        description="values that become 0 and 1, in mV for ECG and EEG (an EEG's are within 0.2 mV)",
    )
    waveform_band: tuple[float, ...] = later(
        (),
        description="Hz that are kept, such as [0.5, 40] against baseline wander and noise; [] filters nothing",
    )

    @model_validator(mode="after")
    def _waveform(self) -> WaveformData:
        leads = self.waveform_leads
        if not leads or not all(leads) or len({lead.casefold() for lead in leads}) < len(leads):
            raise ValueError(f"waveform_leads must be one or more names, each once. Found {list(leads)}")
        if self.waveform_fewest > len(leads):
            raise ValueError(
                f"waveform_fewest = {self.waveform_fewest}, but waveform_leads names {len(leads)}: lower it"
            )
        low, high = self.waveform_window
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"waveform_window must be [low, high]. Found {[low, high]}")
        band = self.waveform_band
        if band and not (len(band) == 2 and 0.01 <= band[0] < band[1] < math.inf):
            raise ValueError(
                f"waveform_band must be [low, high] in Hz, low 0.01 or more, or []. Found {list(band)}"
            )
        return self


class WaveformModel(Section):
    """The encoder of waveforms."""

    waveform: Literal["xresnet1d", "patch-transformer"] = later(
        "xresnet1d", description="1D ResNet with GroupNorm, or a transformer over spans of time"
    )
    waveform_width: int = later(
        16,
        ge=8,
        le=64,
        multiple_of=8,
        description="channels of its first stage; a token is four times as wide",
    )


@dataclass(frozen=True)
class WaveformForm:
    """Waveforms in the cache; see `mmmed.data.waveform.read_waveform`."""

    VERSION: ClassVar[int] = 1  # raise it whenever `build` gives other values

    leads: tuple[str, ...]
    fewest: int
    rate: int
    length: int
    window: tuple[float, float]
    band: tuple[float, ...]

    @property
    def name(self) -> str:
        options = hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:32]
        return f"waveform-v{self.VERSION}-{len(self.leads)}x{self.length}-{options}"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.leads), self.length

    def build(self, path: Path) -> np.ndarray:
        """(leads, length) float32, a stored recording. Raises `DataError` as `read_waveform`."""
        from mmmed.data.waveform import read_waveform

        return read_waveform(
            path, leads=self.leads, fewest=self.fewest, rate=self.rate, length=self.length, window=self.window,
            band=self.band,
        )  # fmt: skip


class Waveform(Recordings):
    """Leads (R, leads, samples), a token for every 32 samples (0.32 s at 100 Hz); a missing lead is masked."""

    name = "waveform"
    plural = "waveforms"
    data_keys = WaveformData
    model_keys = WaveformModel
    column_keys = ("waveform",)
    span = 32

    def form(self, data: DataConfig) -> WaveformForm:
        keys = data.of(WaveformData)
        spans = math.ceil(keys.waveform_seconds * keys.waveform_rate / self.span)
        return WaveformForm(
            keys.waveform_leads,
            keys.waveform_fewest or math.ceil(len(keys.waveform_leads) / 2),
            keys.waveform_rate,
            self.span * spans,
            keys.waveform_window,
            keys.waveform_band,
        )

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        """As of any recording; some of the leads are missing, but in the first."""
        import numpy as np
        import torch

        from mmmed.data.stored import Stored

        form, made = self.form(config.data), super().make_up(config, total, rng)
        leads = len(form.leads)
        had = rng.integers(form.fewest, leads + 1, (total, 1))
        had[:1] = leads
        values = made.values[np.arange(total)].clone()
        values[torch.from_numpy(rng.random((total, leads)).argsort(axis=1) >= had)] = 0
        return Stored(values, made.present)

    def step(self, data: DataConfig) -> float:
        return 1 / data.of(WaveformData).waveform_rate

    def louder(self, values: torch.Tensor, uniform: float) -> torch.Tensor:
        """Each lead's distances from its mean by up to a fifth larger or smaller."""
        mean = values.mean(1, keepdim=True)
        gain = 1 + _GAIN * (2 * uniform - 1)
        return (mean + gain * (values - mean)).clamp(1e-4, 1) * (values > 0)

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.recording import PatchTransformer, XResNet1d

        keys, shape = config.model.of(WaveformModel), self.form(config.data).shape
        width = 4 * keys.waveform_width
        if keys.waveform == "xresnet1d":
            return XResNet1d(shape[0], self.span, width)
        return PatchTransformer(*shape, self.span, width)

    def label(self, model: ModelConfig) -> str:
        return f"waveform-{model.of(WaveformModel).waveform}"

    def in_words(self, model: ModelConfig) -> str:
        return f"{model.of(WaveformModel).waveform} for waveforms"

    def measure(
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        """Describe waveforms, also those that the table has and the run does not read."""
        from mmmed.check.recordings import files_of, measure_waveforms

        used = bool(data.of(WaveformData).waveform)
        measure_waveforms(records[self.name] if used else files_of(table, self.name), root, used, result)
