"""Patient-wise split: all records of a patient are for training or all are for testing."""

from __future__ import annotations

import hashlib

import numpy as np

from mmmed.config import DataConfig
from mmmed.data.manifest import Manifest


def held_out(manifest: Manifest, data: DataConfig, seed: int) -> np.ndarray:
    """(N,) bool, True for records of held-out patients.

    With a fold column: the patients of `data.test_fold`. Without: a patient is held out when a hash of the
    seed and the patient falls below `data.test_fraction`, which needs no other patient and so stays the
    same when patients are added.

    Raises:
        DataError: by `Manifest.problem`: a patient's records are in several folds (noted, the patient is held out), or
            nobody is left to train on.
    """
    records = manifest.records
    if data.fold:
        folds: dict[str, set[int]] = {}
        patients, fold = records["patient"].tolist(), records["fold"].to_numpy()
        for patient, its in zip(patients, fold.tolist(), strict=True):
            folds.setdefault(patient, set()).add(its)
        torn = {patient for patient, several in folds.items() if len(several) > 1}
        if torn:
            manifest.problem(
                f"column '{data.fold}': {len(torn)} patient(s) have records in several folds. "
                "A patient must be in one fold"
            )
        mask = (fold == data.test_fold) | np.array([patient in torn for patient in patients], dtype=bool)
    else:
        mask = records["patient"].map(lambda patient: position(patient, seed) < data.test_fraction).to_numpy()
    if mask.all():
        manifest.problem(f"{manifest.root}: every patient is held out for testing: none is left to train on")
    return mask


def position(patient: str, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and the patient alone, uniform over patients."""
    digest = hashlib.sha256(f"{seed}\x00{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
