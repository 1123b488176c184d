"""An append-only, hash-chained, signed log in one SQLite file, and what happens when it is not what it was.

Every append is on disk before it returns: SQLite flushes its write-ahead log at each commit (WAL, synchronous=FULL),
and the folder when a file is made in it. Beside the file lies an anchor (`privacy.ledger.anchor`). A signed snapshot
of the replayed state, renewed every few hundred entries, keeps opening fast; `verify` trusts no snapshot and reads
everything. Whoever can restore or delete file and anchor together shows only against a receipt that a peer has kept.

Whatever cannot be trusted, read or written raises LedgerError, and nothing is granted.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.disk import file_system, sync_folder
from privacy.errors import LedgerError
from privacy.ledger.anchor import Anchor
from privacy.ledger.links import (
    ROOT,
    Head,
    Receipt,
    canonical,
    check_signature,
    entry_hash,
    next_link,
    receipt_for,
    receipt_holds,
)

Body = dict[str, Any]

_SNAPSHOT_EVERY = 500
_BUSY_SECONDS = 60.0
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
# The triggers stop mistakes. What stops an attacker, who can drop them, are signatures and the anchor.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entry (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, signature BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS cohort (fingerprint TEXT PRIMARY KEY, digests BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS snapshot (seq INTEGER PRIMARY KEY, link BLOB, state BLOB, signature BLOB)",
    "CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append-only'); END",
)


class Replayable(Protocol):
    """The state that a chain's entries are replayed into."""

    def apply(self, body: Body) -> None:
        """Take one more entry into account."""

    def to_json(self) -> Any:
        """A JSON value that holds everything."""

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` wrote."""


S = TypeVar("S", bound=Replayable)


def _check_local(path: Path) -> None:
    if (kind := file_system(path.parent)) in _NETWORK:
        raise LedgerError(
            f"{path} is on a network file system ({kind}), whose locks and flushes cannot be relied on: put the "
            "site's state folder on a local disk."
        )


def _stored(*values: Any) -> None:
    if not all(isinstance(value, bytes) for value in values):
        raise LedgerError("The ledger holds a value of another type than was written: it was edited.")


class Chain(Generic[S]):
    """One ledger file, opened: its verified entries replayed into `state`.

    Args:
        path: the file. It and its anchor are created if both are absent.
        key: the site's signing key.
        state: what the entries are replayed into, empty.

    Raises:
        LedgerError: the file is not a valid chain of this key, is older than its anchor, or cannot be opened.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey, state: S) -> None:
        self.path, self._key, self._public = path, key, key.public_key()
        self._empty, self.state = type(state), state
        self._anchor = Anchor(path.with_name(path.name + ".anchor"), key)
        self.head = Head(0, ROOT)
        self._links: dict[int, bytes] = {}  # of the entries seen since the snapshot
        self._snapshot_seq = 0
        self._pid = os.getpid()
        self._lock = threading.RLock()
        with self._guarded():
            anchored = self._anchor.read()  # before the file, which may then be newer but never older
            fresh = not path.exists()
            if fresh and anchored:
                raise LedgerError(f"{path} is gone but its anchor is there: restore the newest ledger file.")
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_local(path)
            if fresh:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
                sync_folder(path.parent.parent)  # SQLite flushes the folder of the file, not the one above
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False
            )
            self._prepare()
            self._load_snapshot()
            self._catch_up(anchored)
            self._check_anchor(anchored)

    @property
    def signer(self) -> str:
        """The signing key's public half, hexadecimal."""
        return self._public.public_bytes_raw().hex()

    def close(self) -> None:
        """Close the file. Further use raises LedgerError."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Hold the write lock over a state that includes every entry of every process.

        What is appended inside is durable when the block ends, or, if it raises, does not exist.
        """
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                self._renew_snapshot()
                if self.head.seq == 1:  # so that whoever sees more than one entry finds an anchor
                    self._anchor.write(self.head)
                yield Transaction(self._db, self._append)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._forget()
                raise
            # After the commit: an anchor that is ahead of the file would make a good ledger look like an old copy.
            self._anchor.write(self.head)

    def refresh(self) -> None:
        """Take in what other processes have appended."""
        with self._guarded():
            self._catch_up()

    def cohort(self, fingerprint: str) -> bytes:
        """The patient digests stored for a data set."""
        with self._guarded():
            row = self._db.execute(
                "SELECT digests FROM cohort WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
        if row is None:
            raise LedgerError(
                f"The patient digests of data set {fingerprint[:12]} are missing from {self.path}."
            )
        _stored(row[0])
        return row[0]

    def entries(self) -> Iterator[tuple[int, bytes, bytes]]:
        """All entries as (number, body, signature), oldest first."""
        with self._guarded():
            self._catch_up()
            yield from self._entries_until(self.head.seq)

    def receipt(self) -> Receipt:
        """The newest head, signed, for a peer to keep."""
        with self._guarded():
            self._catch_up()
            return receipt_for(self.head, self._key)

    def check_receipt(self, receipt: Receipt) -> None:
        """Raise LedgerError if this file is older than, or another than, the one that gave the receipt.

        A receipt that this key did not sign is somebody else's, or made up, and says nothing.
        """
        if not receipt_holds(receipt, self._public):
            return
        with self._guarded():
            self._catch_up()
            seq = receipt.head.seq
            if seq > self.head.seq:
                raise LedgerError(
                    f"{self.path} ends at entry {self.head.seq}, but a peer has a receipt of entry {seq}: this is an "
                    "old copy. Restore the newest ledger file."
                )
            known = self._links.get(seq)
            if known is None:  # before the snapshot from which it was opened: look at everything
                self.verify((receipt.head,))
            elif known != receipt.head.link:
                raise LedgerError(
                    f"{self.path} does not contain entry {seq} as a peer has its receipt: it was changed."
                )

    def verify(self, receipts: tuple[Head, ...] = ()) -> S:
        """Read and check everything, trusting no snapshot; return the state replayed from the first entry.

        Raises:
            LedgerError: an entry was edited, removed or inserted, the anchor or one of `receipts` is not met.
        """
        with self._guarded():
            anchored = self._anchor.read()
            if anchored is None:
                raise LedgerError(f"The anchor {self._anchor.path} is missing.")
            self._catch_up()
            expected = (*receipts, anchored, self.head)
            state, links = self._empty(), {0: ROOT}
            wanted = {head.seq for head in expected}
            seq, link, digest, signature = 0, ROOT, b"", b""
            for number, body, signature in self._entries_until(self.head.seq):
                digest = entry_hash(link, body)
                link = next_link(digest, signature)
                seq = self._check_number(number, seq)
                state.apply(self._parse(body))
                if seq in wanted:
                    links[seq] = link
            if seq:
                check_signature(self._public, signature, digest, f"Entry {seq} of {self.path}")
            for head in expected:
                if links.get(head.seq) != head.link:
                    raise LedgerError(
                        f"{self.path} does not contain entry {head.seq} as it was: it was changed."
                    )
            return state

    def _entries_until(self, last: int) -> Iterator[tuple[int, bytes, bytes]]:
        rows = self._db.execute("SELECT seq, body, signature FROM entry WHERE seq <= ? ORDER BY seq", (last,))
        for seq, body, signature in rows:
            _stored(body, signature)
            yield seq, body, signature

    def _prepare(self) -> None:
        if self._journal_mode() != "wal":
            raise LedgerError(f"{self.path} is on a file system without shared memory: use a local disk.")
        for pragma in ("synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON"):  # the last two: macOS
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("BEGIN IMMEDIATE")  # fails now, not after training, where the file is read-only
        for statement in _SCHEMA:
            self._db.execute(statement)
        self._db.execute("COMMIT")

    def _journal_mode(self) -> str:
        # Unlike everything else, this does not wait for another process that is doing the same.
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return str(self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _catch_up(self, anchored: Head | None = None) -> None:
        rows = self._db.execute(
            "SELECT seq, body, signature FROM entry WHERE seq > ? ORDER BY seq", (self.head.seq,)
        ).fetchall()
        seq, link, digest = self.head.seq, self.head.link, b""
        bodies = []
        for number, body, signature in rows:
            _stored(body, signature)
            digest = entry_hash(link, body)
            link = next_link(digest, signature)
            seq = self._check_number(number, seq)
            bodies.append(body)
            self._links[seq] = link
            if anchored and anchored.seq == seq and anchored.link != link:
                raise LedgerError(f"{self.path} does not contain entry {seq} as it was: it was changed.")
        if rows:  # the newest signature covers all entries before it, by their links
            check_signature(self._public, rows[-1][2], digest, f"Entry {seq} of {self.path}")
        for body in bodies:  # only now: nothing unsigned gets into the state
            self.state.apply(self._parse(body))
        self.head = Head(seq, link)

    def _append(self, body: Body) -> None:
        text = canonical(body)
        self.state.apply(self._parse(text))  # what cannot be replayed is never written
        digest = entry_hash(self.head.link, text)
        signature = self._key.sign(digest)
        seq = self.head.seq + 1
        self._db.execute("INSERT INTO entry VALUES (?, ?, ?)", (seq, text, signature))
        self.head = Head(seq, next_link(digest, signature))
        self._links[seq] = self.head.link

    def _forget(self) -> None:
        """Go back to what is stored, after entries that were applied did not become durable."""
        self.state, self.head, self._snapshot_seq = self._empty(), Head(0, ROOT), 0
        self._links = {}
        self._load_snapshot()

    def _check_number(self, number: int, before: int) -> int:
        if number != before + 1:
            raise LedgerError(f"{self.path}: entry {before + 1} is missing.")
        return number

    def _parse(self, body: bytes) -> Body:
        try:
            value = json.loads(body)
        except ValueError:
            raise LedgerError(f"{self.path} holds an entry that is not JSON: it was edited.") from None
        if not isinstance(value, dict):
            raise LedgerError(f"{self.path} holds an entry that is not an object: it was edited.")
        return value

    def _load_snapshot(self) -> None:
        row = self._db.execute(
            "SELECT seq, link, state, signature FROM snapshot ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return
        seq, link, state, signature = row
        _stored(link, state, signature)
        check_signature(
            self._public, signature, _snapshot_message(seq, link, state), f"The snapshot in {self.path}"
        )
        # A snapshot's signature never expires. It must not hide that its entries were cut off.
        if not self._db.execute("SELECT 1 FROM entry WHERE seq = ?", (seq,)).fetchone():
            raise LedgerError(f"{self.path}: entry {seq} is missing.")
        try:
            replayed = self._empty.from_json(json.loads(state))
        except (KeyError, TypeError, ValueError):  # of another version: the entries say the same
            return
        self.state = replayed
        self.head, self._snapshot_seq = Head(seq, link), seq
        self._links[seq] = link

    def _renew_snapshot(self) -> None:
        if self.head.seq - self._snapshot_seq < _SNAPSHOT_EVERY:
            return
        state = canonical(self.state.to_json())
        signature = self._key.sign(_snapshot_message(self.head.seq, self.head.link, state))
        self._db.execute("DELETE FROM snapshot")
        self._db.execute(
            "INSERT INTO snapshot VALUES (?, ?, ?, ?)", (self.head.seq, self.head.link, state, signature)
        )
        self._snapshot_seq = self.head.seq

    def _check_anchor(self, anchored: Head | None) -> None:
        if anchored is None and self.head.seq == 1:  # created, but stopped before the anchor was written
            self._anchor.write(self.head)
        # An anchor may also have been created since it was looked for.
        if anchored is None and self.head.seq > 1 and not self._anchor.path.exists():
            raise LedgerError(
                f"The anchor {self._anchor.path} is missing. Restore it: without it a ledger from a backup "
                "would pass for the newest."
            )
        if anchored and anchored.seq > self.head.seq:
            raise LedgerError(
                f"{self.path} ends at entry {self.head.seq}, its anchor at {anchored.seq}: this is an old copy. "
                "Restore the newest ledger file."
            )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time, in the process that opened the file; storage failures become LedgerError."""
        if os.getpid() != self._pid:  # an SQLite connection must not be used across a fork
            raise LedgerError(f"{self.path} was opened in another process: open it again in this one.")
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise LedgerError(
                    f"{self.path} cannot be used ({error}). Check that the disk is local, writable and not full; "
                    "nothing was granted."
                ) from error


class Transaction:
    """Appends entries, within the write lock."""

    def __init__(self, db: sqlite3.Connection, append: Callable[[Body], None]) -> None:
        self._db = db
        self.append = append

    def store_cohort(self, fingerprint: str, digests: bytes) -> None:
        """Keep a data set's patient digests; the signed entry that names the fingerprint vouches for them."""
        self._db.execute("INSERT OR REPLACE INTO cohort VALUES (?, ?)", (fingerprint, digests))


def _snapshot_message(seq: int, link: bytes, state: bytes) -> bytes:
    return hashlib.sha256(b"mmmed ledger snapshot 1" + seq.to_bytes(8, "big") + link + state).digest()
