"""One secret of the site from which all pseudonyms, new UIDs and date shifts are derived.

The same input gives the same output for as long as the site keeps its key, so that a patient is found again
in every source and on every run; without the key the output tells nothing (HMAC-SHA-256, RFC 2104). A de-identified
copy names its patient with proof that this key gave the name: whoever ingests originals and copies has one patient.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import unicodedata
from pathlib import Path

from mmmed.errors import DataError

_KEY_BYTES = 32
_SHIFT_DAYS = (30, 3650)
_MARK = "pseudonyms.json"  # in a data set: which key named its patients


def spelled(identifier: str) -> str:
    """An id without what sources change: width, case, spaces, and zeros before a number."""
    bare = "".join(unicodedata.normalize("NFKC", identifier).split()).upper()
    return bare.lstrip("0") or bare[:1] if bare.isdigit() else bare


class SiteKey:
    """The secret from which a site derives its pseudonyms; it never leaves the site and is in no data set."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _KEY_BYTES:
            raise DataError(f"site key: {len(secret)} bytes; expected at least {_KEY_BYTES} random bytes")
        self._secret = secret

    def __repr__(self) -> str:
        return "SiteKey(...)"

    @classmethod
    def load_or_create(cls, path: Path) -> SiteKey:
        """Read the key file, or make one that only its owner can read."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        except OSError as error:
            raise DataError(f"{path}: the site key cannot be written ({error.strerror})") from error
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(_KEY_BYTES))
        try:
            return cls(bytes.fromhex(path.read_text().strip()))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: not a site key; expected {2 * _KEY_BYTES} hexadecimal digits. Restore it from your "
                "backup: another key gives every patient another pseudonym"
            ) from error

    def mark(self, dataset: Path) -> None:
        """Leave word in a data set's folder that this key names its patients.

        Raises `DataError` if another key named them: the same patient would be two.
        """
        commitment = self._digest("commitment", "")[:16].hex()
        before = key_of(dataset)
        if before and before != commitment:
            raise DataError(
                f"{dataset}: its patients were named by another site key. Ingest with the key file of then (--key), or "
                "into another folder"
            )
        if not before:
            (dataset / _MARK).write_text(json.dumps({"version": 1, "key": commitment}) + "\n")

    def pseudonym(self, kind: str, value: str) -> str:
        """80 bits in hexadecimal that stand for ``value``; ``kind`` keeps patients, studies and files apart."""
        return self._digest(kind, value)[:10].hex()

    def patient(self, identifier: str) -> str:
        """The pseudonym of a patient; of one who goes by a copy's identifier (`copy_id`), the same again."""
        return self._given(identifier) or self.pseudonym("patient", identifier)

    def handle(self, identifier: str) -> str:
        """Stands for an id however it is spelled, to find a patient again by any id that a source gives."""
        return self.pseudonym("id", spelled(identifier))

    def copy_id(self, identifier: str) -> str:
        """What a de-identified copy calls a patient: the pseudonym, and a proof of 80 bits that this key gave it."""
        name = self.patient(identifier)
        return f"{name}-{self.pseudonym('copy', name)}"

    def made(self, identifier: str) -> bool:
        """Whether the identifier is a `copy_id` of this key."""
        return bool(self._given(identifier))

    def _given(self, identifier: str) -> str:
        name, _, proof = identifier.partition("-")
        holds = hmac.compare_digest(proof.encode("utf-8", "replace"), self.pseudonym("copy", name).encode())
        return name if holds else ""

    def uid(self, uid: str) -> str:
        """A DICOM UID of the UUID-derived form (PS3.5 section B.2) that stands for ``uid``."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def shift_days(self, patient: str) -> int:
        """Days, negative, by which all dates of a patient are moved: intervals within the patient are kept.

        None of one who goes by a copy's identifier: the copy's dates were moved when it was made.
        """
        if self.made(patient):
            return 0
        low, high = _SHIFT_DAYS
        return -(low + int.from_bytes(self._digest("days", patient)[:8], "big") % (high - low + 1))

    def _digest(self, kind: str, value: str) -> bytes:
        text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")  # file names may be no UTF-8
        return hmac.digest(self._secret, text, hashlib.sha256)


def key_of(dataset: Path) -> str:
    """A commitment to the key that named a data set's patients; "" if they have the names that they came with.

    Raises `DataError` if the data set says so in a way that cannot be read.
    """
    try:
        return str(json.loads((dataset / _MARK).read_text())["key"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{dataset / _MARK}: cannot be read ({error!r}). Expected what `mmmed site ingest` wrote: ingest again"
        ) from error
