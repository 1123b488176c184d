"""What a record can consist of: each modality of a site's records, ready for random access.

A modality is a name, a way to keep its values (memory-mapped for files, in memory for what is small) and a
mask that says what of it each record has. `mmmed.models.build` has the encoder of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mmmed.config import DataConfig
from mmmed.data.approvals import Approvals
from mmmed.data.batch import Input
from mmmed.data.cache import Cache, Form
from mmmed.data.features import forget_features
from mmmed.data.image import ImageForm
from mmmed.data.manifest import Manifest, refuse
from mmmed.data.tabular import encode_table
from mmmed.data.volume import VolumeForm


class Rows(Protocol):
    """Tensors by number: (K,) int64 -> (K, ...). A tensor, or a part of the cache."""

    def __getitem__(self, rows: np.ndarray, /) -> torch.Tensor: ...


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used."""

    def __call__(
        self, text: list[str], *, padding: str, truncation: bool, max_length: int, return_tensors: str
    ) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Modality:
    """One modality of N records.

    Attributes:
        values: their values.
        present: (N, T) bool, see `Input`.
        fixed_views: 0 if training may make any view of a record when it is used; else how many views of each record
            `values` holds: row v N + i is view v of record i, and view 0 the record itself.
    """

    values: Rows
    present: torch.Tensor
    fixed_views: int = 0

    def __getitem__(self, rows: np.ndarray) -> Input:
        """The records `rows` (K,) int64."""
        return Input(self.values[rows], self.present[torch.from_numpy(rows)])

    def view(self, rows: np.ndarray, view: np.ndarray) -> Input:
        """View `view` (K,) int64 of the records `rows` (K,) int64, where views are fixed; else the records."""
        if self.fixed_views == 0:
            return self[rows]
        row = rows + view % self.fixed_views * len(self.present)
        return Input(self.values[row], self.present[torch.from_numpy(rows)])


def open_modalities(
    manifest: Manifest, data: DataConfig, tokenizer: Tokenizer | None, cache: Path
) -> dict[str, Modality]:
    """The modalities that the configuration names, of all records of `manifest`; files are preprocessed into `cache`.

    Images that were approved once and rejected later are erased from it, and all features beside it with them.

    Raises:
        DataError: the cache cannot be written; unreadable files, by `Manifest.problem`: where they are noted, the
            records lack them.
    """

    def cached(name: str, form: Form) -> Modality:
        paths = [manifest.root / file if file else None for file in manifest.records[name]]
        noted = None if manifest.problem is refuse else manifest.problem
        rows = Cache(cache).open(paths, form, problem=noted)
        return Modality(rows, torch.from_numpy(rows.present)[:, None])

    def image() -> Modality:
        form = ImageForm(data.image_size, data.image_channels)
        if Cache(cache).erase(form, Approvals.load(manifest.root).rejected()):
            forget_features(cache.with_name("features"))
        return cached("image", form)

    def text() -> Modality:
        if tokenizer is None:
            raise ValueError("notes need a tokenizer")
        texts = list(manifest.records["text"])
        encoded = tokenizer(
            texts, padding="max_length", truncation=True, max_length=data.text_tokens, return_tensors="pt"
        )
        written = torch.tensor([bool(text) for text in texts])[:, None]
        return Modality(encoded["input_ids"], encoded["attention_mask"].bool() & written)

    def volume() -> Modality:
        return cached("volume", VolumeForm(data.volume_size, data.volume_spacing, data.volume_window))

    def table() -> Modality:
        return Modality(*encode_table(manifest.records, data))

    openers: dict[str, Callable[[], Modality]] = {
        "image": image,
        "text": text,
        "volume": volume,
        "table": table,
    }
    return {name: openers[name]() for name in data.modalities}
