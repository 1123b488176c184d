"""What de-identification finds and what it spoils, against a truth file: headers, notes, and text burned into films.

Without a truth file of one's own it takes the films with invented identifiers below `MMMED_DATA`, and always notes
into which identifiers of every textual kind of HIPAA Safe Harbor are planted on the spot.

Two sets of films are drawn with print on them that is small, huge, faint, turned or of many scripts (`bench.films`):
the detector's settings were chosen on one, the other is kept apart.

An identifier survives if any of its words, or a date in any usual spelling, can still be found; one that is burned in
if a single pixel of its box is not masked. Precision is the share of what was taken away, words or pixels, that
belongs to an identifier; other print on a film ("liegend") is taken away on purpose, and counts against it here.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import get_args

import numpy as np
from pydicom import Dataset
from scipy import ndimage

from mmmed.data.image import read_image
from mmmed.deidentify import SiteKey
from mmmed.deidentify.header import deidentify_header
from mmmed.deidentify.note_scrubbing import Scrubber
from mmmed.deidentify.pixels import Box, clear_text, mask
from mmmed.dicom.file import is_dicom, open_dicom
from mmmed.errors import DataError
from simulations.bench.films import Set
from simulations.bench.films import films as drawn_films
from simulations.bench.measure import Row, parser, publish
from simulations.bench.planted import planted_notes

LARGEST_MASKED = 0.02  # of the clean area of films: the aim
_KINDS = ("name", "id", "accession", "birth_date", "study_date")
_DATES = ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")
_KEPT = 0.03  # share of a line's ink: less than a letter
_MARGIN = 25  # pixels: the width of the filter beside whose reach the area is clean
_HARMLESS = {"street", "hospital"}  # words that name nobody and may stay
_KEY = SiteKey(bytes(32))


@dataclass(frozen=True)
class Truth:
    """What is known of one film: identifiers by kind, boxes of burned-in ones (right and bottom inclusive)."""

    file: Path
    identifiers: dict[str, str]
    boxes: tuple[Box, ...]


@dataclass
class Tally:
    """Identifiers of one kind in one place: how many there are and survive; what was taken away, and rightly so."""

    identifiers: int = 0
    survive: int = 0
    taken: int = 0
    rightly: int = 0

    def add(self, *, survives: bool, taken: int = 0, rightly: int = 0) -> None:
        self.identifiers += 1
        self.survive += survives
        self.taken += taken
        self.rightly += rightly

    @property
    def recall(self) -> float:
        return 1 - self.survive / self.identifiers

    @property
    def precision(self) -> float:
        return self.rightly / self.taken if self.taken else float("nan")


@dataclass
class Films:
    """Results over films. ``clean`` counts pixels outside all burned-in text, ``masked`` those masked nevertheless."""

    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    films: int = 0
    quarantined: int = 0
    clean: int = 0
    masked: int = 0

    @property
    def clean_masked(self) -> float:
        return self.masked / self.clean if self.clean else 0.0


def main(arguments: list[str]) -> int:
    """Measure and print. Returns 1 if an identifier survives, or more than 2 % of the clean area is masked."""
    options = parser("deidentify", (__doc__ or "").splitlines()[0], repeats=1)
    options.add_argument(
        "--truth",
        type=Path,
        help="CSV with the columns file (from the CSV's folder), any of name (DICOM, Family^Given), id, accession, "
        "birth_date, study_date (YYYYMMDD), and burned_box_xyxy: a JSON list [left, top, right, bottom] in pixels, a "
        "list of such lists, or empty (default: the films below MMMED_DATA)",
    )
    options.add_argument(
        "--films", type=int, default=100, help="films to draw of each set (default: %(default)s)"
    )
    options.add_argument("--notes", type=int, default=520, help="notes to plant (default: %(default)s)")
    chosen = options.parse_args(arguments)
    films = Films()
    try:
        if (table := chosen.truth or own_truth()) is not None:
            films = measure_films(read_truth(table))
        else:
            print("no films: set MMMED_DATA to the folder of dicom_mini, or give --truth")
    except DataError as error:
        options.error(str(error))
    planted = measure_notes(planted_notes(0, chosen.notes))
    tallies = {**films.tallies, **{f"planted note: {kind}": tally for kind, tally in planted.items()}}
    drawn = {which: measure_drawn(which, chosen.films) for which in get_args(Set)} if chosen.films else {}
    publish("De-identification", [_row(what, tally) for what, tally in tallies.items()], chosen.json)
    print(
        f"{films.films} films: {films.clean_masked:.2%} of their clean area masked, {films.quarantined} quarantined"
    )
    for which, result in drawn.items():
        print(f"{which}: {result}")
    survive = sum(tally.survive for tally in tallies.values())
    print(f"{survive} of {sum(tally.identifiers for tally in tallies.values())} identifiers survive")
    if chosen.json is not None:
        found = json.loads(chosen.json.read_text(encoding="utf-8"))
        found["films"] = {
            "films": films.films,
            "quarantined": films.quarantined,
            "clean_area_masked": films.clean_masked,
        }
        found["drawn"] = {which: asdict(result) for which, result in drawn.items()}
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(survive > 0 or films.clean_masked > LARGEST_MASKED)


def _row(what: str, tally: Tally) -> Row:
    return {
        "where and what": what,
        "identifiers": tally.identifiers,
        "survive": tally.survive,
        "recall": tally.recall,
        "precision": round(tally.precision, 4) if tally.taken else "-",
    }


def own_truth() -> Path | None:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    table = Path(os.environ.get("MMMED_DATA", default)) / "dicom_mini" / "synthetic_phi.csv"
    return table if table.is_file() else None


def read_truth(table: Path) -> list[Truth]:
    """The films of a truth file. Column names may begin with "invented_".

    Raises:
        DataError: it cannot be read, has no column `file`, or a film or box is wrong.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [
                {str(k).removeprefix("invented_"): v or "" for k, v in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error})") from error
    if not rows or "file" not in rows[0]:
        raise DataError(f"{table}: expected a column 'file' and at least one row")
    truths = []
    for number, row in enumerate(rows, start=1):
        path = table.parent / row["file"]
        if not path.is_file():
            raise DataError(f"{table}, row {number}: no file {path}")
        identifiers = {kind: row[kind].strip() for kind in _KINDS if row.get(kind, "").strip()}
        truths.append(
            Truth(path, identifiers, _boxes(row.get("burned_box_xyxy", ""), f"{table}, row {number}"))
        )
    return truths


def _boxes(text: str, where: str) -> tuple[Box, ...]:
    try:
        found = json.loads(text or "[]")
        boxes = [found] if found and not isinstance(found[0], list) else found
        return tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in boxes)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where}: burned_box_xyxy is no JSON list of boxes ({error})") from error


def measure_films(truths: Iterable[Truth]) -> Films:
    """Headers, comments and pixels of films, treated as `mmmed site ingest` and `deidentify` treat them."""
    films = Films()
    for truth in truths:
        if is_dicom(truth.file):
            dataset = open_dicom(truth.file)
            header = _texts(deidentify_header(dataset, _KEY))
            for kind, value in truth.identifiers.items():
                films.tallies[f"header: {kind}"].add(survives=_survives(value, kind, header))
            _measure_comment(dataset, truth, films)
        _measure_pixels(truth, films)
    return films


@dataclass
class Drawn:
    """Results over drawn films.

    Attributes:
        films: kind -> how many.
        cleared: kind -> how many of them are masked so that no line of print keeps more than `_KEPT` of its ink, or
            kept back because they cannot be cleared.
        kept_back: films that cannot be cleared.
        seen: films in which anything was seen, print or not.
        clean_masked: share of the area beside print that is masked, the mean over films.
        cpu_s: kind -> CPU-seconds a film, the mean.
    """

    films: dict[str, int] = field(default_factory=dict)
    cleared: dict[str, int] = field(default_factory=dict)
    kept_back: int = 0
    seen: int = 0
    clean_masked: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        printed = [kind for kind in self.films if not kind.startswith("clean")]
        total, cleared = (sum(of[kind] for kind in printed) for of in (self.films, self.cleared))
        times = [(self.cpu_s[kind], self.films[kind], "slice" in kind) for kind in self.films]
        lines = [
            f"{cleared} of {total} films with print cleared ({cleared / max(1, total):.1%}), "
            f"{self.clean_masked:.2%} of the clean area masked, {self.kept_back} kept back; "
            f"{self.seen} of {sum(self.films.values())} go to a human",
            "  "
            + ", ".join(
                f"{kind} {self.cleared[kind]}/{self.films[kind]} {self.cpu_s[kind]:.2f} s"
                for kind in self.films
            ),
        ]
        for small, name in ((False, "film"), (True, "slice")):
            some = [(seconds, count) for seconds, count, is_slice in times if is_slice == small]
            if some:
                mean = sum(s * n for s, n in some) / sum(n for _, n in some)
                lines.append(f"  {mean:.3f} CPU-s a {name}")
        return "\n".join(lines)


def measure_drawn(which: Set, count: int) -> Drawn:
    """Drawn films of one set, treated as `mmmed site ingest` treats them."""
    result = Drawn()
    clear_text(np.zeros((1, 64, 64), np.float32))  # loads the models
    for film in drawn_films(which, count):
        started = time.process_time()
        cleared = clear_text(film.pixels)
        seconds = time.process_time() - started
        masked = mask(np.ones_like(film.pixels), cleared.boxes)[0] == 0
        clear = all((masked & line).sum() >= (1 - _KEPT) * line.sum() for line in film.lines)
        kind, done = film.kind, result.films.get(film.kind, 0)
        result.films[kind] = done + 1
        result.cleared[kind] = result.cleared.get(kind, 0) + (clear or not cleared.clear)
        result.cpu_s[kind] = (result.cpu_s.get(kind, 0.0) * done + seconds) / (done + 1)
        result.kept_back += not cleared.clear
        result.seen += bool(cleared.boxes or cleared.markers or not cleared.clear)
        beside = ~np.any([ndimage.maximum_filter(line, _MARGIN) for line in film.lines], axis=0)
        result.clean_masked += float((masked & beside).mean() / count)
    return result


def _measure_comment(dataset: Dataset, truth: Truth, films: Films) -> None:
    """Patient Comments are free text: scrubbed as a note, by what the header knows."""
    comment = str(dataset.get("PatientComments") or "")
    there = {kind: value for kind, value in truth.identifiers.items() if _survives(value, kind, comment)}
    if not there:
        return
    scrubber = Scrubber(
        names=[str(dataset.get("PatientName") or "")],
        ids=[str(dataset.get("PatientID") or ""), str(dataset.get("AccessionNumber") or "")],
        dates=[str(dataset.get("PatientBirthDate") or "")],
    )
    text = scrubber.scrub(comment).text
    taken = _words(comment) - _words(text)
    known = sum((_words(value) for value in there.values()), Counter[str]())
    for kind, value in there.items():
        films.tallies[f"comment: {kind}"].add(
            survives=_survives(value, kind, text), taken=taken.total(), rightly=(taken & known).total()
        )


def _measure_pixels(truth: Truth, films: Films) -> None:
    films.films += 1
    film = read_image(truth.file, channels=1)
    cleared = clear_text(film)
    if not cleared.clear:  # in no data set: nothing survives, and nothing of it is used
        films.quarantined += 1
        for _ in truth.boxes:
            films.tallies["pixels: burned-in text"].add(survives=False)
        return
    masked = mask(np.ones_like(film), cleared.boxes)[0] == 0
    text = np.zeros_like(masked)
    for left, top, right, bottom in truth.boxes:
        here = (slice(top, bottom + 1), slice(left, right + 1))
        text[here] = True
        films.tallies["pixels: burned-in text"].add(survives=not masked[here].all())
    if truth.boxes:
        tally = films.tallies["pixels: burned-in text"]
        tally.taken, tally.rightly = (
            tally.taken + int(masked.sum()),
            tally.rightly + int((masked & text).sum()),
        )
    films.clean += int((~text).sum())
    films.masked += int((masked & ~text).sum())


def measure_notes(notes: Iterable[tuple[str, str, str]]) -> dict[str, Tally]:
    """Notes with one known identifier each, (note, identifier, kind), scrubbed without knowing anybody."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for note, identifier, kind in notes:
        text = Scrubber().scrub(note).text
        taken, known = _words(note) - _words(text), _words(identifier)
        kept = {word for word in known - taken if len(word) >= 3} - _HARMLESS
        tallies[kind].add(
            survives=identifier in text or bool(kept), taken=taken.total(), rightly=(taken & known).total()
        )
    return dict(tallies)


def _texts(dataset: Dataset) -> str:
    """All that a header says, at any depth."""
    return "\n".join(str(e.value) for e in dataset.iterall() if e.VR not in ("SQ", "OB", "OW"))


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[^\W_]+", text.casefold()))


def _survives(value: str, kind: str, text: str) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text, re.I) for form in _forms(value, kind))


def _forms(value: str, kind: str) -> Iterator[str]:
    """How an identifier may be written: each part of a name, a date in several orders."""
    if kind == "name":
        yield from (part for part in re.split(r"[\^=\s,]+", value) if len(part) > 1)
        return
    yield value
    if kind.endswith("_date"):
        try:
            day = datetime.strptime(value, "%Y%m%d")
        except ValueError:
            return
        yield from (day.strftime(form) for form in _DATES)
