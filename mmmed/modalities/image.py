"""Images: films, slices and photographs, a file each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmmed.modalities.columns import Files
from mmmed.section import Section

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mmmed.check.result import CheckResult
    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.models.multimodal import Encoder


class ImageData(Section):
    """Which column holds images, and how they are read."""

    image: str = Field("image", description='column: image file below the source folder; "" for no images')
    image_size: int = Field(64, ge=16, le=1024, description="pixels a side after resizing")
    image_channels: Literal[1, 3] = Field(1, description="1 for films, 3 for colour")


class ImageModel(Section):
    """The encoder of images."""

    image: Literal[
        "resnet10", "resnet18", "resnet50", "vgg16", "densenet121", "efficientnet-b0", "efficientnet-lite0",
        "convnext-tiny", "vit-tiny", "swin-tiny",
    ] = Field(
        "resnet10",
        description='CNN, built with GroupNorm, or transformer; or "efficientnet-lite0", pretrained on ImageNet '
        "(extra `pretrained`)",
    )  # fmt: skip
    image_width: int = Field(
        16,
        ge=8,
        le=64,
        description="channels of the first stage of a ResNet or VGG (64 is the standard); of the others but DenseNet "
        "and EfficientNet in proportion, the tiny models at 64",
    )
    image_weights: str = Field("", description="local file, or MONAI bundle, of pretrained image weights")
    image_scaling: Literal["unit", "imagenet"] = Field(
        "unit", description="pixels that image_weights expect: [0, 1], or standardised as torchvision's"
    )


@dataclass(frozen=True)
class ImageForm:
    """Images of `size` pixels a side in the cache."""

    VERSION: ClassVar[int] = 1  # raise it whenever `build` gives other values

    size: int
    channels: Literal[1, 3]

    @property
    def name(self) -> str:
        return f"v{self.VERSION}-{self.channels}x{self.size}x{self.size}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def build(self, path: Path) -> np.ndarray:
        """(channels, size, size) float32 in [0, 1]. Raises `DataError` as `read_image`."""
        from mmmed.data.image import preprocess, read_image

        return preprocess(read_image(path, channels=self.channels), self.size)


class Image(Files):
    """DICOM, PNG, JPEG or TIFF; (R, channels, size, size) float32 in [0, 1], bright is large."""

    name = "image"
    plural = "images"
    data_keys = ImageData
    model_keys = ImageModel
    column_keys = ("image",)
    pretrained = "model.image = 'efficientnet-lite0'"

    def form(self, data: DataConfig) -> ImageForm:
        keys = data.of(ImageData)
        return ImageForm(keys.image_size, keys.image_channels)

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.image import build_image_encoder

        keys = config.data.of(ImageData)
        return build_image_encoder(config.model, keys.image_channels, keys.image_size)

    def from_scratch(self, model: ModelConfig) -> bool:
        keys = model.of(ImageModel)
        return keys.image != "efficientnet-lite0" and not keys.image_weights

    def given(self, model: ModelConfig) -> str:
        keys = model.of(ImageModel)
        weights = f", model.image_weights = {keys.image_weights!r}" if keys.image_weights else ""
        return f"model.image = {keys.image!r}{weights}"

    def label(self, model: ModelConfig) -> str:
        keys = model.of(ImageModel)
        return f"{keys.image}:{keys.image_weights}" if keys.image_weights else keys.image

    def in_words(self, model: ModelConfig) -> str:
        return f"{model.of(ImageModel).image} for images"

    def measure(
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        from mmmed.check.measures import measure_images

        measure_images(records, root, data, result)
