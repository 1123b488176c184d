"""Tasks: what a model learns to predict. Each is one file here and one section below.

The code of a task is a `mmmed.tasks.base.Target` that is built from its section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mmmed.section import Kind, Kinds

if TYPE_CHECKING:
    from mmmed.tasks.base import Target

__all__ = ["TASKS", "ClassHistograms", "Classification", "Task"]


@dataclass(frozen=True)
class ClassHistograms:
    """A private release of results: noised counts of held-out patients by class and predicted probability.

    The task's labels are then indices of `classes` classes, and its predictions their probabilities. The mechanism, its
    sensitivity and the scores that follow from such counts are in `privacy.metrics`.
    """

    classes: int


class Task(Kind):
    """The section of a task, which says what is predicted."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns of the table that hold what is to be predicted, by their keys here: they cannot be inputs."""
        raise NotImplementedError

    @property
    def release(self) -> ClassHistograms | None:
        """What a site may release of its results under privacy; None if there is no such release."""
        return None

    def target(self) -> Target:
        """The code of the task."""
        target: Target = self.load()(self)
        return target


class Classification(Task):
    """One of several classes a record, from one column."""

    implementation: ClassVar[str] = "mmmed.tasks.classification:ClassTarget"

    kind: Literal["classification"] = "classification"
    label: str = Field("finding", description="column that holds the label")
    classes: tuple[str, ...] = Field(
        ("0", "1"), description="allowed label values; with two, the second is the positive class"
    )

    @property
    def columns(self) -> Mapping[str, str]:
        return {"label": self.label}

    @property
    def release(self) -> ClassHistograms:
        return ClassHistograms(len(self.classes))

    @model_validator(mode="after")
    def _distinct(self) -> Classification:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be at least two distinct values. Found {list(self.classes)}")
        return self


TASKS = Kinds(Classification)
