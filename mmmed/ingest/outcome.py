"""The result of an ingest, for the site's engineer: it names files of the hospital and stays there."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmmed.errors import DataError
from mmmed.ingest.review import Review
from mmmed.ingest.sources import Skipped

_UNNAMED = (
    "  no name_model: names in notes that no header knows and no title or label introduces are still there; state "
    "one, or "
    "read a sample"
)


@dataclass
class IngestReport:
    """The result of an ingest.

    Attributes:
        table: the data set's table of studies.
        rows, patients, studies, images, volumes, audio, waveforms, clips, notes: how many there are in it.
        taken, waiting: files of which something was taken; those whose image waits for approval.
        skipped: what was left out, with reasons: files, and rows and resources of files.
        quarantined: files with images in which text may be left; they are not in the data set.
        review: images in which text was masked, by what a human has decided; what waits is in no table.
        replaced: identifiers replaced in notes, by kind.
        missing: value or label -> share of the studies in which it is empty.
        unusable: value -> what was written but is no number in a known unit within its range.
        unnamed: no model has looked for names in notes.
        warnings: what a human should look into.
    """

    table: Path
    review: Review
    rows: int = 0
    patients: int = 0
    studies: int = 0
    images: int = 0
    volumes: int = 0
    audio: int = 0
    waveforms: int = 0
    clips: int = 0
    notes: int = 0
    taken: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    quarantined: list[Skipped] = field(default_factory=list)
    replaced: Counter[str] = field(default_factory=Counter)
    missing: dict[str, float] = field(default_factory=dict)
    unusable: dict[str, Counter[str]] = field(default_factory=dict)
    unnamed: bool = False
    warnings: list[str] = field(default_factory=list)

    def account(self, found: list[str], read: set[str], used: set[str]) -> None:
        """Sort every file of ``found`` into exactly one of taken, skipped and quarantined.

        Args:
            found: origins of all files.
            read: origins of files of which text or values were read; they are taken unless they were skipped.
            used: origins of files from which something was written; they are taken even if they were also skipped,
                as signals are that two records name.
        """
        self.skipped = [one for one in _once(self.skipped) if one.origin not in used]
        self.quarantined = [one for one in _once(self.quarantined) if one.origin not in used]
        told = {one.origin for one in (*self.skipped, *self.quarantined)}
        self.taken = [origin for origin in found if origin in read | used and origin not in told]
        told |= set(self.taken)
        self.skipped += [
            Skipped(origin, "nothing in it belongs to a study that is taken")
            for origin in found
            if origin not in told
        ]

    def hold(self, origins: set[str]) -> None:
        """Move files whose image waits for approval from the taken files to the waiting ones."""
        self.waiting = [origin for origin in self.taken if origin in origins]
        self.taken = [origin for origin in self.taken if origin not in origins]

    def write_files(self, path: Path | None) -> None:
        """Write a CSV of every file with its outcome (taken, waits, left out, quarantined) and the reason, if `path`.

        Rows of tables and resources of exports that were left out follow as ``FILE row 7``. Readable by its owner
        alone: it names the hospital's files. Raises `DataError` if it cannot be written.
        """
        if path is None:
            return
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "outcome", "reason"])
                writer.writerows(self._outcomes())
        except OSError as error:
            raise DataError(f"{path}: the list cannot be written ({error.strerror}); name another") from error

    def _outcomes(self) -> Iterator[tuple[str, str, str]]:
        for origin in self.taken:
            yield origin, "taken", ""
        for origin in self.waiting:
            yield origin, "waits", "text was masked in it: approve or reject the image"
        for outcome, several in (("left out", self.skipped), ("quarantined", self.quarantined)):
            for one in several:
                yield one.origin, outcome, one.reason

    def summary(self) -> str:
        """A few lines for the terminal, without names of files: `write_files` lists these."""
        lines = [
            f"{self.table}: {self.rows} rows, {self.patients} patients, {self.studies} studies, "
            f"{self.images} images, {self.volumes} volumes, {self.audio} sounds, {self.waveforms} waveforms, "
            f"{self.clips} clips, {self.notes} studies with notes",
            *_counted("left out", self.skipped),
            *_counted("quarantined", self.quarantined),
            *(f"  replaced in notes {count:5}  {kind}" for kind, count in self.replaced.most_common()),
            *(f"  empty in {share:4.0%} of studies: {column}" for column, share in self.missing.items()),
            *(
                f"  {column}: {count} {reason}"
                for column, counts in self.unusable.items()
                for reason, count in counts.most_common()
                if count
            ),
            *([_UNNAMED] if self.unnamed and self.notes else []),
            *(f"  warning: {warning}" for warning in self.warnings),
            *self.review.next_steps(),
        ]
        return "\n".join(lines)


def _once(several: list[Skipped]) -> list[Skipped]:
    """The entries without repetition: the first of each origin."""
    return list({one.origin: one for one in reversed(several)}.values())[::-1]


def _counted(what: str, several: list[Skipped]) -> list[str]:
    """A line for each reason with how often it occurs; reasons that differ in numbers alone are one."""
    reasons = Counter(re.sub(r"\d+", "N", one.reason) for one in several)
    return [f"  {what} {count:5}  {reason}" for reason, count in reasons.most_common()]
