"""Features of a frozen encoder, computed once a record and kept in a memory-mapped file.

One file holds the rows of one encoder, appended and never moved. A row is a key, a checksum and the features; the key
is the SHA-256 of what the encoder read, so it stands for the file, the note and all preprocessing, and the file's name
is the digest of the encoder. Whatever interrupts the writing, a row is whole or its checksum says that it is not.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from mmmed.data.augment import VERSION
from mmmed.data.batch import Input, fill
from mmmed.data.chance import uniforms
from mmmed.data.stored import Stored
from mmmed.errors import DataError

Encode = Callable[[Input], torch.Tensor]
View = Callable[[Input, np.ndarray], Input]  # `mmmed.modalities.Modality.view`

_TOGETHER = 32  # records encoded in one call


class FeatureFile:
    """Rows of float32 of one `shape` by key, shared safely by the processes of one machine.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self.path = path
        self._row = np.dtype([("key", "V32"), ("checksum", "<u4"), ("values", "<f4", tuple(shape))])
        self._slots: dict[bytes, int] = {}
        self._map = np.empty(0, self._row)
        self._inode = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.refresh()
        except OSError as error:
            raise self._unusable(error) from error

    def find(self, key: bytes) -> int | None:
        """The slot of the row with this key; None if there is none or it is damaged."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        row = self._map[slot]
        if row["checksum"] == _checksum(key, row["values"]):
            return slot
        del self._slots[key]
        return None

    def append(self, keys: Sequence[bytes], values: np.ndarray) -> None:
        """Add rows: len(keys) of them, values (K, *shape) float32."""
        rows = np.empty(len(keys), self._row)
        for i, key in enumerate(keys):
            rows[i] = (np.void(key), _checksum(key, values[i]), values[i])
        try:
            with FileLock(self.path.with_suffix(".lock")):
                self.path.touch(mode=0o600)
                with self.path.open("r+b") as file:
                    whole = file.seek(0, 2) // self._row.itemsize  # a row that was cut short is written over
                    file.seek(whole * self._row.itemsize)
                    file.write(rows.tobytes())
                self.refresh()
        except OSError as error:
            raise self._unusable(error) from error

    def read(self, slots: np.ndarray) -> np.ndarray:
        """(K, *shape) float32, a copy."""
        found: np.ndarray = self._map["values"][slots]
        return found

    def refresh(self) -> None:
        """Take in the rows that this or another process has appended since the last call."""
        stat = self.path.stat() if self.path.exists() else None
        rows, known = stat.st_size // self._row.itemsize if stat else 0, len(self._map)
        if known and (stat is None or stat.st_ino != self._inode or rows < known):
            raise DataError(
                f"{self.path}: removed while it was in use, as when an image is rejected; run again"
            )
        self._inode = stat.st_ino if stat else 0
        if rows > known:
            self._map = np.memmap(self.path, self._row, mode="r", shape=(rows,))
            fresh = enumerate(self._map["key"][known:], start=known)
            self._slots.update((key.tobytes(), slot) for slot, key in fresh)

    def _unusable(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path.parent}: the features of frozen encoders cannot be kept there ({error}); free space, "
            "allow writing or choose another $MMMED_HOME"
        )


def forget_features(folder: Path) -> int:
    """Remove all features: which rows came from one record cannot be told from their keys. Returns how many files."""
    files = list(folder.glob("*.rows"))
    for file in files:
        with FileLock(file.with_suffix(".lock")):
            file.unlink(missing_ok=True)
    return len(files)


class FeatureRows:
    """The features of a modality's N records, and of `views` views of each; computed when they are first asked for.

    Row v N + i is view v of record i; view 0 is the record itself, and what the record holds decides the others.

    Args:
        stored: what the encoder reads.
        encode: R records to their features (R, *shape), in evaluation mode.
        file: where features are kept.
        view: makes the other views.
        views: of each record.
    """

    def __init__(self, stored: Stored, encode: Encode, file: FeatureFile, *, view: View, views: int) -> None:
        self._stored, self._encode, self._file, self._view = stored, encode, file, view
        self._records = len(stored.present)
        self._slots = np.full(self._records * views, -1, dtype=np.int64)

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        """(K,) int64 -> (K, S, width) float32."""
        unknown = np.unique(rows[self._slots[rows] < 0])
        for start in range(0, len(unknown), _TOGETHER):
            self._settle(unknown[start : start + _TOGETHER])
        return torch.from_numpy(self._file.read(self._slots[rows]))

    def _settle(self, rows: np.ndarray) -> None:
        """Find the features of some rows in the file; compute and append those that are missing."""
        given = self._stored[rows % self._records]
        keys = [_key(given[slice(i, i + 1)], int(row) // self._records) for i, row in enumerate(rows)]
        self._file.refresh()
        missing = {key: i for i, key in enumerate(keys) if self._file.find(key) is None}
        if missing:
            views = [self._viewed(given[slice(i, i + 1)], key, int(rows[i])) for key, i in missing.items()]
            together = Input(
                torch.cat([one.values for one in views]), torch.cat([one.present for one in views])
            )
            features = self._encode(together[fill(len(views), _TOGETHER)])[: len(views)]
            self._file.append(list(missing), features.numpy())
        for row, key in zip(rows, keys, strict=True):
            slot = self._file.find(key)
            if slot is None:
                raise DataError(
                    f"{self._file.path}: cannot be read back; check the disk, then delete the file"
                )
            self._slots[row] = slot

    def _viewed(self, given: Input, key: bytes, row: int) -> Input:
        return given if row < self._records else self._view(given, uniforms("fixed view", [key]))


def _key(given: Input, view: int) -> bytes:
    """The key of one view of one record: a digest of what the encoder reads."""
    name = f"view {view} of augmentation {VERSION}" if view else "view 0"
    digest = hashlib.sha256(f"{given.values.dtype} {tuple(given.values.shape)} {name}\0".encode())
    digest.update(given.values.contiguous().numpy().tobytes())
    digest.update(given.present.contiguous().numpy().tobytes())
    return digest.digest()


def _checksum(key: bytes, values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values, "<f4").tobytes(), zlib.crc32(key))
