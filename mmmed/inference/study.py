"""One study that a model is asked about, from files and values that are given by name.

A cell or a file is read by what reads a training record (`Modality.asked`), so that the model sees what it saw in
training. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mmmed.config import DataConfig, RunConfig
from mmmed.data.loader import Records
from mmmed.errors import DataError
from mmmed.modalities import MODALITIES
from mmmed.modalities.columns import Files


def inputs(data: DataConfig) -> dict[str, str]:
    """What may be given of a study: by name, the column of a training table that it stands for.

    A modality of one column goes by its own name (``image``), what others hold by the column's (``age``).
    """
    found: dict[str, str] = {}
    for name in data.modalities:
        alone = MODALITIES[name].column_keys == (name,) and isinstance(getattr(data, name), str)
        found |= {name if alone else column: column for column in MODALITIES[name].columns(data)}
    return found


def files(data: DataConfig) -> frozenset[str]:
    """Those names of `inputs` that stand for files."""
    modalities = (MODALITIES[name] for name in data.modalities)
    columns = {column for one in modalities if isinstance(one, Files) for column in one.columns(data)}
    return frozenset(name for name, column in inputs(data).items() if column in columns)


def cells_of(config: RunConfig, given: Mapping[str, str | Path]) -> dict[str, str]:
    """What stands in a table's columns for a study, by their names; of a file its path. Arguments as of `read_study`.

    Raises:
        DataError: a file is not there, or is no text.
    """
    names = inputs(config.data)
    return {names[name]: _told(name, value, name in files(config.data)) for name, value in given.items()}


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
    cells = cells_of(config, given)
    try:
        held = {name: MODALITIES[name].asked(cells, config) for name in config.data.modalities}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
    one = np.zeros(1, dtype=np.int64)
    study = Records(held, torch.full((1,), torch.nan, dtype=torch.float64), one, ("asked",), one)
    if not modalities_of(study):
        raise DataError(f"nothing that the model reads was given. It reads: {', '.join(names)}")
    return study


def modalities_of(study: Records) -> tuple[str, ...]:
    """The modalities of which a study has anything."""
    return tuple(name for name, one in study.modalities.items() if bool(one.present.any()))


def _told(name: str, value: str | Path, is_file: bool) -> str:
    """What stands in the table for a value: of a file its path, of a note its text."""
    if (is_file or isinstance(value, Path)) and not Path(value).is_file():
        raise DataError(f"{name}: no file {value}")
    if isinstance(value, Path) and not is_file:
        return _text(name, value)
    told = str(value)
    try:
        told.encode()
    except UnicodeEncodeError as error:  # a shell passes any bytes
        raise DataError(f"{name}: expected text in UTF-8") from error
    return told


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: {path} cannot be read as UTF-8 text: {error}") from error
