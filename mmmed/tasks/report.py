"""A text about the study, such as the impression of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mmmed.errors import ConfigError
from mmmed.extras import require
from mmmed.tasks import Report
from mmmed.tasks.base import Score
from mmmed.tasks.writing import TextTarget

if TYPE_CHECKING:
    import regex


class ReportTarget(TextTarget):
    """The main score is ROUGE-L; of findings that are named, F1 over what written and true texts state of them.

    A finding is stated as `mmmed site ingest` reads labels from text: neither denied nor left open
    (`mmmed.ingest.sections.finding_stated`).
    """

    score: ClassVar[Score] = TextTarget.rouge
    also_told: ClassVar[tuple[str, ...]] = (TextTarget.exact.name,)

    def __init__(self, section: Report) -> None:
        super().__init__(section)
        self._patterns: tuple[regex.Pattern[str], ...] = ()
        if section.findings:
            require("ingest", "task.findings")
            self._patterns = tuple(_compiled(name, one) for name, one in section.findings.items())

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Those of a text, and F1 of the findings: all of all records counted together, NaN if no text states one."""
        found = super().scores(predictions, labels)
        if self._patterns:
            said = self._parts(predictions, labels)[3].reshape(-1, 2, len(self._patterns))
            either, both = said.sum(), said.all(axis=1).sum()
            found["finding_f1"] = float(2 * both / either) if either else float("nan")
        return found

    def compared_further(self, written: str, true: str) -> tuple[float, ...]:
        """Whether the written text states each finding, and whether the true one does."""
        return tuple(float(_states(text, one)) for text in (written, true) for one in self._patterns)


def _compiled(name: str, pattern: str) -> regex.Pattern[str]:
    import regex

    try:
        return regex.compile(pattern, regex.I)
    except regex.error as error:
        raise ConfigError(
            f"task.findings.{name}: {pattern!r} is not a regular expression ({error}). Correct it"
        ) from error


def _states(text: str, pattern: regex.Pattern[str]) -> bool:
    from mmmed.ingest.sections import finding_stated

    try:
        return finding_stated(text, pattern)
    except (
        TimeoutError
    ):  # a pattern that takes so long on a text finds nothing in it: no text may stop a site
        return False
