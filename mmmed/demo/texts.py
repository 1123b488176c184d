"""Texts to be written of a generated study: a report's impression, and a question with its answer.

All of it follows from the study's finding and outcome; how it is said, and what is asked, from a hash of its name.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from mmmed.demo.outcomes import Outcome

TEXTS = ("impression", "question", "answer")  # columns
_NAMES = {"consolidation": "consolidation", "effusion": "pleural effusion", "nodules": "lung nodules"}
_EXTENT = ("minimal", "mild", "moderate", "extensive")  # by the grade
_ILL = ("{Extent} {what}.", "Findings in keeping with {extent} {what}.", "There is {extent} {what}.")
_WELL = ("No acute finding.", "No focal opacity.", "The lungs are clear.")
_OTHERS = ("No {what}.", "Negative for {what}.")


def texts_of(study_id: str, finding: int, outcome: Outcome) -> dict[str, str]:
    """`TEXTS` of one study. The impression says what is there and how much, and one thing that is not."""
    chance = zlib.crc32(study_id.encode())
    told = {one: getattr(outcome, one) for one in _NAMES}
    there = next((one for one in _NAMES if told[one] == 1), None)
    extent = _EXTENT[outcome.grade]
    if not finding:
        sentences = [_pick(_WELL, chance)]
    else:
        what = _NAMES[there] if there else "pulmonary opacity"
        sentences = [_pick(_ILL, chance).format(what=what, extent=extent, Extent=extent.capitalize())]
    absent = [one for one in _NAMES if told[one] == 0]
    if absent:
        sentences.append(_pick(_OTHERS, chance // 7).format(what=_NAMES[_pick(absent, chance // 11)]))
    known = [one for one in _NAMES if told[one] != ""]
    if not known or chance % 4 == 0:
        question, answer = "How much of the lung is affected?", extent if finding else "none"
    else:
        asked = _pick(known, chance // 13)
        question, answer = f"Is there any {_NAMES[asked]}?", "yes" if told[asked] else "no"
    return dict(zip(TEXTS, (" ".join(sentences), question, answer), strict=True))


def _pick(choices: Sequence[str], chance: int) -> str:
    return choices[chance % len(choices)]
