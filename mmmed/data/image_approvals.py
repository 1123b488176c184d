"""Which images held for review a human has approved.

A text detector misses some text, so an image in which it masked some is no part of a data set before a human has
looked at it. ``mmmed site ingest`` lists these images in ``.ingest/masked.json`` and keeps them in the review folder
beside the data set; ``mmmed site approve-images`` notes in ``.ingest/approvals.json`` what was decided, by whom and
when, and moves what was approved into the data set. An approval is of one content: a picture that is made anew and
differs in one byte is another, which waits again. Where no decision can be read there is none.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mmmed.data.counts import rounded
from mmmed.errors import DataError
from mmmed.files import write_atomic

NAMES = "names.json"  # in the state: whether a model looked for names in notes
STATE = ".ingest"  # folder below the data set: how it was made
_MASKED, _DECISIONS = "masked.json", "approvals.json"
_VERSION = 1

Verdict = Literal["approved", "rejected"]
Status = Literal["waiting", "approved", "rejected"]


@dataclass(frozen=True)
class Decision:
    """What one person decided about one image.

    Attributes:
        item: the image's name, a pseudonym.
        sha256: of its file, in hexadecimal; this is what was decided about.
        by, at: who, and when (ISO 8601).
    """

    item: str
    sha256: str
    verdict: Verdict
    by: str
    at: str


@dataclass(frozen=True)
class ImageApprovals:
    """The images of one data set in which text was masked, and all decisions, oldest first.

    Attributes:
        masked: path below the data set -> SHA-256 of the file.
    """

    masked: Mapping[str, str]
    decisions: Sequence[Decision] = ()

    @classmethod
    def load(cls, dataset: Path) -> ImageApprovals:
        """What is noted of a data set; nothing is masked in one that `mmmed site ingest` has not made.

        Raises:
            DataError: a record is there and cannot be read. Nothing counts as approved then, and nothing is used.
        """
        masked = _read(dataset / STATE / _MASKED, "masked", _masked)
        decisions = _read(dataset / STATE / _DECISIONS, "decisions", _decisions)
        return cls(masked or {}, decisions or ())

    @functools.cached_property
    def _latest(self) -> dict[str, Verdict]:
        """SHA-256 of an image -> the latest decision about it."""
        return {one.sha256: one.verdict for one in self.decisions}

    def status(self, file: str) -> Status:
        """The status of a masked image, by the latest decision about its content."""
        return self._latest.get(self.masked[file], "waiting")

    def of_status(self, status: Status) -> list[str]:
        """The masked images of that status, sorted."""
        return sorted(file for file in self.masked if self.status(file) == status)

    def not_approved(self) -> set[str]:
        """The masked images that no table may name."""
        return {*self.of_status("waiting"), *self.of_status("rejected")}

    def rejected(self) -> list[str]:
        """SHA-256 digests of all images that were rejected, also of those whose source is gone."""
        return [digest for digest, verdict in self._latest.items() if verdict == "rejected"]

    def save_masked(self, dataset: Path) -> None:
        """Write the list of masked images."""
        write_atomic(
            dataset / STATE / _MASKED,
            json.dumps({"version": _VERSION, "masked": dict(self.masked)}, indent=1),
            mode=0o600,
        )

    def save_decisions(self, dataset: Path) -> None:
        """Write the decisions; they are on the disk when this returns."""
        decisions = [asdict(one) for one in self.decisions]
        write_atomic(
            dataset / STATE / _DECISIONS,
            json.dumps({"version": _VERSION, "decisions": decisions}, indent=1),
            mode=0o600,
        )


def review_folder(dataset: Path) -> Path:
    """Where images wait: beside the data set and not in it, since its pictures show identifiers."""
    whole = dataset.resolve()
    return whole.with_name(f"{whole.name}-review")


def check_approved(dataset: Path, files: Iterable[str]) -> int:
    """Check that a table names no masked image that is not approved; returns how many images of the data set wait.

    Raises:
        DataError: it names one, or the record cannot be read.
    """
    approvals = ImageApprovals.load(dataset)
    held = {(dataset / file).resolve() for file in approvals.not_approved()}
    if bad := len(
        held and held & {(dataset / file).resolve() for file in files if file and "\0" not in file}
    ):
        raise DataError(
            f"{dataset}: {bad} images held for review are in the table, but no record says that a human approved "
            f"them. Bring it in order with `mmmed site images {dataset}`, or ingest again"
        )
    return len(approvals.of_status("waiting"))


def waiting_note(dataset: Path, waiting: int) -> str:
    """That images wait and what to do, in one sentence; "" if none does. The count is rounded."""
    if not waiting:
        return ""
    return (
        f"{rounded(waiting)} images held for review wait for a human's approval and are not in the table: "
        f"mmmed site images {shlex.quote(str(dataset))}"
    )


def _read(path: Path, key: str, parse: Any) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']!r}")
        return parse(content[key])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: the record of masked images cannot be read ({type(error).__name__}: {error}), so nothing counts "
            "as approved. Restore it from a backup; or delete it, ingest again and look at the images again"
        ) from error


def _masked(values: dict[str, str]) -> dict[str, str]:
    for file, digest in values.items():
        _check_digest(digest)
        if not file.startswith(("images/", "clips/")):
            raise ValueError(f"no image and no clip: {file!r}")
    return values


def _decisions(values: list[dict[str, str]]) -> tuple[Decision, ...]:
    decisions = tuple(Decision(**one) for one in values)  # type: ignore[arg-type]
    for one in decisions:
        _check_digest(one.sha256)
        if one.verdict not in get_args(Verdict) or not one.by or not one.at:
            raise ValueError(f"no decision: {one}")
    return decisions


def _check_digest(digest: str) -> None:
    if len(bytes.fromhex(digest)) != 32:
        raise ValueError(f"no SHA-256: {digest!r}")


def without_name_model(dataset: Path) -> bool:
    """Whether the ingest that made a data set says that no model has looked for names in its notes."""
    try:
        return not json.loads((dataset / STATE / NAMES).read_text("utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
