"""Files decoded and resized once, kept as memory-mapped arrays.

A cache folder holds ``index.sqlite`` and one ``*.pixels`` file for each form that files are brought into (images
of 64 x 64 pixels, say): rows of uint16, all of one shape, appended and never moved. A row is keyed by the
SHA-256 of the file it came from, the form by its name, which states its version and options; so a changed file
or option builds just its own rows. The index is written after the rows it names, in transactions: whatever
interrupts a build, the rows it names are whole. File names are kept only as keyed hashes.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock

from mmmed.data.form import Form, kept_row, read_row
from mmmed.errors import DataError
from mmmed.files import sha256_of

_BATCH_ROWS, _BATCH_BYTES = 256, 64 << 20  # built between two commits
_SETTLED_NS = 2_000_000_000  # a file changed more recently may change again within one tick of its clock
_SHOWN_ERRORS = 10

Progress = Callable[[int, int], None]


def _row_values(form: Form) -> int:
    return math.prod(form.shape)


def _row_bytes(form: Form) -> int:
    return 2 * _row_values(form)


@dataclass(frozen=True)
class _Source:
    """A file as it was when it was hashed."""

    path: Path
    stamp: tuple[int, int, int]  # size, mtime in ns, inode
    digest: bytes

    @staticmethod
    def stamp_of(path: Path) -> tuple[int, int, int]:
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns, stat.st_ino


class Cache:
    """A folder of preprocessed files, shared safely by threads and processes on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(
        self,
        paths: Sequence[Path | None],
        form: Form,
        *,
        workers: int = min(4, os.cpu_count() or 1),
        progress: Progress | None = None,
        problem: Callable[[str], None] | None = None,
    ) -> CachedRows:
        """Open the rows of files, building those that are missing.

        Args:
            paths: the n files; ``None`` is an absent one.
            form: what a file becomes.
            workers: threads that hash and decode.
            progress: called with the rows built so far and those to build.
            problem: is told of missing or unreadable files, which then count as absent; ``None`` raises instead.

        Raises:
            DataError: files are missing or unreadable and there is no ``problem`` (the rows of the others are kept), or
                the cache folder cannot be written. The message names them.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"), self._index() as index:
                sources, errors = self._hash(index, paths, workers)
                errors |= self._build(index, form, sources, workers, progress)
                if errors and problem is None:
                    raise _summary(errors, len(paths))
                known = self._rows(index, form)
            if errors and problem is not None:
                problem(str(_summary(errors, len(paths))))
            absent = (-1, 0)
            rows = [
                absent if path is None or path in errors else known[sources[path].digest] for path in paths
            ]
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{self.folder}: the cache cannot be written ({error}); free space, allow writing or "
                "choose another folder"
            ) from error
        return CachedRows(self, form, paths, np.array(rows, dtype=np.int64).reshape(-1, 2))

    def forget(self, form: Form, slot: int) -> None:
        """Drop a row found damaged, so that the next opening builds it again."""
        with FileLock(self.folder / "lock"), self._index() as index:
            index.execute("DELETE FROM rows WHERE format = ? AND slot = ?", (form.name, slot))
            index.commit()

    def erase(self, form: Form, digests: Sequence[str]) -> int:
        """Overwrite and drop the rows of files with these SHA-256 digests, in hexadecimal; returns how many."""
        if not digests or not self.pixel_file(form).is_file():
            return 0
        with FileLock(self.folder / "lock"), self._index() as index:
            known = self._rows(index, form)
            found = [digest for digest in map(bytes.fromhex, digests) if digest in known]
            index.executemany(
                "DELETE FROM rows WHERE format = ? AND digest = ?", [(form.name, digest) for digest in found]
            )
            index.commit()
            with _open_for_writing(self.pixel_file(form)) as file:
                for digest in found:
                    file.seek(known[digest][0] * _row_bytes(form))
                    file.write(bytes(_row_bytes(form)))
        return len(found)

    def erase_files(self, paths: Sequence[Path]) -> int:
        """Overwrite and drop every row that was made of these files, in all forms; returns how many.

        Of a form whose row length an earlier version did not note, all rows are deleted.
        """
        if not (self.folder / "index.sqlite").is_file():
            return 0
        count = 0
        with FileLock(self.folder / "lock"), self._index() as index:
            salt = index.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()[0]
            for name, path in ((_hidden(path, salt), path) for path in paths):
                noted = index.execute("SELECT digest FROM files WHERE name = ?", (name,)).fetchall()
                for digest in {_digest_of(path), *(digest for (digest,) in noted)} - {None}:
                    count += self._erase_digest(index, digest)
                index.execute("DELETE FROM files WHERE name = ?", (name,))
            index.commit()
        return count

    def _erase_digest(self, index: sqlite3.Connection, digest: bytes) -> int:
        """Overwrite the rows of a digest, then drop them: a kill in between leaves rows that fail their checksum."""
        rows = index.execute(
            "SELECT rows.format, slot, bytes FROM rows LEFT JOIN sizes USING (format) WHERE digest = ?",
            (digest,),
        ).fetchall()
        for form, slot, size in rows:
            file = self.folder / f"{form}.pixels"
            if size is None:
                file.unlink(missing_ok=True)
                index.execute("DELETE FROM rows WHERE format = ?", (form,))
            elif file.is_file():
                with _open_for_writing(file) as pixels:
                    pixels.seek(slot * size)
                    pixels.write(bytes(size))
                    os.fsync(pixels.fileno())
        index.execute("DELETE FROM rows WHERE digest = ?", (digest,))
        return len(rows)

    def pixel_file(self, form: Form) -> Path:
        return self.folder / f"{form.name}.pixels"

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """The index, begun anew if it is damaged. The lock must be held."""
        path = self.folder / "index.sqlite"
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # no space, no permission: not damage
                raise
            for stale in [*self.folder.glob("index.sqlite*"), *self.folder.glob("*.pixels")]:
                stale.unlink()
            connection = _connect(path)
        try:
            yield connection
        finally:
            connection.close()

    def _rows(self, index: sqlite3.Connection, form: Form) -> dict[bytes, tuple[int, int]]:
        """Digest of a file -> (slot, checksum) of its row. Rows cut off from the pixel file are dropped."""
        file = self.pixel_file(form)
        reach = file.stat().st_size // _row_bytes(form) if file.exists() else 0
        index.execute("DELETE FROM rows WHERE format = ? AND slot >= ?", (form.name, reach))
        found = index.execute("SELECT digest, slot, checksum FROM rows WHERE format = ?", (form.name,))
        return {digest: (slot, checksum) for digest, slot, checksum in found}

    def _hash(
        self, index: sqlite3.Connection, paths: Sequence[Path | None], workers: int
    ) -> tuple[dict[Path, _Source], dict[Path, str]]:
        """Digest of every file, read only where size, time or inode differ from the last visit."""
        salt = index.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()[0]
        seen = {name: (stamp, digest) for name, *stamp, digest in index.execute("SELECT * FROM files")}
        sources: dict[Path, _Source] = {}
        errors: dict[Path, str] = {}

        def visit(path: Path) -> tuple[Any, ...] | None:
            name = _hidden(path, salt)
            try:
                stamp = _Source.stamp_of(path)
                before = seen.get(name)
                if before is not None and tuple(before[0]) == stamp:
                    sources[path] = _Source(path, stamp, before[1])
                    return None
                with path.open("rb") as file:
                    sources[path] = _Source(path, stamp, hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                errors[path] = (
                    f"{path}: cannot be read ({error.strerror}); correct the path or restore the file"
                )
                return None
            settled = time.time_ns() - stamp[1] > _SETTLED_NS
            return (name, *stamp, sources[path].digest) if settled else None

        with ThreadPoolExecutor(workers) as pool:
            unique = dict.fromkeys(path for path in paths if path is not None)
            changed = [row for row in pool.map(visit, unique, chunksize=64) if row is not None]
        index.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", changed)
        index.commit()
        return sources, errors

    def _build(
        self,
        index: sqlite3.Connection,
        form: Form,
        sources: dict[Path, _Source],
        workers: int,
        progress: Progress | None,
    ) -> dict[Path, str]:
        """Append the rows that are missing; returns the files that could not be read, with the reason."""
        known = self._rows(index, form)
        missing = list({s.digest: s for s in sources.values() if s.digest not in known}.values())
        failed: dict[bytes, str] = {}
        if not missing:
            return {}

        def read(source: _Source) -> bytes | None:
            try:
                row = kept_row(form, source.path).tobytes()
                if _Source.stamp_of(source.path) != source.stamp:
                    raise DataError(f"{source.path}: changed while it was read; let the export finish")
                return row
            except (DataError, OSError) as error:
                failed[source.digest] = str(error)
                return None

        index.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?)", (form.name, _row_bytes(form)))
        slot = 1 + max((slot for slot, _ in known.values()), default=-1)
        done, step = 0, max(1, min(_BATCH_ROWS, _BATCH_BYTES // _row_bytes(form)))
        with ThreadPoolExecutor(workers) as pool, _open_for_writing(self.pixel_file(form)) as file:
            for start in range(0, len(missing), step):
                batch, entries = missing[start : start + step], []
                for source, row in zip(batch, pool.map(read, batch), strict=True):
                    if row is not None:
                        file.seek(slot * _row_bytes(form))
                        file.write(row)
                        entries.append((form.name, source.digest, slot, zlib.crc32(row)))
                        slot += 1
                    done += 1
                    if progress is not None:
                        progress(done, len(missing))
                index.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", entries)
                index.commit()
        first = {s.digest: s.path for s in missing}
        return {
            path: failed[s.digest]
            if path == first[s.digest]
            else f"{path}: the same content as {first[s.digest]}"
            for path, s in sources.items()
            if s.digest in failed
        }


class CachedRows:
    """The files of one column of a table, read from the cache on demand. `Cache.open` makes it.

    Args:
        cache: what holds the rows.
        form: what a file becomes.
        paths: the n files; ``None`` is an absent one.
        rows: (n, 2) int64, the slot (-1 of an absent file) and the CRC-32 of each file's row.
    """

    def __init__(self, cache: Cache, form: Form, paths: Sequence[Path | None], rows: np.ndarray) -> None:
        self._cache, self._form, self._paths = cache, form, tuple(paths)
        self._slots, self._checksums = rows[:, 0].copy(), rows[:, 1].copy()
        self._checked = self._slots < 0
        self._map: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def present(self) -> np.ndarray:
        """(n,) bool: which files are there."""
        return self._slots >= 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # a process that receives this maps the file itself

    def __getitem__(self, indices: np.ndarray) -> torch.Tensor:
        """Files ``indices`` (n,): float32 (n, *shape) in [0, 1], zeros where there is none.

        A row is checked when it is first read; a damaged one is built again from its file, and `DataError`
        raised if that is gone.
        """
        indices = np.asarray(indices, dtype=np.int64)
        for index in indices[~self._checked[indices]]:
            self._check(int(index))
        out = np.empty((len(indices), *self._form.shape), dtype=np.float32)
        for row, slot in zip(out, self._slots[indices], strict=True):
            if slot < 0:
                row[...] = 0
            else:
                read_row(self._pixels()[slot], row)
        return torch.from_numpy(out)

    def _pixels(self) -> np.ndarray:
        """The whole pixel file, (rows, *shape) uint16, mapped read-only."""
        if self._map is None:
            file = self._cache.pixel_file(self._form)
            # torch's mapping keeps no open file, of which a process may have about a thousand: one a site is too many
            size = file.stat().st_size // 2
            mapped = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint16).numpy()
            mapped.flags.writeable = False
            whole = mapped.size // _row_values(self._form)
            self._map = mapped[: whole * _row_values(self._form)].reshape(-1, *self._form.shape)
        return self._map

    def _check(self, index: int) -> None:
        if zlib.crc32(self._pixels()[self._slots[index]]) != self._checksums[index]:
            damaged = self._slots == self._slots[index]
            self._cache.forget(self._form, int(self._slots[index]))
            rebuilt = self._cache.open([self._paths[index]], self._form)
            self._slots[damaged], self._checksums[damaged] = rebuilt._slots[0], rebuilt._checksums[0]
            self._map = None
        self._checked[index] = True


def _hidden(path: Path, salt: bytes) -> bytes:
    """A file's name as the index keeps it."""
    return hashlib.blake2b(os.fsencode(path.absolute()), key=salt, digest_size=16).digest()


def _digest_of(path: Path) -> bytes | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        return bytes.fromhex(sha256_of(path))
    except OSError:
        return None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files"
            " (name BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, digest BLOB)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS rows (format TEXT, digest BLOB, slot INTEGER, checksum INTEGER,"
            " PRIMARY KEY (format, digest))"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS sizes (format TEXT PRIMARY KEY, bytes INTEGER)")
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('salt', ?)", (secrets.token_bytes(32),))
        connection.commit()
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("the index is damaged")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _open_for_writing(path: Path) -> Iterator[IO[bytes]]:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        yield file


def _summary(errors: dict[Path, str], total: int) -> DataError:
    shown = list(errors.values())[:_SHOWN_ERRORS]
    if len(errors) == 1:
        return DataError(shown[0])
    more = f"\n  and {len(errors) - len(shown)} more" if len(errors) > len(shown) else ""
    return DataError(f"{len(errors)} of {total} files cannot be used:\n  " + "\n  ".join(shown) + more)
