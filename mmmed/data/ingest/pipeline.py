"""From sources to a data set that can be trained on."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image

from mmmed.data.deidentify.header import shift_date
from mmmed.data.deidentify.keys import SiteKey
from mmmed.data.deidentify.pixels import contact_sheet
from mmmed.data.dicom.series import Geometry, geometry
from mmmed.data.ingest.items import Written, copy_nifti, write_image, write_volume
from mmmed.data.ingest.journal import Journal
from mmmed.data.ingest.notes import Notes, attach
from mmmed.data.ingest.options import IngestOptions
from mmmed.data.ingest.scan import Instance, Scan, scan
from mmmed.data.ingest.sources import Found, Skipped, clear_workspace, find_files
from mmmed.errors import DataError

TABLE = "data.parquet"
_PAIRS_A_SHEET = 60
_SIMILAR_BITS = 10  # of 256; chest films of different patients differ in 18 and more
Progress = Callable[[int, int], None]


@dataclass
class IngestReport:
    """What came of the sources. It names files of the hospital: it stays with the engineer.

    Attributes:
        table: the data set's table of studies.
        rows, patients, studies, images, volumes, notes: how many there are in it.
        skipped: what was left out, with reasons.
        quarantined: images in which text may be left; they are not in the data set.
        sheets: contact sheets of changed images, for a human to approve and then delete.
        replaced: identifiers replaced in notes, by kind.
        warnings: what a human should look into.
    """

    table: Path
    rows: int = 0
    patients: int = 0
    studies: int = 0
    images: int = 0
    volumes: int = 0
    notes: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    quarantined: list[Skipped] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)
    replaced: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for the terminal."""
        reasons = Counter(re.sub(r"\d+", "N", one.reason) for one in self.skipped)
        lines = [
            f"{self.table}: {self.rows} rows, {self.patients} patients, {self.studies} studies, "
            f"{self.images} images, {self.volumes} volumes, {self.notes} studies with notes",
            *(f"  left out {count:5}  {reason}" for reason, count in reasons.most_common()),
            *(f"  quarantined {one.origin}: {one.reason}" for one in self.quarantined),
            *(f"  replaced in notes {count:5}  {kind}" for kind, count in self.replaced.most_common()),
            *(f"  approve, then delete: {sheet}" for sheet in self.sheets),
            *(f"  warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Item:
    """One image or volume to write, and whose it is."""

    name: str
    files: tuple[Found, ...]
    patient: str
    study: str
    facts: dict[str, str]
    dicom: bool
    volume: Geometry | None = None

    def write(self, out: Path) -> Written:
        if self.volume is not None:
            return write_volume(list(self.files), self.volume, self.name, out)
        if self.files[0].path.name.lower().endswith((".nii", ".nii.gz")):
            return copy_nifti(self.files[0], self.name, out)
        return write_image(self.files[0], self.name, out, dicom=self.dicom)


def ingest(
    sources: Sequence[Path],
    out: Path,
    *,
    key: SiteKey,
    options: IngestOptions,
    progress: Progress | None = None,
) -> IngestReport:
    """Read, check, de-identify and pair everything in ``sources`` into the data set folder ``out``.

    ``out`` gets ``data.parquet`` (columns patient_id, study_id, site, image, text, facts of the header, the
    kept columns and labels), ``images/*.png`` (8 bits, as a display shows them) and ``volumes/*.nii.gz``;
    ``review/`` shows what was masked and is for human eyes at the site only. A run that was killed is gone on
    with by calling again. ``progress(done, total)`` counts images and volumes.

    Raises `DataError` if a source does not exist, another run works in ``out``, or nothing usable was found.
    """
    state = out / ".ingest"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(state / "lock", timeout=0):
            return _ingest(sources, out, state, key, options, progress)
    except Timeout as error:
        raise DataError(
            f"{out}: another run is writing this data set; wait for it or choose another folder"
        ) from error
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}); free space or allow writing"
        ) from error


def _ingest(
    sources: Sequence[Path],
    out: Path,
    state: Path,
    key: SiteKey,
    options: IngestOptions,
    progress: Progress | None,
) -> IngestReport:
    workspace = state / "unpacked"
    clear_workspace(workspace)
    try:
        found = scan(_outside(find_files(sources, workspace), out), options)
        notes = attach(found, options)
        report = IngestReport(out / TABLE, skipped=[*found.skipped, *notes.skipped], replaced=notes.replaced)
        items = [*_dicom_items(found, key, report), *_table_items(notes, key, report)]
        with Journal(state / "journal.jsonl") as journal:
            _write_all(items, out, journal, options.workers, report, progress)
            rows = _rows(items, journal.done, notes, key, options, report)
            if not rows:
                raise DataError(f"nothing usable in {', '.join(map(str, sources))}:\n{report.summary()}")
            _write_table(rows, report)
            report.warnings += _two_people(found, key) + _look_alikes(items, journal.done, key)
        _remove_strangers(out, {row["image"] for row in rows} | {row["volume"] for row in rows}, items)
        report.sheets = _sheets(out / "review")
    finally:
        clear_workspace(workspace)
    return report


def _outside(files: Iterator[Found | Skipped], out: Path) -> Iterator[Found | Skipped]:
    """Leave the data set itself alone if it lies below a source; unpacked archives excepted."""
    own, unpacked = out.resolve(), (out / ".ingest" / "unpacked").resolve()
    for file in files:
        if isinstance(file, Found):
            resolved = file.path.resolve()
            if resolved.is_relative_to(own) and not resolved.is_relative_to(unpacked):
                continue
        yield file


def _dicom_items(found: Scan, key: SiteKey, report: IngestReport) -> Iterator[_Item]:
    """Series that form a volume as one item each, all other images as one each."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for one in found.instances:
        series[one.series].append(one)
    for uid, instances in series.items():
        if len({(one.patient, one.study) for one in instances}) > 1:
            report.skipped += [
                Skipped(one.found.origin, "series of several patients or studies") for one in instances
            ]
            continue
        slices = [replace(plane, file=i) for i, one in enumerate(instances) for plane in one.slices]
        volume = geometry(slices) if len(slices) > 2 and all(one.slices for one in instances) else None
        if isinstance(volume, str):
            report.skipped += [Skipped(one.found.origin, volume) for one in instances]
        elif volume is not None:
            yield _item(key, f"{uid}\0" + "\0".join(sorted(one.sop for one in instances)), instances, volume)
        else:
            for one in instances:
                yield _item(key, one.sop, [one], None)


def _item(key: SiteKey, identity: str, instances: list[Instance], volume: Geometry | None) -> _Item:
    sizes = "\0".join(str(one.found.path.stat().st_size) for one in instances)
    name = key.pseudonym("item", f"{identity}\0{sizes}")
    first = instances[0]
    files = tuple(one.found for one in instances)
    return _Item(name, files, first.patient, first.study, first.facts, True, volume)


def _table_items(notes: Notes, key: SiteKey, report: IngestReport) -> Iterator[_Item]:
    for row, study in notes.images:
        assert row.image is not None
        path, root = row.image, Path(row.origin.rpartition(" row ")[0]).parent
        origin = f"{row.origin} ({path.name})"
        if not path.is_file() or path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
            report.skipped.append(
                Skipped(origin, "image that is missing, a link or outside the table's folder")
            )
            continue
        stat = path.stat()
        name = key.pseudonym("item", f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}")
        yield _Item(name, (Found(path, origin),), notes.studies[study].patient, study, {}, False)


def _write_all(
    items: list[_Item],
    out: Path,
    journal: Journal,
    workers: int,
    report: IngestReport,
    progress: Progress | None,
) -> None:
    """Write what the journal does not have; one item's failure is its own."""
    pending = [item for item in items if not _is_written(item, journal, out)]
    done = len(items) - len(pending)

    def attempt(item: _Item) -> Skipped | None:
        if journal.is_deadly(item.name):
            return Skipped(item.files[0].origin, "the decoder died on it, twice: convert the image")
        journal.begin(item.name)
        try:
            journal.finish(item.name, item.write(out))
        except Exception as error:  # decoders meet hostile files
            journal.finish(item.name, None)
            known = isinstance(error, DataError)
            reason = str(error) if known else f"cannot be read ({type(error).__name__})"
            for file in item.files[:1]:
                reason = reason.removeprefix(f"{file.origin}: ").removeprefix(f"{file.path}: ")
            return Skipped(item.files[0].origin, reason)
        return None

    suspects = [item for item in pending if journal.is_suspect(item.name)]
    others = [item for item in pending if not journal.is_suspect(item.name)]
    for threads, batch in ((1, suspects), (workers, others)):
        with ThreadPoolExecutor(threads) as pool:
            for failure in pool.map(attempt, batch):
                if failure is not None:
                    report.skipped.append(failure)
                done += 1
                if progress is not None:
                    progress(done, len(items))


def _is_written(item: _Item, journal: Journal, out: Path) -> bool:
    written = journal.done.get(item.name)
    return written is not None and (not written.file or (out / written.file).is_file())


def _rows(
    items: list[_Item],
    done: dict[str, Written],
    notes: Notes,
    key: SiteKey,
    options: IngestOptions,
    report: IngestReport,
) -> list[dict[str, object]]:
    """One row an image or volume, and one for a study that has notes alone."""
    rows = []
    pictured: set[str] = set()
    for item in items:
        written = done.get(item.name)
        if written is None:
            continue
        if not written.file:
            report.quarantined.append(
                Skipped(item.files[0].origin, "text in the pixels could not be cleared")
            )
            continue
        pictured.add(item.study)
        rows.append(_row(item.patient, item.study, item.facts, written, notes, key, options))
    for study, entry in notes.studies.items():
        if study not in pictured and entry.text:
            rows.append(_row(entry.patient, study, {}, None, notes, key, options))
    return rows


def _row(
    patient: str, study: str, facts: dict[str, str], written: Written | None, notes: Notes, key: SiteKey,
    options: IngestOptions,
) -> dict[str, object]:  # fmt: skip
    entry = notes.studies.get(study)
    file = written.file if written else ""
    columns = [*(options.table.keep if options.table else ()), *options.labels]
    values = entry.values if entry else {}
    row: dict[str, object] = {
        "patient_id": key.pseudonym("patient", patient),
        "study_id": key.pseudonym("study", study),
        "site": options.site,
        "image": file if file.startswith("images/") else "",
        "volume": file if file.startswith("volumes/") else "",
        "text": entry.text if entry else "",
    }
    for name in ("modality", "view", "body_part", "laterality", "sex"):
        row[name] = facts.get(name, "")
    row["age"] = float(facts["age"]) if facts.get("age") else None
    row["study_date"] = shift_date(facts.get("study_date", ""), key.shift_days(patient))
    row["shape"] = json.dumps(written.shape if written else ())
    row["spacing_mm"] = json.dumps([round(v, 4) for v in written.spacing] if written else ())
    return row | {column: values.get(column) for column in columns}


def _write_table(rows: list[dict[str, object]], report: IngestReport) -> None:
    frame = pd.DataFrame(rows).sort_values(["patient_id", "study_id", "image", "volume"], ignore_index=True)
    temporary = report.table.with_name(f"part-{report.table.name}")
    frame.to_parquet(temporary, index=False)
    temporary.replace(report.table)
    report.rows, report.patients = len(frame), frame["patient_id"].nunique()
    report.studies = frame["study_id"].nunique()
    report.images, report.volumes = int((frame["image"] != "").sum()), int((frame["volume"] != "").sum())
    report.notes = int(frame.loc[frame["text"] != "", "study_id"].nunique())


def _two_people(found: Scan, key: SiteKey) -> list[str]:
    """Patient ids under which headers name several people, by birth date or sex."""
    return [
        f"patient {key.pseudonym('patient', patient)}: one id, but {len(known.births)} birth dates and "
        f"{len(known.sexes)} sexes in the headers; check whether these are different people"
        for patient, known in found.patients.items()
        if len(known.births) > 1 or len(known.sexes) > 1
    ]


def _look_alikes(items: list[_Item], done: dict[str, Written], key: SiteKey) -> list[str]:
    """Pairs of patients who share a (nearly) identical image."""
    prints = [(item, done[item.name].fingerprint) for item in items if item.name in done]
    prints = [(item, text) for item, text in prints if text and text.strip("0")]
    if not prints:
        return []
    bits = np.unpackbits(np.array([list(bytes.fromhex(text)) for _, text in prints], np.uint8), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    pairs: set[tuple[str, str]] = set()
    for start in range(0, len(signs), 1024):
        distance = (256 - signs[start : start + 1024] @ signs.T) / 2
        for i, j in zip(*np.nonzero(distance <= _SIMILAR_BITS), strict=True):
            a, b = prints[start + i][0].patient, prints[j][0].patient
            if a < b:
                pairs.add((key.pseudonym("patient", a), key.pseudonym("patient", b)))
    return [
        f"patients {a} and {b} share a nearly identical image: one person with two ids?"
        for a, b in sorted(pairs)
    ]


def _remove_strangers(out: Path, kept: set[object], items: list[_Item]) -> None:
    """Remove files of earlier runs that the table does not name any more: their source is gone."""
    for folder in ("images", "volumes"):
        for file in (out / folder).glob("*"):
            if f"{folder}/{file.name}" not in kept:
                file.unlink()
    names = {f"{item.name}.png" for item in items}
    for file in (out / "review").glob("*.png"):
        if file.name not in names:
            file.unlink()


def _sheets(folder: Path) -> list[Path]:
    pairs = sorted(folder.glob("*.png"))
    sheets = []
    for number, start in enumerate(range(0, len(pairs), _PAIRS_A_SHEET), start=1):
        sheets.append(folder / f"sheet-{number}.png")
        contact_sheet(
            [np.asarray(Image.open(pair)) for pair in pairs[start : start + _PAIRS_A_SHEET]], sheets[-1]
        )
    return sheets
