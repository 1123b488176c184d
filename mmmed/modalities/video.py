"""Clips: cine loops of ultrasound or angiography, endoscopy, any file of many frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mmmed.modalities.columns import Files
from mmmed.section import Section, later

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mmmed.check.result import CheckResult
    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.models.multimodal import Encoder


class VideoData(Section):
    """Which column holds clips, and how they are read."""

    video: str = later(
        "",
        description='column: clip (DICOM of many frames, TIFF, GIF) below the source folder; "" for no clips',
    )
    video_frames: int = later(
        8, ge=2, le=64, description="frames that are read, at equal distances over the whole clip"
    )
    video_size: int = later(64, ge=16, le=512, description="pixels a side of a frame after resizing")
    video_channels: Literal[1, 3] = later(1, description="1 for gray, 3 for colour (Doppler, endoscopy)")


class VideoModel(Section):
    """The encoder of clips."""

    video: Literal["resnet10", "resnet18"] = later(
        "resnet10", description="CNN that reads each frame; layers of attention over time follow"
    )
    video_width: int = later(16, ge=8, le=64, description="channels of the first stage of the CNN")


@dataclass(frozen=True)
class VideoForm:
    """Clips of so many `frames` in the cache; see `mmmed.data.video.read_clip`."""

    VERSION: ClassVar[int] = 1  # raise it whenever `build` gives other values

    frames: int
    size: int
    channels: Literal[1, 3]

    @property
    def name(self) -> str:
        return f"video-v{self.VERSION}-{self.channels}x{self.frames}x{self.size}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.frames, self.size, self.size

    def build(self, path: Path) -> np.ndarray:
        """(channels, frames, size, size) float32 in [0, 1]. Raises `DataError` as `read_clip`."""
        from mmmed.data.video import read_clip

        return read_clip(path, frames=self.frames, channels=self.channels, size=self.size)


class Video(Files):
    """DICOM, TIFF or GIF of many frames; (R, channels, frames, size, size) float32 in [0, 1], a token a frame."""

    name = "video"
    plural = "clips"
    together = 4
    windows = 6
    shown = "clip"
    data_keys = VideoData
    model_keys = VideoModel
    column_keys = ("video",)

    def form(self, data: DataConfig) -> VideoForm:
        keys = data.of(VideoData)
        return VideoForm(keys.video_frames, keys.video_size, keys.video_channels)

    def view(self, given: Input, uniforms: np.ndarray) -> Input:
        """As of an image, all frames of a clip alike: what moves in it does so by itself."""
        from mmmed.data.augment import view

        planes = replace(given, values=given.values.flatten(1, 2))
        return replace(given, values=view(planes, uniforms).values.view_as(given.values))

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.video import VideoEncoder

        keys = config.data.of(VideoData)
        return VideoEncoder(
            config.model.of(VideoModel), keys.video_frames, keys.video_channels, keys.video_size
        )

    def label(self, model: ModelConfig) -> str:
        return f"video-{model.of(VideoModel).video}"

    def in_words(self, model: ModelConfig) -> str:
        return f"{model.of(VideoModel).video} and attention over time for clips"

    def measure(
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        """Describe clips, also those that the table has and the run does not read."""
        from mmmed.check.recordings import files_of, measure_clips

        used = bool(data.of(VideoData).video)
        measure_clips(records[self.name] if used else files_of(table, self.name), root, used, result)
