"""One study that a model is asked about, from files and values that are given by name.

It goes the way of a training record: a table of one row is written beside copies of the files, and read as any other.
So what the model sees is what it saw in training. All of it is gone afterwards; a process that is killed leaves its
temporary folder, which its user alone can read.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmmed.config import DataConfig, RunConfig
from mmmed.data.loader import Records, load_records
from mmmed.data.manifest import read_manifest
from mmmed.data.stored import Stored
from mmmed.errors import DataError
from mmmed.modalities import MODALITIES
from mmmed.modalities.columns import Files


def inputs(data: DataConfig) -> dict[str, str]:
    """What may be given of a study: by name, the column of a training table that it stands for.

    A modality of one column goes by its own name (``image``), what a table holds by the column's (``age``).
    """
    found: dict[str, str] = {}
    for name in data.modalities:
        columns = MODALITIES[name].columns(data)
        alone = MODALITIES[name].column_keys == (name,)
        found |= {name if alone else column: column for column in columns}
    return found


def cells_of(config: RunConfig, given: Mapping[str, str | Path]) -> dict[str, str]:
    """What stands in a table's columns for a study, by their names; of a file its path. Arguments as of `read_study`.

    Raises:
        DataError: a file is not there, or is no text.
    """
    names = inputs(config.data)
    return {names[name]: _told(name, value) for name, value in given.items()}


def read_study(config: RunConfig, given: Mapping[str, str | Path]) -> Records:
    """The study as the one record that a model of this configuration reads. All of it is in memory.

    Args:
        config: the model's.
        given: by the names of `inputs`: a file's path, or what stands in the cell (a note, a number, a category); for a
            note also the path of a file that holds it.

    Raises:
        DataError: a name that the model does not read, a file that is not there or cannot be read, a value that does
            not fit, or nothing that the model reads.
    """
    names = inputs(config.data)
    if unknown := sorted(given.keys() - names.keys()):
        raise DataError(f"the model does not read {unknown[0]!r}. It reads: {', '.join(names)}")
    plain = {"table": "", "fold": "", "where": {}}
    data = config.data.model_copy(update=plain)
    with TemporaryDirectory(prefix="mmmed-study-") as temporary:
        root = Path(temporary)
        cells = {names[name]: _copied(root, name, _told(name, value)) for name, value in given.items()}
        row = dict.fromkeys(names.values(), "") | cells
        row |= dict.fromkeys((data.patient, data.study or data.patient, data.site), "asked")
        with (root / "data.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(row))
            table.writeheader()
            table.writerow(row)
        asked = config.model_copy(update={"data": data})
        try:
            records = load_records(read_manifest(root, data, task=None), asked, root / "cache")
            held = {name: _held(stored, records.rows) for name, stored in records.modalities.items()}
        except DataError as error:  # whose folder the reader has never seen
            raise DataError(str(error).replace(f"{root}/data.csv: ", "").replace(f"{root}/", "")) from error
    study = replace(records, modalities=held)
    if not modalities_of(study):
        raise DataError(f"nothing that the model reads was given. It reads: {', '.join(names)}")
    return study


def modalities_of(study: Records) -> tuple[str, ...]:
    """The modalities of which a study has anything."""
    return tuple(name for name, one in study.modalities.items() if bool(one.present.any()))


def _is_file(name: str) -> bool:
    return isinstance(MODALITIES.get(name), Files)


def _told(name: str, value: str | Path) -> str:
    """What stands in the table for a value: of a file its path, of a note its text."""
    if (_is_file(name) or isinstance(value, Path)) and not Path(value).is_file():
        raise DataError(f"{name}: no file {value}")
    return _text(name, value) if isinstance(value, Path) and not _is_file(name) else str(value)


def _copied(root: Path, name: str, value: str) -> str:
    """The value; of a file the name of a copy below `root`."""
    if not _is_file(name):
        return value
    copy = root / f"{name}{''.join(Path(value).suffixes)}"
    shutil.copyfile(value, copy)
    return copy.name


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: {path} cannot be read as UTF-8 text: {error}") from error


def _held(stored: Stored, rows: np.ndarray) -> Stored:
    """The rows in memory."""
    given = stored[rows]
    return Stored(given.values.clone(), given.present)
