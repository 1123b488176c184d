"""Erase patients from a data set that `mmmed site ingest` has made. What it was made from is the hospital's own."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

from mmmed.data.handles import load_handles, save_handles
from mmmed.data.image_approvals import STATE, ImageApprovals
from mmmed.errors import DataError
from mmmed.files import replacing
from mmmed.ingest.review import STUDIES, exclusive, remove_strangers, settle

_JOURNAL = f"{STATE}/journal.jsonl"


@dataclass(frozen=True)
class Removed:
    """How many studies and files of patients were erased."""

    studies: int
    files: int


def check_removable(dataset: Path) -> None:
    """Raise `DataError` unless `mmmed site ingest` has made the data set."""
    if not (dataset / STUDIES).is_file():
        raise DataError(
            f"{dataset}: no data set that `mmmed site ingest` made, so its files are the hospital's own to erase; "
            "leave out --erase"
        )


def remove_patients(dataset: Path, gone: Container[str]) -> Removed:
    """Erase the rows, images, volumes, recordings, notes and review pictures of some patients.

    The table is made anew without them before their files go. Killed half-way, it goes on when called again: what no
    row names is deleted.

    Args:
        dataset: the data set's folder.
        gone: pseudonyms of the patients.

    Raises:
        DataError: ingest has not made the data set, or another process changes it.
    """
    check_removable(dataset)
    studies = dataset / STUDIES
    with exclusive(dataset):
        header, *lines = studies.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines]
        left = [entry["shared"]["patient_id"] in gone for entry in entries]
        files = {file for entry, out in zip(entries, left, strict=True) if out for file, _ in entry["files"]}
        kept = [line for line, out in zip(lines, left, strict=True) if not out]
        _rewrite(studies, header + "".join(kept))
        approvals = ImageApprovals.load(dataset)
        masked = {file: digest for file, digest in approvals.masked.items() if file not in files}
        replace(approvals, masked=masked).save_masked(dataset)
        handles = load_handles(dataset)
        save_handles(dataset, {name: ids for name, ids in handles.items() if name not in gone})
        _forget(dataset / _JOURNAL, {Path(file).name.partition(".")[0] for file in files})
        review, table = settle(dataset)
        remove_strangers(dataset, table, review.waiting)
    return Removed(sum(left), len(files))


def _forget(journal: Path, items: Container[str]) -> None:
    """Take what was made of some items out of the journal."""
    if journal.is_file():
        lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
        _rewrite(journal, "".join(line for line in lines if _item(line) not in items))


def _item(line: str) -> str:
    try:
        return str(json.loads(line)["item"])
    except (ValueError, KeyError, TypeError):  # a line cut by a kill
        return ""


def _rewrite(path: Path, content: str) -> None:
    with replacing(path, durable=True, mode=0o600) as partial:
        partial.write_text(content, encoding="utf-8")
