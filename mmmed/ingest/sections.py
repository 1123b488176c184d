"""Sections of a report, and labels read from it with negation.

A conclusion must be kept out of the input when it is the label: `select_sections` keeps what is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import regex

Section = Literal["history", "technique", "findings", "impression", "other"]

_HEADINGS: dict[str, str] = {
    "history": r"clinical (?:history|information|indication)|history|indications?|"
    r"reason for (?:exam(?:ination)?|study)|anamnese|klinische angaben|fragestellung|indikation",
    "technique": r"technique|procedure|comparison|exam(?:ination)?|technik|voraufnahmen?",
    "findings": r"findings?|report|befund",
    "impression": r"impressions?|conclusions?|assessment|opinion|summary|diagnos[ie]s|beurteilung|diagnose",
}
_HEADING = re.compile(
    r"^[ \t]*(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in _HEADINGS.items())
    + r")[ \t]*(?::|$)[ \t]*",
    re.I | re.M,
)
_SENTENCE = re.compile(r"(?<=[.!?;\n])\s+|\n")
# NegEx (Chapman et al., J Biomed Inform 34:301, 2001): triggers before and after a finding, and what ends their reach
_BEFORE = re.compile(
    r"\b(?:no(?: evidence| sign| signs)?(?: of)?|not|without|absence of|negative for|free of|denie[sd]|"
    r"rules? out|ruled out|resolved|kein(?:e[nrsm]?)?|ohne|nicht|ausschluss)\b[^.;]{0,60}$",
    re.I,
)
_AFTER = re.compile(
    r"[^.;]{0,40}\b(?:is|was|are|were)?\s*(?:ruled out|excluded|absent|resolved|not seen|unlikely|ausgeschlossen)\b",
    re.I,
)
SLOWEST = 1.0  # seconds for a site's own pattern and one sentence
_REACH = 100  # characters: the longest trigger and what may stand between it and the finding
_PIVOT = re.compile(r"\b(?:but|however|although|except|aber|jedoch)\b", re.I)  # fmt: skip


def select_sections(text: str, keep: Sequence[Section]) -> str:
    """The sections named by ``keep``, or the whole text if it is empty. Text before the first heading is ``other``."""
    if not keep:
        return text
    marks = list(_HEADING.finditer(text))
    starts = [mark.start() for mark in marks] + [len(text)]
    parts = [("other", text[: starts[0]])]
    parts += [
        (str(mark.lastgroup), text[mark.end() : end]) for mark, end in zip(marks, starts[1:], strict=True)
    ]
    return "\n".join(part.strip() for name, part in parts if name in keep and part.strip())


def finding_stated(text: str, pattern: regex.Pattern[str]) -> bool:
    """Whether some sentence states what ``pattern`` matches without negating it.

    Raises `TimeoutError` if it takes longer than `SLOWEST` on one sentence, as nested repetition may.
    """
    for sentence in _SENTENCE.split(text):
        for clause in _PIVOT.split(sentence):
            for match in pattern.finditer(clause, timeout=SLOWEST):
                near = max(0, match.start() - _REACH)
                if not _BEFORE.search(clause, near, match.start()) and not _AFTER.match(clause, match.end()):
                    return True
    return False
