"""A site's files of one run: its secret key, the bundle it believed, the last note and the last answer.

Each is written whole and flushed, file and folder, before the next thing happens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from filelock import FileLock

from privacy.disk import sync_folder, write_durable
from privacy.errors import SecureSumRefusal

_CONTEXT = 32  # bytes


@dataclass(frozen=True)
class Note:
    """Step, attempt and context of the last request that this site began to answer."""

    step: int
    attempt: int
    context: bytes


class State:
    """The files of one run, in a folder of their own that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(folder.parent)
        self._secret, self._bundle = folder / "secret", folder / "bundle.json"
        self._note, self._answer, self._closed = folder / "note.json", folder / "answer", folder / "closed"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes of this site out: two of them could answer under one mask."""
        with FileLock(self.folder / "lock", mode=0o600):  # falls with the process
            yield

    def secret(self) -> X25519PrivateKey | None:
        """The site's key of the run, or None if it has not been made."""
        content = _read(self._secret)
        return None if content is None else X25519PrivateKey.from_private_bytes(content)

    def make_secret(self) -> X25519PrivateKey:
        """Make a fresh key of the run and store it."""
        secret = X25519PrivateKey.generate()
        write_durable(self._secret, secret.private_bytes_raw())
        return secret

    def bundle(self) -> bytes | None:
        """The bundle of keys that this site accepted first, or None."""
        return _read(self._bundle)

    def believe(self, content: bytes) -> None:
        """Store the bundle of keys that this site accepts for the whole run."""
        write_durable(self._bundle, content)

    def note(self) -> Note | None:
        """The note of the last request that was begun, or None."""
        content = _read(self._note)
        if content is None:
            return None
        try:
            values = json.loads(content)
            return Note(int(values["step"]), int(values["attempt"]), bytes.fromhex(values["context"]))
        except (ValueError, KeyError, TypeError):
            raise SecureSumRefusal(
                f"{self._note}: not a note of this program. Somebody changed it: this site cannot go on in this run."
            ) from None

    def begin(self, note: Note) -> None:
        """Store the note of a request before it is answered: its masks count as used from here on."""
        values = {"step": note.step, "attempt": note.attempt, "context": note.context.hex()}
        write_durable(self._note, json.dumps(values).encode())

    def answer(self, context: bytes) -> bytes | None:
        """The stored answer if it belongs to the request of this context, else None."""
        content = _read(self._answer)
        return content[_CONTEXT:] if content is not None and content[:_CONTEXT] == context else None

    def keep(self, context: bytes, answer: bytes) -> None:
        """Store the answer to the request of this context, in place of the previous answer."""
        write_durable(self._answer, context + answer)

    @property
    def closed(self) -> bool:
        """Whether the run has ended at this site."""
        return self._closed.exists()

    def close(self) -> None:
        """End the run for good: delete the secret key and the answer, with which a mask could be computed again."""
        write_durable(self._closed, b"")
        for path in (self._secret, self._answer):
            path.unlink(missing_ok=True)
        sync_folder(self.folder)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
