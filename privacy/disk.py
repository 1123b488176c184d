"""What a file needs to survive a power cut, beyond being flushed itself, and on which kind of disk it lies."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")  # Linux, proc(5)


def sync_folder(folder: Path) -> None:
    """Flush the names of the files in a folder to disk."""
    if os.name == "nt":
        return  # Windows opens no folders; its file system writes a journal of names
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is seen whole or not at all, and stays after a power cut; several may write it at once.

    `mode` are its permissions before the umask: by default it is for its owner alone.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def file_system(path: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system that `path` is on, such as "ext4"; "" where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place, best = f"{path.resolve()}/", (-1, "")
    for line in lines:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]).rstrip("/")
        if place.startswith(f"{point}/") and len(point) >= best[0]:  # a later mount covers an earlier one
            best = (len(point), after.split()[0])
    return best[1]
