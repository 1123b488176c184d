"""Files that are seen whole or not at all, and what one process alone may change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path, *, durable: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """Write a file so that it is seen whole or not at all. Of one path, by one writer at a time: see `exclusive`.

    Args:
        path: the file; its folder exists.
        durable: make sure of that also after a power cut. It costs two flushes of the disk, some milliseconds.
        mode: permissions before the umask.

    Yields:
        An empty file beside `path`, with the same ending. It takes the place of `path` at the end of the block; if the
        block raises, it is removed and `path` stays as it was.
    """
    partial = path.with_name(f".part-{path.name}")
    try:
        new = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:  # of a process that was killed, perhaps with another mode
        partial.unlink(missing_ok=True)
        new = os.open(partial, os.O_WRONLY | os.O_CREAT, mode)
    os.close(new)
    try:
        yield partial
        if durable:
            _flush(partial)
        partial.replace(path)
        if durable:
            _flush(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """Write a whole file by `replacing`.

    Args:
        path: the file; its folder exists.
        content: bytes, or text that is written as UTF-8.
        durable: make sure that it outlasts a power cut, see `replacing`.
        mode: permissions before the umask.
    """
    with replacing(path, durable=durable, mode=mode) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def exclusive(path: Path, refusal: Callable[[], Exception]) -> Iterator[None]:
    """Hold a lock, which a process that ends gives up, however it ends.

    Args:
        path: a file that is there for the lock alone, made if need be; its folder exists.
        refusal: what to raise while somebody else has it, in another process or in this one.

    Raises:
        OSError: the file cannot be made.
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise refusal() from error
    try:
        yield
    finally:
        lock.release()


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and keeps names by itself
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
