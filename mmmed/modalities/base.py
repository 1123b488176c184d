"""What the rest of the code asks of a modality.

In the shapes N are records of a site, R those of a batch, T flags of one record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mmmed.section import Section

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mmmed.check.result import CheckResult
    from mmmed.config import DataConfig, ModelConfig, RunConfig
    from mmmed.data.batch import Input
    from mmmed.data.manifest import Manifest
    from mmmed.data.parts import Parts
    from mmmed.data.stored import Stored
    from mmmed.models.multimodal import Encoder


@dataclass(frozen=True)
class Reading:
    """How a site's table is read.

    Attributes:
        root: the data folder.
        path: of the table, which messages name.
        problem: told of rows that do not fit; it raises, or they have the value missing.
    """

    root: Path
    path: Path
    problem: Callable[[str], None]


class Modality(ABC):
    """One modality.

    Attributes:
        name: in a batch, in the registry and in messages; the encoder's in the model.
        plural: what many of them are called in a message.
        data_keys: its keys of ``[data]``; methods read them through `Composed.of`.
        model_keys: its keys of ``[model]``, read in the same way.
        column_keys: those of `data_keys` that name the columns of a site's table that it is read from: a text, a list
            or a table by column. A run in which all are empty does not have the modality.
        together: how many records' activations training may hold at once. Private steps are filled up to it.
        viewed: whether training may see other views of a record, made by `view`.
        pictured: whether it is pictures, of which each value may be anything in [0, 1]; `training.adversarial` changes
            those.
        adapters: whether ``trainable = "lora"`` adapts its encoder.
        joins_fusion: whether its encoder is a layer that nobody has trained before, which counts as the fusion's
            in ``trainable = "fusion-head"`` and ``"lora"``.
        pretrained: a setting that gives its encoder weights that were learnt elsewhere, "" if there is none.
        is_values: whether its columns hold values that ``mmmed site check`` describes as those of any other column.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    data_keys: ClassVar[type[Section]]
    model_keys: ClassVar[type[Section]]
    column_keys: ClassVar[tuple[str, ...]]
    together: ClassVar[int] = 32
    viewed: ClassVar[bool] = False
    pictured: ClassVar[bool] = False
    adapters: ClassVar[bool] = False
    joins_fusion: ClassVar[bool] = False
    pretrained: ClassVar[str] = ""
    is_values: ClassVar[bool] = False

    # ---------------------------------------------------------------- columns of a site's table

    def columns(self, data: DataConfig) -> dict[str, str]:
        """The columns of a site's table that the modality is read from, each with the key that names it."""
        found: dict[str, str] = {}
        for key in self.column_keys:
            named = getattr(data, key)
            names = [named] if isinstance(named, str) else named
            found |= {name: f"data.{key}" for name in names if name}
        return found

    @abstractmethod
    def read(self, frame: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        """Its columns of `Manifest.records`; of a run without the modality, too.

        Args:
            frame: rows of the site's table, which has all of `columns`; N of them.
            data: the run's.
            reading: told of cells that do not fit, which are missing then.

        Returns:
            N rows with the index of `frame`. The names of the columns begin with the modality's.
        """

    @abstractmethod
    def has(self, records: pd.DataFrame, data: DataConfig) -> pd.Series:
        """(N,) bool, whether each of `Manifest.records` has anything of the modality."""

    def check(self, records: pd.DataFrame, data: DataConfig, reading: Reading) -> pd.DataFrame:
        """Check the records of a run that has the modality; returns them, what cannot be used missing."""
        if not self.has(records, data).any():
            columns = self.columns(data)
            keys = " and ".join(dict.fromkeys(columns.values()))
            reading.problem(
                f"{reading.path}: columns {list(columns)} are empty in every row: no {self.plural} anywhere. "
                f"Name other columns, or leave out {keys}"
            )
        return records

    # ---------------------------------------------------------------- what the encoder reads

    @abstractmethod
    def open(self, manifest: Manifest, config: RunConfig, cache: Path) -> Stored:
        """What its encoder reads of all records of a site.

        Raises:
            DataError: the cache cannot be written; or unreadable files, by `Manifest.problem`.
            ModelError: what its encoder needs to read it is not on this machine.
        """

    def asked(self, cells: Mapping[str, str], config: RunConfig) -> Stored:
        """What `open` gives of a table of one record, that of a study which a trained model is asked about.

        Here by way of such a table. Where that costs more than the model itself, the same is had of the cells alone.

        Args:
            cells: by column what is known, as text; of a file its path.
            config: the model's.

        Raises:
            DataError: a cell that does not fit, or a file that cannot be read; the message begins with its name.
            ModelError: see `open`.
        """
        from mmmed.data.one_row import asked

        return asked(self, cells, config)

    @abstractmethod
    def make_up(self, config: RunConfig, total: int, rng: np.random.Generator) -> Stored:
        """The same of records that are made up.

        Args:
            config: the run's.
            total: records. The first has everything, as large as it may be, and the second nothing; the others lack
                this or that (`mmmed.data.stored.some`).
            rng: public.
        """

    def view(self, given: Input, uniforms: np.ndarray) -> Input:
        """Other views of R records of a modality that is `viewed`, each by float64 [9 or more] in [0, 1) of its own.

        What another view is, is of one version for all modalities: `mmmed.data.augment.VERSION`.
        """
        from mmmed.data.augment import view

        return view(given, uniforms)

    # ---------------------------------------------------------------- explanation

    def parts(self, given: Input, cells: Mapping[str, str], config: RunConfig) -> Parts | None:
        """One study's taken apart, so that it can be told what each part did; None if it has no parts to tell of.

        Args:
            given: what `open` gives of the study, one record that has something of it.
            cells: what stands in the table's columns of the study, by their names; of a file its path.
            config: the model's.
        """
        return None

    # ---------------------------------------------------------------- watch

    def watched(self, given: Input, data: DataConfig) -> list[dict[str, float | str]]:
        """R records' numbers and categories by name, whose drift is watched; none of a record that lacks it.

        Here the mean and the spread of the values that are present, or of tokens their number.
        """
        found: list[dict[str, float | str]] = []
        for values, present in zip(given.values, given.present, strict=True):
            if not present.any():
                found.append({})
            elif values.is_floating_point():
                several = values.ndim > 2 and len(values) == len(present)  # images of one study
                there = (values[present] if several else values).double()
                mean, spread = float(there.mean()), float(there.std(correction=0))
                found.append({f"{self.name} mean": mean, f"{self.name} spread": spread})
            else:
                found.append({f"{self.name} tokens": float(present.sum())})
        return found

    # ---------------------------------------------------------------- encoder

    @abstractmethod
    def encoder(self, config: RunConfig) -> Encoder:
        """A module from what `open` gives to feature tokens. Its parameters are drawn from torch's random state.

        Raises:
            ModelError: its weights cannot be had here.
        """

    def from_scratch(self, model: ModelConfig) -> bool:
        """Whether the encoder starts from random parameters rather than from pretrained ones."""
        return True

    def given(self, model: ModelConfig) -> str:
        """The keys that say what its encoder takes from the machine's disk, and their values; "" if there are none."""
        return ""

    def further_digests(self, config: RunConfig) -> dict[str, str]:
        """Digests, by name, of what the encoder needs beside its parameters, such as a tokenizer."""
        return {}

    # ---------------------------------------------------------------- words

    def label(self, model: ModelConfig) -> str:
        """The encoder in the name by which a site's policy allows a model. No two modalities may share a label."""
        return self.name

    @abstractmethod
    def in_words(self, model: ModelConfig) -> str:
        """The encoder as a report names it, such as "resnet10 for images"."""

    # ---------------------------------------------------------------- check of a data set

    def facts(self, records: pd.DataFrame) -> dict[str, pd.Series]:
        """Facts of each record without medical meaning, (N,) each: to learn the label from them is a shortcut."""
        return {}

    def measure(  # noqa: B027 - most have nothing to add
        self, records: pd.DataFrame, table: pd.DataFrame, root: Path, data: DataConfig, result: CheckResult
    ) -> None:
        """Add to `result` what there is to say of it.

        Args:
            records: `Manifest.records`, N of them.
            table: the rows of the site's table that they come from.
            root: the data folder.
            data: the run's.
            result: added to.
        """
