"""Fetch what a query names into a folder, and go on where the last run stopped.

The folder is the only state: what lies in it was received whole and is not retrieved again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmmed.errors import DataError
from mmmed.files import exclusive
from mmmed.pacs.archive import Archive, Refused, Series, Unreachable, valid_uid
from mmmed.pacs.inbox import Inbox
from mmmed.pacs.query import Query

DETAILS = "incomplete.log"


@dataclass
class FetchReport:
    """What came of a fetch. Counts and reasons; which studies lack something stands in the folder alone.

    Attributes:
        folder: where the objects are.
        named, studies: how many the PACS named, and how many of them match.
        received, present: objects retrieved now, and there before.
        incomplete: (study instance UID or day, reason) of what must be fetched again.
    """

    folder: Path
    named: int = 0
    studies: int = 0
    received: int = 0
    present: int = 0
    incomplete: list[tuple[str, str]] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for the terminal; no name, id or UID."""
        lines = [
            f"{self.folder}: {self.studies} of {self.named} studies match; {self.received} objects received, "
            f"{self.present} were there already"
        ]
        for reason, count in Counter(reason for _, reason in self.incomplete).most_common():
            lines.append(f"  incomplete {count:5}  {reason}")
        if self.incomplete:
            lines.append(
                f"which ones: {self.folder / DETAILS}; run the same command again to fetch what is missing"
            )
        return "\n".join(lines)


def fetch(
    archive: Archive, query: Query, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> FetchReport:
    """Retrieve the objects of all studies that ``query`` names into ``out``/study UID/object UID.dcm.

    Objects are whole or absent; those present are not retrieved again. A study that fails does not stop the others.

    Args:
        archive: the PACS.
        query: days, modalities and description of the studies.
        out: folder of the objects, made if need be.
        progress: called with (studies done, all studies); None for nobody.

    Raises:
        DataError: another run writes ``out``, it cannot be written, the very first question fails, or the PACS cannot
            be reached (any more): what was received by then stays.
    """
    report = FetchReport(out)

    def refusal() -> DataError:
        return DataError(f"{out}: another run fetches into this folder; wait for it or name another")

    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(out / ".lock", refusal):
            for part in out.glob("*/.*.part"):  # of a run that was killed
                part.unlink()
            try:
                _fetch(archive, query, Inbox(out), report, progress)
            finally:
                _write_details(out / DETAILS, report)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}); free space or allow writing"
        ) from error
    except Unreachable as error:
        raise DataError(f"{error}\n{report.summary()}" if report.studies else str(error)) from error
    return report


def _fetch(
    archive: Archive,
    query: Query,
    inbox: Inbox,
    report: FetchReport,
    progress: Callable[[int, int], None] | None,
) -> None:
    studies = _matching(archive, query, report)
    report.studies = len(studies)
    for number, study in enumerate(studies, start=1):
        reasons: set[str] = set()
        try:
            for uid in _series(archive, query, study):
                try:
                    _complete(archive, study, uid, inbox, report)
                except Refused as error:
                    reasons.add(str(error))
        except Refused as error:
            reasons.add(str(error))
        report.incomplete += [(study, reason) for reason in sorted(reasons)]
        if progress is not None:
            progress(number, len(studies))


def _matching(archive: Archive, query: Query, report: FetchReport) -> list[str]:
    """UIDs of the matching studies, in the order of their days."""
    named: dict[str, bool] = {}
    answered = False
    for day in query.days():
        for keys in query.keys(day):
            try:
                for found in archive.find("STUDY", keys):
                    uid = valid_uid(found.get("StudyInstanceUID"))
                    named[uid] = named.get(uid, False) or query.wants_study(found, day)
                answered = True
            except Refused as error:
                if not answered:  # the next ones would fail alike
                    raise
                report.incomplete.append((f"{day}", str(error)))
    report.named = len(named)
    return [uid for uid, wanted in named.items() if wanted]


def _series(archive: Archive, query: Query, study: str) -> list[str]:
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": ""}
    found = archive.find("SERIES", keys)
    return list(
        dict.fromkeys(valid_uid(one.get("SeriesInstanceUID")) for one in found if query.wants_series(one))
    )


def _complete(archive: Archive, study: str, uid: str, inbox: Inbox, report: FetchReport) -> None:
    """Retrieve what is missing of a series. Raises `Refused` if some of it still is."""
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": uid, "SOPInstanceUID": "", "SOPClassUID": ""}
    found = archive.find("IMAGE", keys)
    objects = {valid_uid(one.get("SOPInstanceUID")): str(one.get("SOPClassUID") or "") for one in found}
    missing = inbox.lacks(study, objects)
    report.present += len(objects) - len(missing)
    if not missing:
        return
    reason = "the PACS announced objects that it did not send"
    try:
        archive.retrieve(Series(study, uid, objects), missing, inbox)
    except Refused as error:
        reason = str(error)
    finally:
        still = inbox.lacks(study, missing)
        report.received += len(missing) - len(still)
    if inbox.full is not None:
        raise inbox.full
    if still:
        raise Refused(inbox.refusal or reason)


def _write_details(path: Path, report: FetchReport) -> None:
    """Which studies and days lack something, for the engineer's eyes."""
    if not report.incomplete:
        path.unlink(missing_ok=True)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{what}: {reason}\n" for what, reason in report.incomplete)
