"""Several images of a study, a file each: frontal and lateral, the views of a breast, photographs of a wound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from mmmed.modalities.base import Reading
from mmmed.modalities.columns import Files
from mmmed.modalities.image import Image, ImageData, ImageForm
from mmmed.section import Section, later

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd

    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.data.manifest import Manifest
    from mmmed.data.parts import Parts
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder

_IMAGE = Image()


class ViewsData(Section):
    """Which columns hold the images of a study."""

    views: tuple[str, ...] = later(
        (),
        max_length=16,
        description="columns: images of one study, one a view, any of which may be missing; read as data.image is",
    )

    @field_validator("views")
    @classmethod
    def _views(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if not all(views) or len(set(views)) < len(views):
            raise ValueError(f"views must be names of columns, each once. Found {list(views)}")
        return views


class ViewsModel(Section):
    """The encoder of views has the keys of that of images: `image`, `image_width`, `image_weights`, `image_scaling`."""


class Views(Files):
    """(R, channels, V, size, size) float32 in [0, 1], a flag and a token a view."""

    name = "views"
    plural = "views"
    together = 8
    shown = "views"
    data_keys = ViewsData
    model_keys = ViewsModel
    column_keys = ("views",)
    pretrained = Image.pretrained

    def form(self, data: DataConfig) -> ImageForm:
        """Of one view; equal to that of `image`, so that both share a cache."""
        return _IMAGE.form(data)

    def fields(self, data: DataConfig) -> list[str]:
        return [f"{self.name}.{number}" for number in range(len(data.of(ViewsData).views))]

    def read(self, frame: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        import pandas as pd

        from mmmed.data.cells import text_of

        columns = zip(self.fields(data), data.of(ViewsData).views, strict=True)
        return pd.DataFrame({field: frame[column].map(text_of) for field, column in columns}, frame.index)

    def has(self, records: pd.DataFrame, data: DataConfig) -> pd.Series:
        return (records[self.fields(data)] != "").any(axis=1)

    def check(self, records: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        for field, column in zip(self.fields(data), data.of(ViewsData).views, strict=True):
            records = records.assign(**{field: self.usable(records[field], column, reading)})
        if not self.has(records, data).any():
            reading.problem(
                f"{reading.path}: columns {list(data.of(ViewsData).views)} are empty in every row: no views anywhere. "
                "Name other columns, or leave out data.views"
            )
        return records

    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        from dataclasses import replace

        records = manifest.records
        each = [
            _IMAGE.open(replace(manifest, records=records.assign(image=records[field])), config, cache)
            for field in self.fields(config.data)
        ]
        return _side_by_side(each)

    def asked(self, cells: Mapping[str, str], config: RunConfig) -> Stored:
        columns = config.data.of(ViewsData).views
        return _side_by_side([self.asked_file(cells.get(column, ""), config) for column in columns])

    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        each = [_IMAGE.make_up(config, total, rng) for _ in config.data.of(ViewsData).views]
        return _side_by_side(each)

    def view(self, given: Input, uniforms: np.ndarray) -> Input:
        """As of an image, all views of a record alike."""
        from dataclasses import replace

        from mmmed.data.augment import view
        from mmmed.data.batch import Input

        planes = Input(given.values.flatten(1, 2), given.present.any(1, keepdim=True))
        moved = view(planes, uniforms).values.view_as(given.values)
        return replace(given, values=moved * given.present[:, None, :, None, None])

    def parts(self, given: Input, cells: Mapping[str, str], config: RunConfig) -> Parts:
        """Places of one view at a time."""
        import torch

        from mmmed.data.parts import Parts, faded, hats

        values = given.values[0]
        windows = (torch.eye(values.shape[1]), *(hats(length, self.windows) for length in values.shape[2:]))
        without = faded(values, torch.zeros_like(values), windows, given.present)
        return Parts(self.shown, without, windows=windows, plain=values.mean(0).numpy())

    def watched(self, given: Input, data: DataConfig) -> list[dict[str, float | str]]:
        from mmmed.data.batch import Input

        return super().watched(Input(given.values.transpose(1, 2), given.present), data)

    def encoder(self, config: RunConfig) -> Encoder:
        from mmmed.models.image import build_image_encoder
        from mmmed.models.views import ViewsEncoder

        keys = config.data.of(ImageData)
        trunk = build_image_encoder(config.model, keys.image_channels, keys.image_size)
        return ViewsEncoder(trunk, len(config.data.of(ViewsData).views))

    def from_scratch(self, model: ModelConfig) -> bool:
        return _IMAGE.from_scratch(model)

    def given(self, model: ModelConfig) -> str:
        return _IMAGE.given(model)

    def label(self, model: ModelConfig) -> str:
        return f"views-{_IMAGE.label(model)}"

    def in_words(self, model: ModelConfig) -> str:
        return f"{_IMAGE.in_words(model).removesuffix(' for images')} for several views"

    def facts(self, records: pd.DataFrame) -> dict[str, pd.Series]:
        fields = [column for column in records if str(column).startswith(f"{self.name}.")]
        return {f"has_{field}": (records[field] != "").astype(float) for field in fields}


def _side_by_side(each: list[Stored]) -> Stored:
    """Views of the same records as one."""
    import torch

    from mmmed.data.stored import SideBySide, Stored

    return Stored(SideBySide([one.values for one in each]), torch.cat([one.present for one in each], dim=1))
