"""Images held for review wait outside the data set until a human has decided on each.

`settle` makes the files and the table of a data set what the recorded decisions say, from wherever it was left: an
approved image lies in ``images`` and is named by the table, one that waits lies in the review folder, one that was
rejected is gone. A decision is recorded first and settled then, so that a kill in between loses nothing.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mmmed.data.cells import LISTED
from mmmed.data.image_approvals import STATE, Decision, ImageApprovals, Verdict, review_folder
from mmmed.errors import DataError
from mmmed.files import exclusive as hold
from mmmed.files import replacing, sha256_of
from mmmed.ingest.contact_sheets import (
    PAGE,
    close_review,
    masked_picture,
    open_review,
    pair_picture,
    waiting_pages,
)
from mmmed.ingest.rows import COLUMNS, TABLE, study_table

STUDIES = f"{STATE}/studies.jsonl"


@dataclass(frozen=True)
class Review:
    """The state of a data set's review: names of images held for review, by decision."""

    dataset: Path
    waiting: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [
            f"{self.dataset}: images held for review: {len(self.waiting)} wait, {len(self.approved)} approved, "
            f"{len(self.rejected)} rejected"
        ]
        return "\n".join([*lines, *self.next_steps()])

    def next_steps(self) -> list[str]:
        """Lines that say how to decide on the images that wait; empty if none waits."""
        if not self.waiting:
            return []
        return [
            f"{len(self.waiting)} images held for review wait for approval; they are in no table before. Look at",
            f"  {review_folder(self.dataset) / PAGE}",
            f"  mmmed site approve-images {shlex.quote(str(self.dataset))} --all   (or ITEM ..., or --reject ITEM)",
        ]


@contextmanager
def exclusive(dataset: Path) -> Iterator[None]:
    """Let one process at a time change a data set.

    Raises:
        DataError: another does, or the folder cannot be written.
    """
    state = dataset / STATE

    def refusal() -> DataError:
        return DataError(
            f"{dataset}: another run is writing this data set; wait for it or choose another folder"
        )

    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold(state / "lock", refusal):
            yield
    except OSError as error:
        raise DataError(
            f"{dataset}: cannot be written ({error.strerror or error}); free space or allow writing"
        ) from error


def put_in_order(dataset: Path) -> Review:
    """Bring a data set in line with the recorded decisions, and return what waits.

    Raises:
        DataError: `mmmed site ingest` has not made it, its record of decisions cannot be read, or another process
            changes it.
    """
    _check_ingested(dataset)
    with exclusive(dataset):
        return settle(dataset)[0]


def decide(
    dataset: Path, approve: Collection[str], reject: Collection[str] = (), *, rest: bool = False, by: str = ""
) -> Review:
    """Record a person's decisions on images, and settle the data set.

    Args:
        dataset: the data set's folder.
        approve, reject: names of images.
        rest: approve all that wait and are not rejected, too.
        by: who decides; the user of the operating system by default.

    Raises:
        DataError: a name is none of an image held for review, is in both lists, or was rejected before; a picture is
            gone or is not the one that was shown. Then nothing is decided.
    """
    _check_ingested(dataset)
    with exclusive(dataset):
        before, _ = settle(dataset)  # a run that was killed may have left decisions unsettled
        approvals = ImageApprovals.load(dataset)
        digests = {_item(file): digest for file, digest in approvals.masked.items()}
        chosen = set(approve) | (set(before.waiting) - set(reject) if rest else set())
        _check_names(dataset, before, chosen, set(reject))
        for item in sorted(chosen - set(before.approved)):
            # Approval is of the picture that was shown, not of whatever has its name now.
            _check_picture(masked_picture(dataset, item), digests[item])
        when = datetime.now(UTC).isoformat(timespec="seconds")
        verdicts: list[tuple[str, Verdict]] = [
            *((item, "approved") for item in sorted(chosen - set(before.approved))),
            *((item, "rejected") for item in sorted(set(reject) - set(before.rejected))),
        ]
        decided = [Decision(item, digests[item], verdict, by or _login(), when) for item, verdict in verdicts]
        # Recorded before any file moves: from here on a kill is made up for by the next `settle`.
        ImageApprovals(approvals.masked, (*approvals.decisions, *decided)).save_decisions(dataset)
        return settle(dataset)[0]


def settle(dataset: Path) -> tuple[Review, pd.DataFrame]:
    """Bring files, table and pages in line with the recorded decisions; returns the review and the table.

    The data set must be held by `exclusive`.
    """
    approvals = ImageApprovals.load(dataset)
    waiting = approvals.of_status("waiting")
    if waiting:  # before any image is moved into the folder
        open_review(dataset)
    for file, digest in approvals.masked.items():
        _place(dataset, file, digest, approvals.status(file))
    table = study_table(dataset / STUDIES, approvals.not_approved())
    with replacing(dataset / TABLE) as partial:
        table.to_parquet(partial, index=False)
    if waiting:
        waiting_pages(dataset, [_item(file) for file in waiting])
    else:
        close_review(dataset)
    names = (tuple(map(_item, approvals.of_status(status))) for status in ("waiting", "approved", "rejected"))
    return Review(dataset, *names), table


def remove_strangers(dataset: Path, table: pd.DataFrame, waiting: Collection[str]) -> None:
    """Delete files that no row names any more, and pictures of images that no longer wait."""
    named = {name for column in COLUMNS.values() for name in table[column]}
    for folder in COLUMNS:
        for file in (dataset / folder).glob("*"):
            if f"{folder}/{file.name}" not in named:
                file.unlink()
    for folder in ("masked", "pairs"):
        for file in (review_folder(dataset) / folder).glob("*"):
            if file.stem not in waiting:
                file.unlink()


def _place(dataset: Path, file: str, digest: str, status: str) -> None:
    """Move one image into the data set, move it out to wait for approval, or delete it, by its status."""
    item = _item(file)
    used, waits, pair = dataset / file, masked_picture(dataset, item), pair_picture(dataset, item)
    if status == "approved":
        if waits.exists():
            _check_picture(waits, digest)
            _move(waits, used)
    elif status == "waiting":
        if used.exists():  # its approval is gone
            if not waits.exists() and sha256_of(used) == digest:
                _move(used, waits)
            used.unlink(missing_ok=True)  # a picture that nobody approved, whatever it is
    else:
        used.unlink(missing_ok=True)
        waits.unlink(missing_ok=True)
    if status != "waiting":
        pair.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    """Move a file, also to another file system; ``target`` is whole or not there."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
    source.unlink()


def _check_ingested(dataset: Path) -> None:
    if not (dataset / STUDIES).is_file():
        raise DataError(f"{dataset}: no data set that this version's `mmmed site ingest` made; run it again")


def _check_names(dataset: Path, known: Review, approve: set[str], reject: set[str]) -> None:
    where = f"`mmmed site images {dataset}` says where the names are"
    if strangers := sorted((approve | reject) - {*known.waiting, *known.approved, *known.rejected}):
        raise DataError(f"{dataset}: no image held for review is named {_some(strangers)}; {where}")
    if both := sorted(approve & reject):
        raise DataError(f"{dataset}: approved and rejected at once: {_some(both)}")
    if gone := sorted(approve & set(known.rejected)):
        raise DataError(f"{dataset}: rejected before, and deleted: {_some(gone)}. That cannot be taken back")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _check_picture(path: Path, digest: str) -> None:
    """Raise `DataError` unless the picture is the very one that was made."""
    if not path.is_file():
        raise DataError(f"{path}: the picture is gone; ingest again, then look at it")
    if sha256_of(path) != digest:
        raise DataError(f"{path}: not the picture that ingest made; delete it, ingest again, then look at it")


def _item(file: str) -> str:
    return Path(file).stem


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without such a user
        return f"uid {os.getuid()}"
