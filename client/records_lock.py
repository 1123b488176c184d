"""Who reads patients' records now: rounds share a lock, and what erases records has it alone.

The kernel gives a lock up with the process that holds it, however that ends.
Whatever cannot be locked raises LedgerError: the lock lies in the state folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import LedgerError


@contextmanager
def reading_records(lock: Path) -> Iterator[None]:
    """Hold the lock together with other readers; waits while records are erased."""
    with _opened(lock) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def nobody_reads(lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock alone, once the round that runs has ended; `waiting` is called first if one runs."""
    with _opened(lock) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(lock: Path) -> Iterator[int]:
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:  # the ledger beside it could not be written either
        raise LedgerError(
            f"{lock}: cannot be made ({error.strerror}). Free space, or allow writing in the site's state folder."
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
