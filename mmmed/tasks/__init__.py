"""Tasks: what a model learns to predict. Each is one section below."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmmed.section import Kind, Kinds

__all__ = ["TASKS", "Classification", "Task"]


class Task(Kind):
    """What is predicted."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that hold what is to be predicted: they cannot be inputs."""
        raise NotImplementedError


class Classification(Task):
    """One of several classes a record, from one column."""

    kind: Literal["classification"] = "classification"
    label: str = Field("finding", description="column that holds the label")
    classes: tuple[str, ...] = Field(
        ("0", "1"), description="allowed label values; with two, the second is the positive class"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.label,)

    @model_validator(mode="after")
    def _distinct(self) -> Classification:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be at least two distinct values. Found {list(self.classes)}")
        return self


TASKS = Kinds(Classification)
