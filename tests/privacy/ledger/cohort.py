"""Data sets of invented patients."""

from __future__ import annotations

from privacy.ledger import DatasetIdentity, dataset_identity

SECRET = b"a secret of the site, 32 bytes.."


def patients(*ids: int) -> DatasetIdentity:
    """The data set of these patients."""
    return dataset_identity((f"patient-{i}" for i in ids), SECRET)
