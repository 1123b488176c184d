"""Who has withdrawn from a site: the one list by which records are left out whenever the site's data are opened.

``state/withdrawn/list.json`` holds keyed digests, signed, in the order in which they came; nobody is ever taken off it.
Beside it lie the receipts of `client.withdrawal`. Each names the list's head as of then, a digest that covers every
entry before, so that a list that was restored from a backup, cut short or deleted alone is found out and nothing is
opened by it. It is not in the ledger, whose receipts travel: the coordinator would see from a gap that something came.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from client.site_folder import SiteFolder
from mmmed.data.handles import load_handles
from mmmed.deidentify.keys import spelled
from mmmed.errors import DataError
from mmmed.files import write_atomic
from privacy.keys import derive_secret, load_key, parse_public_key
from privacy.ledger.links import canonical

VERSION = 1
_LIST = "list.json"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Entry:
    """One withdrawal.

    Attributes:
        who: keyed digests, hexadecimal, of all names by which a data set may know the patient.
        at: when it was put on the list (ISO 8601, UTC).
    """

    who: tuple[str, ...]
    at: str


@dataclass(frozen=True)
class OptOuts:
    """The opt-out list of a site, and by what ids its data set's patients can be found: a container of patients.

    Attributes:
        entries: all withdrawals, oldest first.
        secret: by which names are digested; it is derived from the site's key.
        handles: of the data set's patients (`mmmed.data.handles`).
    """

    entries: tuple[Entry, ...] = ()
    secret: bytes = field(default=b"", repr=False)
    handles: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_who", {one for entry in self.entries for one in entry.who})

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, patient: object) -> bool:
        """Whether the patient of this name in the data set has withdrawn."""
        return bool(self._who) and not self._who.isdisjoint(self.names(str(patient)))  # type: ignore[attr-defined]

    def names(self, patient: str) -> set[str]:
        """Digests of the name of a patient in the data set and of the handles of all their ids."""
        return {self.digest(one) for one in (patient, *self.handles.get(patient.strip(), ()))}

    def digest(self, name: str) -> str:
        """A name as the list keeps it: HMAC-SHA-256 of its one spelling, 128 bits in hexadecimal."""
        spelt = spelled(name).encode("utf-8", "surrogatepass")
        return hmac.digest(self.secret, spelt, "sha256")[:_DIGEST_BYTES].hex()

    def added(self, entries: Sequence[Entry]) -> Self:
        """The list with more entries at its end."""
        return type(self)((*self.entries, *entries), self.secret, self.handles)

    def heads(self) -> Iterator[str]:
        """The head of the list before its first entry and after each, hexadecimal."""
        head = hashlib.sha256(b"mmmed opt-outs 1").digest()
        yield head.hex()
        for entry in self.entries:
            head = hashlib.sha256(head + canonical([entry.who, entry.at])).digest()
            yield head.hex()

    def after(self, head: str) -> tuple[Entry, ...]:
        """The entries that came after `head`. Raises DataError if the list never had that head."""
        for number, each in enumerate(self.heads()):
            if each == head:
                return self.entries[number:]
        raise DataError(
            "the opt-out list is older than its newest receipt, or another site's: restore the newest "
            f"{_LIST}. Nothing is opened before, since somebody who withdrew would take part"
        )


def list_in_force(site: SiteFolder) -> OptOuts:
    """The opt-out list of a site; an empty one if nobody has withdrawn.

    Raises:
        DataError: it is damaged, not signed by the site's key, gone, or older than its newest receipt.
        SigningKeyError: the site's key cannot be read.
    """
    folder = site.state.withdrawn
    newest = newest_receipt(folder)
    if not (folder / _LIST).exists():
        if newest is None:
            return OptOuts()
        raise DataError(f"{folder / _LIST} is gone but {newest.name} is there: restore the newest list")
    key = load_key(site.state.key)
    body = _signed(folder / _LIST, key.public_key())
    entries = tuple(Entry(tuple(one["who"]), one["at"]) for one in body["withdrawn"])
    found = OptOuts(entries, _secret(key), load_handles(site.dataset))
    if newest is not None:
        found.after(read_receipt(newest, key.public_key())["list"])
    return found


def unfinished(site: SiteFolder) -> int:
    """How many entries of the list no receipt covers yet. Raises like `list_in_force`."""
    opt_outs, newest = list_in_force(site), newest_receipt(site.state.withdrawn)
    return len(opt_outs.after(read_receipt(newest)["list"]) if newest else opt_outs.entries)


def empty_list(site: SiteFolder, key: Ed25519PrivateKey) -> OptOuts:
    """A list of nobody, to be added to."""
    return OptOuts((), _secret(key), load_handles(site.dataset))


def save_list(site: SiteFolder, opt_outs: OptOuts, key: Ed25519PrivateKey) -> None:
    """Write the list; it is in force, and on the disk, when this returns."""
    entries = [{"who": list(entry.who), "at": entry.at} for entry in opt_outs.entries]
    _write(site.state.withdrawn / _LIST, {"version": VERSION, "withdrawn": entries}, key)


def receipts(folder: Path) -> list[Path]:
    """The receipts in a site's ``withdrawn`` folder, oldest first."""
    return sorted(folder.glob("receipt-*.json"))


def newest_receipt(folder: Path) -> Path | None:
    """The newest of `receipts`; None if there is none."""
    return next(reversed(receipts(folder)), None)


def save_receipt(site: SiteFolder, body: Mapping[str, Any], key: Ed25519PrivateKey) -> Path:
    """Sign and write one more receipt; returns its file."""
    folder = site.state.withdrawn
    path = folder / f"receipt-{len(receipts(folder)) + 1:06}.json"
    _write(path, {"version": VERSION, **body, "key": key.public_key().public_bytes_raw().hex()}, key)
    return path


def read_receipt(path: Path, key: Ed25519PublicKey | None = None) -> dict[str, Any]:
    """A receipt whose signature holds.

    Args:
        path: its file.
        key: the site's public key; None to believe the one that it names.

    Raises:
        DataError: it cannot be read, or is not signed by that key.
        SigningKeyError: it names no key.
    """
    if key is None:
        key = parse_public_key(str(_parsed(path).get("key")))
    body = _signed(path, key)
    if not isinstance(body.get("list"), str) or not isinstance(body.get("words"), list):
        raise DataError(f"{path}: not a receipt of `mmmed site withdraw`")
    return body


def _secret(key: Ed25519PrivateKey) -> bytes:
    return derive_secret(key, b"withdrawn patients")


def _write(path: Path, body: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    signature = key.sign(_message(body)).hex()
    write_atomic(path, json.dumps({**body, "signature": signature}, indent=1) + "\n", mode=0o600)


def _signed(path: Path, key: Ed25519PublicKey) -> dict[str, Any]:
    body = _parsed(path)
    try:
        key.verify(bytes.fromhex(body.pop("signature")), _message(body))
        if body["version"] != VERSION:
            raise ValueError(f"version {body['version']!r}")
    except InvalidSignature:
        raise DataError(
            f"{path}: not signed by this site's key: it was edited, or the key is not its own"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); restore it from a copy") from error
    return body


def _parsed(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(body, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it from a copy") from error
    return body


def _message(body: Mapping[str, Any]) -> bytes:
    """What is signed: a list is no receipt, and a receipt no list."""
    kind = "list" if "withdrawn" in body else "receipt"
    return f"mmmed withdrawal {kind} 1\0".encode() + canonical(body)
