"""From sources to a data set that can be trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmmed.data.handles import save_handles
from mmmed.data.image_approvals import NAMES, STATE, ImageApprovals, review_folder
from mmmed.deidentify.keys import SiteKey
from mmmed.errors import DataError
from mmmed.files import sha256_of
from mmmed.ingest.contact_sheets import pair_picture
from mmmed.ingest.items import Written
from mmmed.ingest.journal import Journal
from mmmed.ingest.note_matching import attach
from mmmed.ingest.options import IngestOptions
from mmmed.ingest.outcome import IngestReport
from mmmed.ingest.plan import Item, dicom_items, table_items
from mmmed.ingest.review import STUDIES, Review, exclusive, remove_strangers, settle
from mmmed.ingest.rows import COLUMNS, TABLE, missing_shares, study_entries, write_entries
from mmmed.ingest.scan import leave_out_undecided, scan
from mmmed.ingest.sources import Found, Skipped, clear_workspace, find_files
from mmmed.ingest.warnings import look_alikes, several_ids, two_people

Progress = Callable[[int, int], None]


def ingest(
    sources: Sequence[Path],
    out: Path,
    *,
    key: SiteKey,
    options: IngestOptions,
    files: Path | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Read, check, de-identify and pair everything in ``sources`` into the data set folder ``out``.

    ``out`` gets ``data.parquet`` (see docs/hospital-data.md), ``images/*.png`` (8 bits, as a display shows them),
    ``volumes/*.nii.gz``, ``audio/*.flac``, ``waveforms/*.npz`` and ``clips/*.png``; ``pseudonyms.json`` tells
    a ledger which key named the patients. Images and clips in which text was masked wait next to ``out`` until a
    human approves them (`mmmed.ingest.review`). Calling again continues a run that was killed.

    Args:
        sources: files, folders and archives.
        out: folder of the data set, made if need be.
        key: the site's key, which gives pseudonyms and shifts dates.
        options: what tables, values and labels mean.
        files: CSV file that says what became of every file (`IngestReport.write_files`), written even if nothing is
            usable; None for none.
        progress: called with (files done, all files of the data set); None for nobody.

    Raises:
        DataError: a source does not exist, another run works in ``out``, ``out`` holds other files, another key named
            its patients, the record of approvals cannot be read, or nothing usable was found.
    """
    if out.is_dir() and not (out / STATE).is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: holds files that are no data set of ours; name a new or an empty folder")
    with exclusive(out):
        key.mark(out)
        return _ingest(sources, out, out / STATE, key, options, files, progress)


def _ingest(
    sources: Sequence[Path],
    out: Path,
    state: Path,
    key: SiteKey,
    options: IngestOptions,
    files: Path | None,
    progress: Progress | None,
) -> IngestReport:
    decided = ImageApprovals.load(out)
    workspace = state / "unpacked"
    clear_workspace(workspace)
    try:
        found = scan(_outside(find_files(sources, workspace), out), options, key)
        leave_out_undecided(found)
        notes = attach(found, options)
        report = IngestReport(
            out / TABLE, Review(out), skipped=[*found.skipped, *notes.skipped], replaced=notes.replaced
        )
        report.unnamed = not options.name_model
        report.unusable = notes.unusable
        for column, counts in found.unusable.items():
            report.unusable[column].update(counts)
        if unread := sum(known.unread_births for known in found.patients.values()):
            report.unusable["birth date"] = Counter({"not taken, cannot be read (date_format)": unread})
        items = [
            *dicom_items(found, key, report.skipped),
            *table_items(found, notes, key, report.skipped),
        ]
        with Journal(state / "journal.jsonl") as journal:
            _write_all(items, out, journal, decided, options.workers, report, progress)
            made = list(_made(items, journal.done, report))
            used = {file.origin for item, _ in made for file in item.files}
            report.account(found.files_found, found.read, used)
            entries = list(study_entries(made, found, notes, key, options))
            if not entries:
                report.write_files(files)
                raise DataError(f"nothing usable in {', '.join(map(str, sources))}:\n{report.summary()}")
            masked = {written.file: written.sha256 for _, written in made if written.held}
            ImageApprovals(masked).save_masked(out)
            save_handles(
                out,
                {key.patient(unit): sorted(map(key.handle, ids)) for unit, ids in found.people.ids().items()},
            )
            write_entries(entries, options, out / STUDIES)
            (state / NAMES).write_text(json.dumps({"version": 1, "model": bool(options.name_model)}) + "\n")
            report.review, table = settle(out)
            report.hold(
                {file.origin for item, _ in made if item.name in report.review.waiting for file in item.files}
            )
            report.write_files(files)
            _count(table, report)
            report.missing = missing_shares(table, options)
            report.warnings += [
                *two_people(found, key),
                *several_ids(found.people, key),
                *look_alikes(items, journal.done, found.people, key),
                *(f"label {one}: empty in every study" for one in options.labels if report.missing[one] == 1),
            ]
        remove_strangers(out, table, report.review.waiting)
    finally:
        clear_workspace(workspace)
    return report


def _outside(files: Iterator[Found | Skipped], out: Path) -> Iterator[Found | Skipped]:
    """Leave the data set itself and its review alone if they lie below a source; unpacked archives excepted."""
    own, waiting, unpacked = out.resolve(), review_folder(out), (out / STATE / "unpacked").resolve()
    for file in files:
        if isinstance(file, Found):
            resolved = file.path.resolve()
            if resolved.is_relative_to(waiting):
                continue
            if resolved.is_relative_to(own) and not resolved.is_relative_to(unpacked):
                continue
        yield file


def _write_all(
    items: list[Item],
    out: Path,
    journal: Journal,
    decided: ImageApprovals,
    workers: int,
    report: IngestReport,
    progress: Progress | None,
) -> None:
    """Write the items that are not yet written; one that fails does not stop the others."""
    with ThreadPoolExecutor(workers) as pool:
        there = list(pool.map(lambda one: _is_written(one, journal.done.get(one.name), out, decided), items))
    pending = [item for item, whole in zip(items, there, strict=True) if not whole]
    done = len(items) - len(pending)
    if lost := sum(item.name in journal.done for item in pending):
        report.warnings.append(f"{lost} files of the data set were damaged or gone and had to be made again")

    def attempt(item: Item) -> str:
        """Write one item; returns the reason if that fails, else ""."""
        if journal.is_deadly(item.name):
            return "the decoder died on it, twice: convert the image"
        journal.begin(item.name)
        try:
            written = item.write(item.name, out)
            if written.file:
                written = replace(written, sha256=sha256_of(written.place(item.name, out)))
            journal.finish(item.name, written)
        except Exception as error:  # decoders meet hostile files
            journal.finish(item.name, None)
            known = isinstance(error, DataError)
            reason = str(error) if known else f"cannot be read ({type(error).__name__})"
            for file in item.files:
                reason = reason.removeprefix(f"{file.origin}: ").removeprefix(f"{file.path}: ")
            return reason
        return ""

    suspects = [item for item in pending if journal.is_suspect(item.name)]
    others = [item for item in pending if not journal.is_suspect(item.name)]
    for threads, batch in ((1, suspects), (workers, others)):
        with ThreadPoolExecutor(threads) as pool:
            for item, reason in zip(batch, pool.map(attempt, batch), strict=True):
                if reason:
                    report.skipped += [Skipped(file.origin + item.part, reason) for file in item.files]
                done += 1
                if progress is not None:
                    progress(done, len(items))


def _is_written(item: Item, written: Written | None, out: Path, decided: ImageApprovals) -> bool:
    """Whether an item's file is where its approval puts it and undamaged, so that it need not be written again."""
    if written is None or not written.file:
        return written is not None
    place = written.place(item.name, out)
    if written.held:
        status = ImageApprovals({written.file: written.sha256}, decided.decisions).status(written.file)
        if status == "rejected":
            return True
        if status == "waiting" and not pair_picture(out, item.name).is_file():
            return False
        if status == "approved" and not place.exists():
            place = out / written.file
    try:
        return sha256_of(place) == written.sha256
    except OSError:
        return False


def _made(
    items: list[Item], done: dict[str, Written], report: IngestReport
) -> Iterator[tuple[Item, Written]]:
    """Items that were written; those with text left are quarantined."""
    for item in items:
        written = done.get(item.name)
        if written is not None and not written.file:
            report.quarantined += [
                Skipped(file.origin + item.part, "text in the pixels could not be cleared")
                for file in item.files
            ]
        elif written is not None:
            yield item, written


def _count(table: pd.DataFrame, report: IngestReport) -> None:
    report.rows, report.patients = len(table), table["patient_id"].nunique()
    report.studies = table["study_id"].nunique()
    files = {column: int((table[column].drop_duplicates() != "").sum()) for column in COLUMNS.values()}
    report.images, report.volumes = files["image"], files["volume"]
    report.audio, report.waveforms, report.clips = files["audio"], files["waveform"], files["video"]
    report.notes = int(table.loc[table["text"] != "", "study_id"].nunique())
