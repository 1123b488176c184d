"""From a clip to a token a frame: a CNN reads each frame, layers of attention put them in time."""

from __future__ import annotations

import torch

from mmmed.data.batch import Input
from mmmed.modalities.image import ImageModel
from mmmed.modalities.video import VideoModel
from mmmed.models.image import group_norm_throughout
from mmmed.models.recording import OverTime


class VideoEncoder(OverTime):
    """Clips (R, channels, frames, H, W) in [0, 1] -> (R, frames, width).

    As ViViT's factorised encoder (Arnab et al. 2021, arXiv 2103.15691, model 2): first within a frame, here by a CNN,
    whose feature map is averaged, then over time.
    """

    def __init__(self, keys: VideoModel, frames: int, channels: int, size: int) -> None:
        from mmmed.models.trunks import image_trunk  # MONAI, which is slow to import, only where it is used

        super().__init__()
        trunk = ImageModel(image=keys.video, image_width=keys.video_width)
        self.trunk, self.width = image_trunk(trunk, channels, size)
        group_norm_throughout(self.trunk)
        self.add_layers(frames, self.width)

    def forward(self, given: Input) -> torch.Tensor:
        frames = given.values.transpose(1, 2)  # [r, t, c, h, w]
        features = self.trunk(frames.flatten(0, 1)).mean((2, 3))  # [r t, width]
        tokens = features.unflatten(0, frames.shape[:2])
        return self.attend(tokens, given.present.expand(-1, tokens.shape[1]))
