"""A site's records in memory-mapped form, and batches of *patients* drawn from them.

Who is in a batch is the sampler's business (`privacy.sampling` under differential privacy); this module turns
drawn patients into tensors: at most k of each patient's records, missing modalities zero and masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.data.chance import UNIFORMS, record_key, uniforms
from mmmed.data.manifest import Manifest
from mmmed.data.split import held_out
from mmmed.data.stored import Stored
from mmmed.modalities import MODALITIES


@dataclass(frozen=True)
class Records:
    """N records of one site, ready to be drawn.

    Attributes:
        modalities: all records of the site, by the name of the modality.
        label: the labels of all records of the site.
        patient: (N,) int64, 0 .. patients - 1.
        names: of the patients, in that order; they stay here.
        rows: (N,) int64, where each record stands in the site-wide tensors above.
    """

    modalities: Mapping[str, Stored]
    label: torch.Tensor
    patient: np.ndarray
    names: tuple[str, ...]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return len(self.names)

    @property
    def labels(self) -> np.ndarray:
        """(N,) or (N, L) labels, in order."""
        return self.label[torch.from_numpy(self.rows)].numpy()

    def part(self, mask: np.ndarray) -> Records:
        """The records where `mask` (N,) bool is true, their patients numbered anew."""
        names, patient = np.unique(np.array(self.names)[self.patient[mask]], return_inverse=True)
        own = tuple(names.tolist())
        return replace(self, patient=patient.astype(np.int64), names=own, rows=self.rows[mask])

    def batch(self, chosen: np.ndarray, unit: np.ndarray, view: np.ndarray | None = None) -> Batch:
        """The records at positions `chosen` (R,), each belonging to batch unit `unit` (R,).

        `view` (R,) says which view of each, where views are fixed; the record itself by default.
        """
        rows = self.rows[chosen]
        view = np.zeros_like(rows) if view is None else view
        return Batch(
            inputs={name: modality.view(rows, view) for name, modality in self.modalities.items()},
            label=self.label[torch.from_numpy(rows)],
            unit=torch.from_numpy(unit.astype(np.int64)),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All records in order, for evaluation; each record is its own unit."""
        for start in range(0, len(self), size):
            chosen = np.arange(start, min(start + size, len(self)))
            yield self.batch(chosen, np.arange(len(chosen)))


@dataclass(frozen=True, eq=False)
class SiteData:
    """One site's training and held-out records."""

    train: Records
    test: Records


def open_site_data(manifest: Manifest, config: RunConfig, cache: Path) -> SiteData:
    """`load_records`, split by patient.

    Raises:
        DataError: unreadable files, or a split that leaves a side without patients.
        ModelError: what an encoder needs to read its modality, such as a tokenizer, is not here.
    """
    records = load_records(manifest, config, cache)
    test = held_out(manifest, config.data, config.training.seed)
    return SiteData(train=records.part(~test), test=records.part(test))


def load_records(manifest: Manifest, config: RunConfig, cache: Path) -> Records:
    """All records of one site: preprocess (or find in `cache`) the files, tokenise the notes.

    Raises:
        DataError: unreadable files, by `Manifest.problem`.
        ModelError: what an encoder needs to read its modality, such as a tokenizer, is not here.
    """
    table = manifest.records
    names, patient = np.unique(table["patient"].to_numpy().astype(str), return_inverse=True)
    return Records(
        modalities={name: MODALITIES[name].open(manifest, config, cache) for name in config.data.modalities},
        label=torch.tensor(manifest.labels),
        patient=patient.astype(np.int64),
        names=tuple(names.tolist()),
        rows=np.arange(len(table)),
    )


class PatientBatches:
    """Turns drawn patients into training batches.

    A patient's part of a batch depends on that patient's records, `seed` and the step alone: not on who else is drawn
    or at the site, nor on what was drawn before. All that privacy needs of the randomness here is that; it is public.

    Args:
        records: the site's training records.
        records_per_patient: at most so many of a patient's records, chosen afresh each step.
        seed: of the round.
        augment: whether each record is seen in a new random view each step.
        views: of each record in a batch, all its patient's: the loss averages over them before anything is clipped
            (augmentation multiplicity, De et al. 2022, arXiv 2204.13650).
        modality_dropout: share of the modalities of a record that a step takes for missing, drawn afresh for each
            modality of each record and view; one that the record has stays (Neverova et al. 2016, arXiv 1501.00102).
    """

    def __init__(
        self,
        records: Records,
        *,
        records_per_patient: int,
        seed: int,
        augment: bool = False,
        views: int = 1,
        modality_dropout: float = 0.0,
    ) -> None:
        self._records = records
        self._limit = records_per_patient
        self._seed = seed
        self._viewed = [
            name
            for name, modality in records.modalities.items()
            if augment and MODALITIES[name].viewed and not modality.fixed_views
        ]
        self._views = views
        self._dropout = modality_dropout
        order = np.argsort(records.patient, kind="stable")
        starts = np.searchsorted(records.patient[order], np.arange(records.patients + 1))
        self._of_patient = [order[starts[p] : starts[p + 1]] for p in range(records.patients)]
        self._number = np.empty(len(records), dtype=np.int64)  # of a record among its patient's
        self._number[order] = np.arange(len(records)) - starts[records.patient[order]]

    def __call__(self, step: int, patients: np.ndarray) -> Batch:
        """The batch of the drawn `patients` (P,) int64 in step `step` of the round; of nobody, an empty batch."""
        chosen, unit = self.choose(step, patients)
        number = np.tile(np.arange(self._views), len(chosen))
        batch = self._records.batch(np.repeat(chosen, self._views), np.repeat(unit, self._views), number)
        views = {name: self._view(step, name, batch.inputs[name], chosen) for name in self._viewed}
        batch = replace(batch, inputs={**batch.inputs, **views})
        return self._drop(step, batch, chosen) if self._dropout else batch

    def choose(self, step: int, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (R,) int64 of the chosen records, and the drawn patient, 0 .. P - 1, of each."""
        drawn = [self._choose(step, self._of_patient[patient]) for patient in patients]
        chosen = np.concatenate([np.empty(0, dtype=np.int64), *drawn])
        return chosen, np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])

    def _choose(self, step: int, own: np.ndarray) -> np.ndarray:
        """At most `limit` of a patient's records: those with the smallest random numbers."""
        if len(own) <= self._limit:
            return own
        lots = self._uniforms(step, "choice", own)[:, 0]
        return own[np.argsort(lots)[: self._limit]]

    def _view(self, step: int, name: str, given: Input, chosen: np.ndarray) -> Input:
        """All views of the chosen records' modality `name`, record by record."""
        return MODALITIES[name].view(given, self._of_views(step, name, chosen))

    def _drop(self, step: int, batch: Batch, chosen: np.ndarray) -> Batch:
        """The batch with some modalities of its records masked: of those that a record has, the luckiest stays."""
        there = torch.stack([one.present.any(1) for one in batch.inputs.values()], dim=1)  # [r, m]
        drawn = [self._of_views(step, f"dropout of {name}", chosen)[:, 0] for name in batch.inputs]
        lots = torch.from_numpy(np.stack(drawn, axis=1)).masked_fill(~there, -1)
        kept = (lots >= self._dropout) | (lots == lots.amax(1, keepdim=True))
        inputs = {
            name: replace(one, present=one.present & kept[:, i : i + 1])
            for i, (name, one) in enumerate(batch.inputs.items())
        }
        return replace(batch, inputs=inputs)

    def _of_views(self, step: int, what: str, chosen: np.ndarray) -> np.ndarray:
        """Uniforms of each view of the chosen records, record by record: [views R, UNIFORMS]."""
        drawn = [self._uniforms(step, f"view {number} of {what}", chosen) for number in range(self._views)]
        return np.stack(drawn, axis=1).reshape(-1, UNIFORMS)

    def _uniforms(self, step: int, purpose: str, positions: np.ndarray) -> np.ndarray:
        names, patient = self._records.names, self._records.patient
        keys = [record_key(names[patient[position]], int(self._number[position])) for position in positions]
        return uniforms(f"seed {self._seed}, step {step}: {purpose}", keys)
