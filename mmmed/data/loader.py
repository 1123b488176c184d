"""A site's records in memory-mapped form, and batches of *patients* drawn from them.

Who is in a batch is the sampler's business (`privacy.sampling` under differential privacy); this module turns
drawn patients into tensors: at most k of each patient's records, missing modalities zero and masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmmed.config import RunConfig
from mmmed.data.augment import Augmentation
from mmmed.data.batch import Batch
from mmmed.data.manifest import Manifest
from mmmed.data.modalities import Modality, Tokenizer, open_modalities
from mmmed.data.split import held_out


@dataclass(frozen=True)
class Records:
    """N records of one site, ready to be drawn.

    Attributes:
        modalities: all records of the site, by the name of the modality.
        label: the labels of all records of the site.
        patient: (N,) int64, 0 .. patients - 1.
        patients: how many patients there are.
        rows: (N,) int64, where each record stands in the site-wide tensors above.
    """

    modalities: Mapping[str, Modality]
    label: torch.Tensor
    patient: np.ndarray
    patients: int
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 labels, in order."""
        return self.label[torch.from_numpy(self.rows)].numpy()

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


def load_site(manifest: Manifest, config: RunConfig, tokenizer: Tokenizer | None, cache: Path) -> SiteData:
    """Preprocess (or find in `cache`) the files, tokenise the notes, split by patient.

    Raises:
        DataError: unreadable files, or a split that leaves a side without patients.
    """
    records = manifest.records
    modalities = open_modalities(manifest, config.data, tokenizer, cache)
    label = torch.tensor(records["label"].to_numpy())
    test = held_out(manifest, config.data, config.training.seed)

    def part(mask: np.ndarray) -> Records:
        codes, patients = _codes(records["patient"][mask].to_numpy())
        return Records(modalities, label, codes, patients, np.flatnonzero(mask))

    return SiteData(train=part(~test), test=part(test))


def _codes(patients: np.ndarray) -> tuple[np.ndarray, int]:
    names, codes = np.unique(patients.astype(str), return_inverse=True)
    return codes.astype(np.int64), len(names)


class PatientBatches:
    """Turns drawn patients into training batches.

    Args:
        records: the site's training records.
        records_per_patient: at most so many of a patient's records, drawn afresh each time.
        seed: public randomness for the choice of records and augmentation. It does not touch who is drawn:
            whichever of a patient's records are used, the patient's clipped contribution is bounded alike.
        augmentation: applied to the batch, or None.
        views: of each record in a batch, all its patient's: the loss averages over them before anything is clipped
            (augmentation multiplicity, De et al. 2022, arXiv 2204.13650).
    """

    def __init__(
        self,
        records: Records,
        *,
        records_per_patient: int,
        seed: int,
        augmentation: Augmentation | None,
        views: int = 1,
    ) -> None:
        self._records = records
        self._views = views
        self._fixed = [name for name, modality in records.modalities.items() if modality.fixed_views]
        self._limit = records_per_patient
        self._rng = np.random.default_rng(seed)
        self._augment = augmentation
        order = np.argsort(records.patient, kind="stable")
        starts = np.searchsorted(records.patient[order], np.arange(records.patients + 1))
        self._of_patient = [order[starts[p] : starts[p + 1]] for p in range(records.patients)]

    def __call__(self, patients: np.ndarray) -> Batch:
        """The batch of the drawn `patients` (P,) int64; an empty draw gives an empty batch."""
        chosen, unit = self.choose(patients)
        view = np.tile(np.arange(self._views), len(chosen))
        batch = self._records.batch(np.repeat(chosen, self._views), np.repeat(unit, self._views), view)
        return batch if self._augment is None else self._augment(batch, self._fixed)

    def choose(self, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (R,) int64 of the records that stand for the drawn patients, and whose each is, 0 .. P - 1."""
        drawn = [self._draw(self._of_patient[patient]) for patient in patients]
        chosen = np.concatenate([np.empty(0, dtype=np.int64), *drawn])
        return chosen, np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])

    def _draw(self, records: np.ndarray) -> np.ndarray:
        if len(records) <= self._limit:
            return records
        return self._rng.choice(records, self._limit, replace=False)
