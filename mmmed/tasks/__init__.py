"""Tasks: what a model learns to predict. Each is one file here and one section below.

The code of a task is a `mmmed.tasks.base.Target` that is built from its section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from mmmed.section import FrozenDict, FrozenTable, Kind, Kinds, PositiveFloat, later

if TYPE_CHECKING:
    from mmmed.config import RunConfig
    from mmmed.models.decoder import Decoder
    from mmmed.tasks.base import Target

__all__ = [
    "TASKS",
    "Classification",
    "Multilabel",
    "Ordinal",
    "Regression",
    "Release",
    "Report",
    "Several",
    "Survival",
    "Task",
    "VisualQuestions",
]


@dataclass(frozen=True)
class Release:
    """A private release of a task's results, of which `mmmed.tasks.base.Target.evidence` says what it is made from.

    The mechanism, its sensitivity and the scores that follow from it are in `privacy.metrics`.

    Attributes:
        kind: "tables", counts by answer and probability of questions with yes or no; "errors", sums of errors of a
            number between bounds; "concordance", counts by interval, event and risk; "agreement", sums of a share
            that a record has right.
        size: how many questions, numbers or intervals.
    """

    kind: Literal["tables", "errors", "concordance", "agreement"]
    size: int = 1


class Task(Kind):
    """The section of a task, which says what is predicted.

    Attributes:
        together: how many records' activations training may hold at once, as `Modality.together` says of encoders.
    """

    together: ClassVar[int] = 256

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns of the table that hold what is to be predicted, by their keys here: they cannot be inputs."""
        raise NotImplementedError

    @property
    def release(self) -> Release | None:
        """What a site may release of its results under privacy; None if there is no such release."""
        return None

    @property
    def model_label(self) -> str:
        """What the task adds to the model, in the name by which a policy allows it and in a report; "" for nothing."""
        return ""

    @property
    def adapters(self) -> bool:
        """Whether ``trainable = "lora"`` adapts what the task adds to the model."""
        return False

    def decoder(self, config: RunConfig) -> Decoder | None:
        """What writes the answer of a task of text; None if the fusion's outputs are the answer.

        Raises:
            ModelError: its weights or its tokenizer cannot be had here.
        """
        return None

    def given(self, name: str) -> str:
        """The keys that say where a part of the model, or of `further_digests`, comes from; "" if none does."""
        return ""

    def further_digests(self) -> dict[str, str]:
        """Digests, by name, of what the answer needs beside the model's parameters, such as a tokenizer."""
        return {}

    def target(self) -> Target:
        """The code of the task."""
        target: Target = self.load()(self)
        return target


class _Classes(Task):
    """Keys of a task whose label is one of several values of a column."""

    label: str = Field("finding", description="column that holds the label")
    classes: tuple[str, ...] = Field(
        ("0", "1"), description="allowed label values; with two, the second is the positive class"
    )

    @property
    def columns(self) -> Mapping[str, str]:
        return {"label": self.label}

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be at least two distinct values. Found {list(self.classes)}")
        return self


class Classification(_Classes):
    """One of several classes a record, from one column."""

    implementation: ClassVar[str] = "mmmed.tasks.classification:ClassTarget"

    kind: Literal["classification"] = "classification"
    weights: tuple[PositiveFloat, ...] = later(
        (), description="of a record's loss by its class, public numbers; empty for 1 each"
    )
    focal: float = later(
        0.0,
        ge=0,
        le=10,
        description="power of 1 - p of the focal loss, which counts what is easy less; 0 for none",
    )

    @property
    def release(self) -> Release:
        return Release("tables", 1 if len(self.classes) == 2 else len(self.classes))

    @model_validator(mode="after")
    def _a_weight_a_class(self) -> Classification:
        if self.weights and len(self.weights) != len(self.classes):
            raise ValueError(
                f"weights must be empty or one a class of {list(self.classes)}. Found {list(self.weights)}"
            )
        return self


class Multilabel(Task):
    """Several findings, each there or not, from a column of 0 and 1 each; an empty cell is not known."""

    implementation: ClassVar[str] = "mmmed.tasks.multilabel:MultilabelTarget"

    kind: Literal["multilabel"] = "multilabel"
    labels: tuple[str, ...] = Field(
        ("consolidation", "effusion", "nodules"), description="columns of 0 and 1, empty where not known"
    )

    @property
    def columns(self) -> Mapping[str, str]:
        return {f"labels[{number}]": column for number, column in enumerate(self.labels)}

    @property
    def release(self) -> Release:
        return Release("tables", len(self.labels))

    @model_validator(mode="after")
    def _distinct(self) -> Multilabel:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be one or more distinct columns. Found {list(self.labels)}")
        return self


class Ordinal(_Classes):
    """One of several classes in an order, from one column."""

    implementation: ClassVar[str] = "mmmed.tasks.ordinal:OrdinalTarget"

    kind: Literal["ordinal"] = "ordinal"
    label: str = Field("grade", description="column that holds the label")
    classes: tuple[str, ...] = Field(
        ("0", "1", "2", "3"), description="allowed label values, from the lowest to the highest"
    )

    @property
    def release(self) -> Release:
        return Release("tables", len(self.classes) - 1)


class Regression(Task):
    """A number between two public bounds, from one column."""

    implementation: ClassVar[str] = "mmmed.tasks.regression:RegressionTarget"

    kind: Literal["regression"] = "regression"
    label: str = Field("severity", description="column that holds the number")
    low: FiniteFloat = Field(0.0, description="the least that the number can be; public, not from the data")
    high: FiniteFloat = Field(10.0, description="the most that it can be")
    loss: Literal["squared", "huber"] = Field("squared", description="of the error as a share of the range")

    @property
    def columns(self) -> Mapping[str, str]:
        return {"label": self.label}

    @property
    def release(self) -> Release:
        return Release("errors")

    @model_validator(mode="after")
    def _bounds(self) -> Regression:
        if self.low >= self.high:
            raise ValueError(f"low must be below high. Found {self.low:g} and {self.high:g}")
        return self


class Survival(Task):
    """A time to an event, from a column of times and one that says whether the event was seen."""

    implementation: ClassVar[str] = "mmmed.tasks.survival:SurvivalTarget"

    kind: Literal["survival"] = "survival"
    time: str = Field("days", description="column of the time to the event, or to the end of observation")
    event: str = Field(
        "event", description="column: 1 if the event came at that time, 0 if observation ended"
    )
    borders: tuple[PositiveFloat, ...] = Field(
        (7.0, 14.0, 30.0, 60.0, 90.0),
        description="ends of the intervals of time, rising; public, not from the data",
    )

    @property
    def columns(self) -> Mapping[str, str]:
        return {"time": self.time, "event": self.event}

    @property
    def release(self) -> Release:
        return Release("concordance", len(self.borders))

    @model_validator(mode="after")
    def _rising(self) -> Survival:
        if not self.borders or any(a >= b for a, b in pairwise(self.borders)):
            raise ValueError(f"borders must be one or more numbers, rising. Found {list(self.borders)}")
        if self.time == self.event:
            raise ValueError(f"time and event are both column '{self.time}'. They are two columns")
        return self


class Text(Task):
    """Keys of a task whose answer is a text."""

    together: ClassVar[int] = 32

    label: str = Field("impression", description="column that holds the text")
    tokens: int = Field(
        32,
        ge=2,
        le=512,
        description="of a text, its end included: what is beyond is not learnt and never written",
    )
    decoder_model: str = Field(
        "tiny",
        description='what writes: "tiny", learnt from scratch, or a local Hugging Face folder (GPT-2 family)',
    )
    decoder_width: int = Field(64, ge=32, le=2048, multiple_of=32, description='of "tiny"')
    decoder_layers: int = Field(2, ge=1, le=48, description='of "tiny"')
    prefix: int = Field(8, ge=1, le=64, description="vectors by which the decoder knows of the study")
    beams: int = Field(
        1, ge=1, le=16, description="texts that are kept in the search for one; 1 writes greedily"
    )

    @property
    def columns(self) -> Mapping[str, str]:
        return {"label": self.label}

    @property
    def release(self) -> Release:
        return Release("agreement")

    @property
    def _is_given(self) -> bool:
        return self.decoder_model != "tiny"

    @property
    def model_label(self) -> str:
        size = "" if self._is_given else f":{self.decoder_layers}x{self.decoder_width}"
        return f"decoder:{self.decoder_model}{size}"

    @property
    def adapters(self) -> bool:
        return self._is_given

    def decoder(self, config: RunConfig) -> Decoder:
        from mmmed.models.decoder import build_decoder

        rank = config.model.lora_rank if config.model.trainable == "lora" else 0
        return build_decoder(
            self.decoder_model,
            prefix=self.prefix,
            length=self.tokens,
            beams=self.beams,
            width=self.decoder_width,
            layers=self.decoder_layers,
            lora_rank=rank,
        )

    def given(self, name: str) -> str:
        return f"task.decoder_model = {self.decoder_model!r}" if name.startswith("decoder") else ""

    def further_digests(self) -> dict[str, str]:
        from mmmed.models.decoder import spelling
        from mmmed.models.tokens import vocabulary_digest

        return {"decoder's tokenizer": vocabulary_digest(spelling(self.decoder_model).tokenizer)}

    def check_run(self, run: RunConfig) -> None:
        trainable = run.model.trainable
        if not self._is_given and trainable == "norm-bias":
            raise ValueError(
                f"model.trainable = {trainable!r} would leave the words of a decoder that is learnt from scratch as "
                "they were drawn. Choose 'full' or 'fusion-head', which train it whole, or name a folder with weights "
                "in task.decoder_model"
            )
        if run.privacy.engine != "bookkeeping":
            raise ValueError(
                f"task {self.kind!r} needs privacy.engine = 'bookkeeping': Opacus' hooks know no layer of the GPT-2 "
                f"family, whose embeddings are one parameter in two places. Found {run.privacy.engine!r}"
            )


class Report(Text):
    """A text about the study, such as a report's impression, from one column."""

    implementation: ClassVar[str] = "mmmed.tasks.report:ReportTarget"

    kind: Literal["report"] = "report"
    findings: FrozenTable[str] = Field(
        {},
        description="by a name of yours, a regular expression: whether written and true text state it is compared "
        "(needs the extra `ingest`)",
    )

    @field_validator("findings", mode="after")
    @classmethod
    def _by_name(cls, findings: Mapping[str, str]) -> Mapping[str, str]:
        return FrozenDict(sorted(findings.items()))


class VisualQuestions(Text):
    """The answer to a question about the study: the question is the note, ``data.text``, the answer in one column."""

    implementation: ClassVar[str] = "mmmed.tasks.vqa:AnswerTarget"

    kind: Literal["vqa"] = "vqa"
    label: str = Field("answer", description="column that holds the answer")
    tokens: int = Field(
        8,
        ge=2,
        le=512,
        description="of an answer, its end included: what is beyond is not learnt and never written",
    )

    def check_run(self, run: RunConfig) -> None:
        super().check_run(run)
        if "text" not in run.data.modalities or len(run.data.modalities) < 2:
            raise ValueError(
                "task 'vqa' answers a question about something: name the question's column in data.text, and that of "
                f"an image or another modality. Found {list(run.data.modalities)}"
            )


TASKS = Kinds(
    Classification,
    Multilabel,
    Ordinal,
    Regression,
    Survival,
    Report,
    VisualQuestions,
    refused={
        "cox": "Cox's partial likelihood compares each patient with all who are still at risk, so a patient's loss, "
        "and its gradient, hold other patients: no clipping bounds what one of them adds. Take 'survival', whose "
        "likelihood of discrete hazards is a sum over patients"
    },
)


class Several(Task):
    """Several tasks at once, by names of yours; the score of the main one is compared and released."""

    implementation: ClassVar[str] = "mmmed.tasks.several:SeveralTarget"

    kind: Literal["several"] = "several"
    tasks: FrozenTable[Annotated[Task, TASKS]] = Field(
        {"finding": Classification(), "severity": Regression()},
        description="each a section of a task; records may lack some, not all",
    )
    main: str = Field("finding", description="name of the main task")
    weights: FrozenTable[PositiveFloat] = Field(
        {}, description="of the tasks' losses, by name, public numbers; 1 for those not named"
    )
    uncertainty: bool = Field(False, description="learn how much each loss counts (Kendall et al. 2018)")

    @property
    def columns(self) -> Mapping[str, str]:
        return {
            f"tasks.{name}.{key}": column
            for name, task in self.tasks.items()
            for key, column in task.columns.items()
        }

    @property
    def release(self) -> Release | None:
        return self.tasks[self.main].release

    @field_validator("tasks", mode="after")
    @classmethod
    def _by_name(cls, tasks: Mapping[str, Task]) -> Mapping[str, Task]:
        return FrozenDict(sorted(tasks.items()))  # however they were written, it is one model

    @model_validator(mode="after")
    def _named(self) -> Several:
        if len(self.tasks) < 2 or any(isinstance(task, Several) for task in self.tasks.values()):
            raise ValueError("tasks must be two or more, none of them 'several' again")
        if written := [name for name, task in self.tasks.items() if isinstance(task, Text)]:
            raise ValueError(
                f"tasks.{written[0]} is of kind {self.tasks[written[0]].kind!r}: a text is written by a decoder, which "
                "reads all that the fusion gives and leaves no output to other tasks. Train it in a run of its own"
            )
        if self.main not in self.tasks:
            raise ValueError(f"main must name one of tasks, {list(self.tasks)}. Found {self.main!r}")
        if unknown := sorted(set(self.weights) - set(self.tasks)):
            raise ValueError(f"weights names {unknown}, which tasks has not. It has {list(self.tasks)}")
        return self


TASKS.add(Several)
