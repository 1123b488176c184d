"""Records that are made up, shaped as a run's: for whatever is tried before a patient's record is read.

They are never written: a file's row is drawn anew from its own number whenever it is asked for, so that volumes take no
more memory than the batch that they are in. The same configuration and seed give the same records everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from mmmed.config import DataConfig, RunConfig
from mmmed.data.image import ImageForm
from mmmed.data.loader import Records
from mmmed.data.modalities import Modality, Tokenizer
from mmmed.data.tabular import PREFIX, encode_table
from mmmed.data.volume import VolumeForm

_MISSING = 0.125  # share of what a record could have and lacks
_WORDS = ("no", "the", "a", "is", "and", "with", "of", "lesion", "left", "right", "small", "large")


class Vocabulary(Tokenizer, Protocol):
    """A tokenizer whose tokens can be listed: any of transformers'."""

    @property
    def all_special_ids(self) -> list[int]: ...

    @property
    def pad_token_id(self) -> int: ...

    def get_vocab(self) -> dict[str, int]: ...


class _MadeUpFiles:
    """Rows of (*shape) float32 in [0, 1] as a file's cache gives them, each of its own contrast; zeros where absent."""

    def __init__(self, shape: tuple[int, ...], present: np.ndarray, seed: int) -> None:
        self._shape, self._present, self._seed = shape, present, seed

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        values = np.zeros((len(rows), *self._shape), dtype=np.float32)
        for value, row in zip(values, rows, strict=True):
            if self._present[row]:
                rng = np.random.default_rng((self._seed, int(row)))
                low, high = rng.random(2, dtype=np.float32)
                value[...] = low + (high - low) * rng.random(self._shape, dtype=np.float32)
        return torch.from_numpy(values)


def made_up_records(
    config: RunConfig, tokenizer: Vocabulary | None, patients: int, *, seed: int = 0
) -> Records:
    """Records of so many patients, of every modality that `config` names, for training.

    Patients have one record up to one more than a batch takes of them, and every label is there. The first record has
    everything, its note is as long as a note can be and holds every special token and the one of the highest number;
    the second lacks everything; the others lack this or that.

    Args:
        config: the run's.
        tokenizer: the model's; None for a run without notes.
        patients: how many, 1 or more.
        seed: public; another one makes other records.

    Raises:
        ValueError: the tokenizer cannot pad a note.
    """
    counts = [1 + patient % (config.training.records_per_patient + 1) for patient in range(patients)]
    owner = np.repeat(np.arange(patients), counts)
    total, data, rng = len(owner), config.data, np.random.default_rng(seed)

    def there() -> np.ndarray:
        """(N,) bool."""
        there = rng.random(total) >= _MISSING
        there[:1], there[1:2] = True, False
        return there

    def file(shape: tuple[int, ...]) -> Modality:
        present = there()
        rows = _MadeUpFiles(shape, present, int(rng.integers(1 << 32)))
        return Modality(rows, torch.from_numpy(present)[:, None])

    def text() -> Modality:
        if tokenizer is None:
            raise ValueError("notes need a tokenizer")
        return _notes(there(), data.text_tokens, tokenizer, rng)

    make: dict[str, Callable[[], Modality]] = {
        "image": lambda: file(ImageForm(data.image_size, data.image_channels).shape),
        "text": text,
        "volume": lambda: file(VolumeForm(data.volume_size, data.volume_spacing, data.volume_window).shape),
        "table": lambda: _table(total, data, rng),
    }
    return Records(
        modalities={name: make[name]() for name in data.modalities},
        label=torch.arange(total) % len(config.task.classes),
        patient=owner,
        names=tuple(map(str, range(patients))),
        rows=np.arange(total),
    )


def _notes(there: np.ndarray, length: int, tokenizer: Vocabulary, rng: np.random.Generator) -> Modality:
    words = [" ".join(rng.choice(_WORDS, rng.integers(1, length + 1))) for _ in there]
    notes = [note if present else "" for note, present in zip(words, there, strict=True)]
    encoded = tokenizer(notes, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    tokens, mask = encoded["input_ids"], encoded["attention_mask"].bool() & torch.from_numpy(there)[:, None]
    known = np.array(sorted(tokenizer.get_vocab().values()))
    rare = [*(token for token in tokenizer.all_special_ids if token != tokenizer.pad_token_id), known[-1]]
    longest = np.concatenate([rare, rng.choice(known, length)])[:length]
    tokens[0], mask[0] = (
        torch.from_numpy(np.where(longest == tokenizer.pad_token_id, known[-1], longest)),
        True,
    )
    return Modality(tokens, mask)


def _table(total: int, data: DataConfig, rng: np.random.Generator) -> Modality:
    """Numbers in their ranges and beyond, one of them absurd, and every category."""
    columns: dict[str, Any] = {}
    for name, (low, high) in data.numbers.items():
        columns[name] = low + (high - low) * rng.uniform(-0.5, 1.5, total)
        columns[name][2:3] = high + 1e9 * (high - low)
    for name, values in data.categories.items():
        columns[name] = rng.permutation(np.arange(total) % len(values)).astype(np.float64)
    for column in columns.values():
        lacking = rng.random(total) < _MISSING
        lacking[:1], lacking[1:2] = False, True
        column[lacking] = np.nan
    return Modality(*encode_table(pd.DataFrame(columns).add_prefix(PREFIX), data))
