"""The answer to a question about a study."""

from __future__ import annotations

from typing import ClassVar

from mmmed.tasks.base import Score
from mmmed.tasks.writing import TextTarget


class AnswerTarget(TextTarget):
    """An answer in words; the main score is how many are right word for word."""

    score: ClassVar[Score] = TextTarget.exact
    also_told: ClassVar[tuple[str, ...]] = (TextTarget.rouge.name,)
