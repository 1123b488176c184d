"""A toy modality, as somebody outside the project would write it: a signal of two samples, a column each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from mmmed.modalities.base import Modality, Reading
from mmmed.section import Positive, Section

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.data.manifest import Manifest
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder

SAMPLES = ["signal.0", "signal.1"]  # columns of the manifest


class SignalData(Section):
    signal: tuple[str, ...] = Field((), max_length=2, description="columns: the two samples of a signal")


class SignalModel(Section):
    signal_width: Positive = Field(8, description="width of a signal's token")


class Signal(Modality):
    """Both samples (R, 2) float32, or neither."""

    name = "signal"
    plural = "signals"
    data_keys = SignalData
    model_keys = SignalModel
    column_keys = ("signal",)
    viewed = True
    is_values = True

    def read(self, frame: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        import pandas as pd

        from mmmed.data.cells import rows_of, text_of

        read = pd.DataFrame(index=frame.index, columns=SAMPLES, dtype="float64")
        for sample, column in zip(SAMPLES, data.of(SignalData).signal, strict=False):
            texts = frame[column].map(text_of)
            read[sample] = pd.to_numeric(texts, errors="coerce")
            if (bad := read[sample].isna() & (texts != "")).any():
                reading.problem(f"{reading.path}: column '{column}' holds no number in {rows_of(bad)}")
        return read

    def has(self, records: pd.DataFrame, data: DataConfig) -> pd.Series:
        return records[SAMPLES].notna().all(axis=1)

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        present = self.has(manifest.records, config.data).to_numpy(copy=True)
        return _stored(manifest.records[SAMPLES].to_numpy(), present)

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        from mmmed.data.stored import some

        present = some(total, rng)
        return _stored(rng.normal(size=(total, 2)), present)

    def view(self, given: Input, uniforms: np.ndarray) -> Input:
        """Louder or softer by up to a tenth."""
        import torch

        gain = torch.from_numpy(0.9 + 0.2 * uniforms[:, :1]).to(given.values.dtype)
        return replace(given, values=given.values * gain)

    def encoder(self, config: RunConfig) -> Encoder:
        from tests.contracts.signal_encoder import SignalEncoder

        return SignalEncoder(config.model.of(SignalModel).signal_width)

    def label(self, model: ModelConfig) -> str:
        return f"signal{model.of(SignalModel).signal_width}"

    def in_words(self, model: ModelConfig) -> str:
        return "one layer for signals"


def _stored(samples: np.ndarray, present: np.ndarray) -> Stored:
    import numpy as np
    import torch

    from mmmed.data.stored import Stored

    values = np.where(present[:, None], samples, 0).astype(np.float32)
    return Stored(torch.from_numpy(values), torch.from_numpy(present)[:, None])
