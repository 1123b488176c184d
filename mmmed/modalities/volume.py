"""CT and MR volumes, a file each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mmmed.modalities.columns import Files
from mmmed.section import Section, later

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mmmed.check.result import CheckResult
    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.models.multimodal import Encoder


class VolumeData(Section):
    """Which column holds volumes, and how they are read."""

    volume: str = Field(
        "", description='column: CT or MR volume (NIfTI) below the source folder; "" for no volumes'
    )
    volume_size: int = Field(48, ge=16, le=256, description="voxels a side of the cube that volumes become")
    volume_spacing: float = Field(
        0.0, ge=0, allow_inf_nan=False,
        description="mm from voxel to voxel, the middle of a larger volume is kept; 0 fits all of each volume",
    )  # fmt: skip
    volume_window: tuple[float, ...] = Field(
        (),
        description="values that become 0 and 1, such as [-1000, 400] HU; [] takes each volume's own range",
    )

    @model_validator(mode="after")
    def _volume_window(self) -> VolumeData:
        window = self.volume_window
        if window and not (len(window) == 2 and -math.inf < window[0] < window[1] < math.inf):
            raise ValueError(f"volume_window must be [low, high] or []. Found {list(window)}")
        return self


class VolumeModel(Section):
    """The encoder of volumes."""

    volume: Literal["resnet10", "resnet18", "densenet121", "swin-unetr"] = Field(
        "resnet10", description="MONAI 3D CNN, built with GroupNorm, or SwinUNETR's encoder"
    )
    volume_width: int = Field(
        16, ge=8, le=64, description="channels of its first stage; of swin-unetr 48 at 64, its standard"
    )
    volume_weights: str = later("", description="local file, or MONAI bundle, of pretrained 3D weights")


@dataclass(frozen=True)
class VolumeForm:
    """Volumes of `size` voxels a side in the cache; see `mmmed.data.volume.read_volume`."""

    VERSION: ClassVar[int] = 1  # raise it whenever `build` gives other values

    size: int
    spacing: float
    window: tuple[float, ...]

    @property
    def name(self) -> str:
        scale = "_".join(map(repr, self.window)) or "robust"
        return f"volume-v{self.VERSION}-{self.size}-{self.spacing!r}mm-{scale}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *[self.size] * 3)

    def build(self, path: Path) -> np.ndarray:
        """(1, size, size, size) float32 in [0, 1]. Raises `DataError` as `read_volume`."""
        from mmmed.data.volume import read_volume

        return read_volume(path, size=self.size, spacing=self.spacing, window=self.window)


class Volume(Files):
    """NIfTI; (R, 1, size, size, size) float32 in [0, 1], axes run to superior, anterior, right."""

    name = "volume"
    plural = "volumes"
    together = 4
    windows = 6
    data_keys = VolumeData
    model_keys = VolumeModel
    column_keys = ("volume",)

    def form(self, data: DataConfig) -> VolumeForm:
        keys = data.of(VolumeData)
        return VolumeForm(keys.volume_size, keys.volume_spacing, keys.volume_window)

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.image import build_volume_encoder

        return build_volume_encoder(config.model, config.data.of(VolumeData).volume_size)

    def from_scratch(self, model: ModelConfig) -> bool:
        return not model.of(VolumeModel).volume_weights

    def given(self, model: ModelConfig) -> str:
        keys = model.of(VolumeModel)
        weights = f", model.volume_weights = {keys.volume_weights!r}" if keys.volume_weights else ""
        return f"model.volume = {keys.volume!r}{weights}"

    def label(self, model: ModelConfig) -> str:
        keys = model.of(VolumeModel)
        return f"3d-{keys.volume}:{keys.volume_weights}" if keys.volume_weights else f"3d-{keys.volume}"

    def in_words(self, model: ModelConfig) -> str:
        return f"3D {model.of(VolumeModel).volume} for volumes"

    def measure(
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        """Describe volumes, also those that the table has and the run does not read."""
        from mmmed.check.recordings import files_of, measure_volumes

        files = records[self.name] if self.has(records, data).any() else files_of(table, self.name)
        measure_volumes(files, root, bool(data.of(VolumeData).volume), result)
