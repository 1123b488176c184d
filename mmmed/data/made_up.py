"""Records that are made up, shaped as a run's: for whatever is tried before a patient's record is read.

They are never written. The same configuration and seed give the same records everywhere.
"""

from __future__ import annotations

import numpy as np

from mmmed.config import RunConfig
from mmmed.data.loader import Records, SiteData
from mmmed.modalities import MODALITIES


def made_up_records(config: RunConfig, patients: int, *, seed: int = 0) -> Records:
    """Records of so many patients, of every modality that `config` names, for training.

    Patients have one record up to one more than a batch takes of them, and every kind of label is there. The first
    record has everything, the second lacks everything; the others lack this or that
    (`mmmed.modalities.Modality.make_up`).

    Args:
        config: the run's.
        patients: how many, 1 or more.
        seed: public; another one makes other records.

    Raises:
        ModelError: what an encoder needs to read its modality, such as a tokenizer, is not here.
    """
    owner = np.repeat(np.arange(patients), record_counts(config, patients))
    total, rng = len(owner), np.random.default_rng(seed)
    return Records(
        modalities={name: MODALITIES[name].make_up(config, total, rng) for name in config.data.modalities},
        label=config.task.target().made_up(total),
        patient=owner,
        names=tuple(map(str, range(patients))),
        rows=np.arange(total),
    )


def nobodys_data(config: RunConfig) -> SiteData:
    """The records of a site at which no row is as a run asks: none, in the form of the run's.

    Raises:
        ModelError: as `made_up_records`.
    """
    records = made_up_records(config, 1)
    none = records.part(np.zeros(len(records), dtype=bool))
    return SiteData(none, none)


def record_counts(config: RunConfig, patients: int) -> np.ndarray:
    """(patients,) int64, how many records each made-up patient has."""
    return 1 + np.arange(patients) % (config.training.records_per_patient + 1)
