"""Whom a data set is about, without saying who: keyed digests of its patients.

A data set is its patients, not its folder or file names. The key stays at the site, so that nobody else can
test whether a patient is in a fingerprint, and the same patient has the same digest in every data set of the
site, so that overlap between data sets is found. Under another key everybody would be a stranger whom nothing was
charged, so an identity says which keys it was made with, and the ledger pins them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from privacy.errors import LedgerError

DIGEST_BYTES = 16


@dataclass(frozen=True)
class DatasetIdentity:
    """The patients of a data set.

    Attributes:
        fingerprint: SHA-256 (hex) of the sorted digests; equal for equal sets of patients.
        digests: one 16-byte HMAC-SHA256 per patient. They stay at the site.
        keys: commitment to the keys that lead from a person to the digest, hexadecimal; equal for equal keys.
    """

    fingerprint: str
    digests: frozenset[bytes] = field(repr=False)
    keys: str

    @staticmethod
    def of(digests: Iterable[bytes], keys: str) -> DatasetIdentity:
        """The identity of a set of digests made with `keys`."""
        patients = frozenset(digests)
        return DatasetIdentity(hashlib.sha256(b"".join(sorted(patients))).hexdigest(), patients, keys)

    def to_bytes(self) -> bytes:
        """The sorted digests, concatenated."""
        return b"".join(sorted(self.digests))

    @staticmethod
    def from_bytes(blob: bytes, fingerprint: str, keys: str) -> DatasetIdentity:
        """Read what `to_bytes` wrote. Raises LedgerError if it is not the data set of `fingerprint`."""
        starts = range(0, len(blob), DIGEST_BYTES)
        identity = DatasetIdentity.of((blob[start : start + DIGEST_BYTES] for start in starts), keys)
        if identity.fingerprint != fingerprint or identity.to_bytes() != blob:
            raise LedgerError(f"The patient digests of data set {fingerprint[:12]} were changed.")
        return identity


def dataset_identity(patient_ids: Iterable[str], key: bytes, pseudonyms: str = "") -> DatasetIdentity:
    """The identity of the data set of these patients (repeats count once), perhaps of nobody.

    Args:
        patient_ids: the site's own patient identifiers.
        key: the site's secret of at least 16 bytes, the same for all its data sets, and never changed.
        pseudonyms: if the identifiers are pseudonyms, a commitment to the key that they were made with.

    Raises:
        LedgerError: an empty or non-text id, or a key that is too short.
    """
    if len(key) < 16:
        raise LedgerError(f"The patient digest key must have at least 16 bytes. Found {len(key)}.")
    digests = set()
    for patient in patient_ids:
        if not isinstance(patient, str) or not patient.strip():
            raise LedgerError(
                f"A patient id must be text that is not empty. Found a {type(patient).__name__}."
            )
        digests.add(hmac.digest(key, patient.strip().encode(), "sha256")[:DIGEST_BYTES])
    keys = hmac.digest(key, b"mmmed identity 1\0" + pseudonyms.encode(), "sha256")[:DIGEST_BYTES]
    return DatasetIdentity.of(digests, keys.hex())


def memberships(patients: frozenset[bytes], others: Mapping[str, frozenset[bytes]]) -> set[frozenset[str]]:
    """The distinct combinations of data sets, out of `others`, that single `patients` belong to."""
    groups: list[tuple[frozenset[bytes], frozenset[str]]] = [(patients, frozenset())]
    for name, members in others.items():
        split = [(group & members, names | {name}) for group, names in groups]
        split += [(group - members, names) for group, names in groups]
        groups = [(group, names) for group, names in split if group]
    return {names for _, names in groups}
