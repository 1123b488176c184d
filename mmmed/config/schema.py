"""The configuration tree. Each section is one frozen pydantic model; unknown keys are refused.

The task, the fusion, the strategy and the aggregation rule come in kinds: their sections are in the registries of
`mmmed.tasks`, `mmmed.models.fusion`, `mmmed.federation.strategies` and `mmmed.federation.aggregation`. The keys
of a modality in ``[data]`` and ``[model]`` are in its file in `mmmed.modalities`.

Defaults are the embedded demonstration on two CPU cores. Optional text values use ``""`` for "not set",
so that the tree has no nulls and survives TOML and Flower's run config unchanged.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmmed.federation.aggregation import AGGREGATIONS, Aggregation, Mean
from mmmed.federation.strategies import STRATEGIES, FedAvg, Strategy
from mmmed.modalities import MODALITIES
from mmmed.models.fusion import FUSIONS, Attention, Fusion
from mmmed.section import Composed, FrozenTable, Positive, PositiveFloat, Section, later
from mmmed.tasks import TASKS, Classification, Task

Scalar = bool | int | float | str
Precision = Literal["float32", "bfloat16"]
Release = Literal["rounds", "steps", "secure-steps"]
MOST_ROUNDS, MOST_SITES = 1_000_000, 10_000  # of any run


class DataConfig(Composed):
    """Where a site's studies are, which columns of its table mean what, and how each modality is read."""

    source: str = Field(
        "demo",
        description='"demo" (generated hospitals), "demo-signals" (also a sound and an ECG a study), "demo-texts" '
        "(also an impression, a question and its answer) or a folder that holds the table",
    )
    table: str = Field(
        "", description='CSV or Parquet table in the source folder; "" is its data.parquet or else data.csv'
    )
    patient: str = Field("patient_id", description="column: the patient, the unit of privacy")
    study: str = Field("study_id", description='column: the study; "" if each patient has one row')
    site: str = Field("site", description="column: the hospital")
    where: FrozenTable[Scalar | tuple[Scalar, ...]] = Field(
        {}, description="keep only rows whose column equals the value, or one of the values"
    )
    drop_shared_patients: bool = Field(
        False, description="leave out patients who appear in several sites, instead of refusing the table"
    )
    fold: str = Field(
        "", description='column of patient-wise folds; "" splits by a keyed hash of the patient'
    )
    test_fold: int = Field(0, ge=0, description="the fold held out for testing, if a fold column is named")
    test_fraction: float = Field(0.25, gt=0, lt=1, description="share of patients held out without folds")

    @classmethod
    def further(cls) -> tuple[type[Section], ...]:
        return tuple(one.data_keys for one in MODALITIES.values())

    @model_validator(mode="after")
    def _some_modality(self) -> DataConfig:
        if not self.modalities:
            keys = ", ".join(key for one in MODALITIES.values() for key in one.column_keys)
            raise ValueError(f"{keys} are all empty: name at least one column to learn from")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that are learnt from: those of which a column is named."""
        return tuple(name for name, one in MODALITIES.items() if one.columns(self))


class ModelConfig(Composed):
    """The encoder of each modality, how they are fused, and which parameters are trained."""

    fusion: Annotated[Fusion, FUSIONS] = Attention()
    trainable: Literal["full", "norm-bias", "lora", "fusion-head"] = Field(
        "full",
        description="which parameters are trained and travel: all; norms and biases; the text encoder's adapters and "
        "what follows the encoders; only that",
    )
    lora_rank: Positive = Field(4, le=1024, description='rank of the adapters of trainable = "lora"')
    start: str = later(
        "", description="folder of an earlier run, at the server, whose model this one begins from"
    )

    @classmethod
    def further(cls) -> tuple[type[Section], ...]:
        return tuple(one.model_keys for one in MODALITIES.values())


class TrainingConfig(Section):
    """Local training at a site."""

    batch_size: Positive = Field(
        128,
        le=10_000_000,
        description="expected patients a step; what a sum is divided by, if rounds are single steps",
    )
    local_epochs: PositiveFloat = Field(
        4.0, le=10_000, description="passes over a site's patients in one round"
    )
    records_per_patient: Positive = Field(
        2, le=10_000, description="at most so many records of a patient a step"
    )
    optimizer: Literal["sgd", "adam"] = Field("adam", description="of local steps; a single step needs sgd")
    learning_rate: PositiveFloat = Field(2e-3, description="of a step, the same in all rounds")
    momentum: float = Field(0.0, ge=0, lt=1, description="for sgd")
    weight_decay: float = Field(0.0, ge=0, description="of local steps, as L2 in the gradient")
    proximal_mu: float = Field(0.0, ge=0, description="FedProx pull towards the global model")
    augment: bool = Field(
        False,
        description="random shifts, rotations and contrast of training images, begin and loudness of recordings",
    )
    views: Positive = Field(
        1,
        le=64,
        description="augmented views of a record in a step, averaged in its patient's gradient; where the encoder is "
        "frozen, the record and fixed views of it",
    )
    modality_dropout: float = later(
        0.0,
        ge=0,
        lt=1,
        description="share of a record's modalities that a step does without, never all, so that the model learns to",
    )
    adversarial: float = later(
        0.0,
        ge=0,
        le=0.5,
        description="by how much of [0, 1] a pixel may change as training makes each picture harder (PGD); 0 for not",
    )
    adversarial_steps: Positive = later(
        3, le=50, description="steps in which it does so, each a pass of its own"
    )
    precision: Precision = Field(
        "float32",
        description="of the forward and backward pass; parameters, clipped sums and noise stay float32",
    )
    seed: int = Field(0, ge=0, description="initialisation, splits and augmentation; never privacy noise")

    @model_validator(mode="after")
    def _views(self) -> TrainingConfig:
        if self.views > 1 and not self.augment:
            raise ValueError(
                f"views = {self.views} without augment would repeat each record. Set augment = true"
            )
        return self


class PrivacyConfig(Section):
    """Differential privacy at each site: add/remove of one patient."""

    enabled: bool = Field(True, description="false trains without privacy, which a site's policy refuses")
    target_epsilon: PositiveFloat = Field(8.0, description="for the whole run, at each site")
    delta: float = Field(1e-4, gt=0, lt=1, description="a tenth of 1 / patients of the largest site, or less")
    max_grad_norm: PositiveFloat = Field(1.0, description="clipping norm C of one patient's gradient")
    clipping: Literal["flat", "automatic", "per-group"] = Field(
        "flat",
        description="min(1, C/|g|); AUTO-S C/(|g| + 0.01); or each part of the model apart, to C/sqrt(parts)",
    )
    engine: Literal["bookkeeping", "hooks"] = Field(
        "bookkeeping",
        description="how gradients are clipped; ghost clipping is not offered: parameters can be chosen that break its "
        "bound, and here the server chooses them",
    )
    metrics: Literal["none", "private", "rounded"] = Field(
        "private",
        description="how a hospital is asked for results, once, in the last round; its policy decides",
    )
    metrics_epsilon: PositiveFloat = Field(
        1.0, description="for the private results, of patients who were held out"
    )


class FederationConfig(Section):
    """Rounds, how sites' updates are combined and sent, and how many sites must take part."""

    rounds: Positive = Field(
        3, le=MOST_ROUNDS, description="rounds; steps of the whole federation, if each is a single step"
    )
    release: Release = Field(
        "rounds",
        description="what a site releases: the change after local epochs; the clipped and noised sum of one step, so "
        "that every patient of the federation counts alike; or that under masks, so that the server sees the sum over "
        "sites alone and they share the noise",
    )
    sampling_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of each site's patients that a step draws, if rounds are single steps",
    )
    honest: int = Field(
        0,
        ge=0,
        description='sites whose noise adds up to the whole, with release = "secure-steps"; the others of min_sites '
        "may work together with the server",
    )
    repeats: int = Field(
        6,
        ge=0,
        le=10_000,
        description="steps that may be lost to a site that drops out and be asked again, planned in advance, with "
        'release = "secure-steps"',
    )
    min_sites: Positive = Field(
        2, le=MOST_SITES, description="a round with fewer good updates changes nothing"
    )
    strategy: Annotated[Strategy, STRATEGIES] = FedAvg()
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the average over rounds that becomes the final model; 0 for the last round's",
    )
    round_timeout: PositiveFloat = Field(3600.0, description="seconds to wait for a round's replies")
    aggregation: Annotated[Aggregation, AGGREGATIONS] = Mean()
    max_update_norm: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="larger updates are scaled down to this norm; 0 for the median norm of the round's updates, where "
        'three or more are averaged with release = "rounds"',
    )
    wire: Literal["float32", "bfloat16", "int8"] = Field(
        "float32", description="encoding of updates; bfloat16 and int8 send the model in bfloat16"
    )
    site_noise_multiplier: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="noise of the server that hides a whole site; 0 for none"
    )
    site_max_norm: PositiveFloat = Field(
        1.0, description="first clipping norm of a site's update under server noise; adapted each round"
    )
    site_delta: float = Field(1e-3, gt=0, lt=1, description="delta of the site-level epsilon")

    @property
    def least_updates(self) -> int:
        """Good updates that a round needs: of `min_sites`, all but those that the rule takes to be hostile."""
        return max(1, self.min_sites - self.aggregation.withstands)

    @model_validator(mode="after")
    def _enough_sites(self) -> FederationConfig:
        rule = self.aggregation
        if self.min_sites < rule.least_updates:
            settings = ", ".join(f"{key} = {value}" for key, value in rule.options().items())
            raise ValueError(
                f"aggregation {rule.kind!r} with {settings} needs min_sites of at least {rule.least_updates}. "
                f"Found {self.min_sites}"
            )
        return self

    @model_validator(mode="after")
    def _site_noise(self) -> FederationConfig:
        parts: tuple[Strategy | Aggregation, ...] = (self.aggregation, self.strategy)
        for part in parts:
            if self.site_noise_multiplier and part.needs_single_updates:
                raise ValueError(
                    "site_noise_multiplier needs an aggregation and a strategy that take no more than the sum of the "
                    f"updates, such as 'mean' and 'fedavg'. Found {part.kind!r}"
                )
        return self


class RunConfig(Section):
    """The whole configuration of a run, on which the server and all sites agree before it starts."""

    task: Annotated[Task, TASKS] = Classification()
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = TrainingConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    federation: FederationConfig = FederationConfig()

    @property
    def digest(self) -> str:
        """SHA-256 of the tree as JSON with sorted keys, in hex; see `mmmed.section.later`."""
        text = json.dumps(self.digested(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def step_rate(self) -> float | None:
        """The share of each site's patients in a step, where a round is one step of the federation; else None."""
        return None if self.federation.release == "rounds" else self.federation.sampling_rate

    @property
    def planned_rounds(self) -> int:
        """Rounds that a site's budget is planned for: the run's, and steps of masked sums that may be asked again."""
        federation = self.federation
        return federation.rounds + (federation.repeats if federation.release == "secure-steps" else 0)

    @model_validator(mode="after")
    def _steps(self) -> RunConfig:
        """Refuse what does not go with one sum a step: several local steps, or a need for more than the sum."""
        federation, training = self.federation, self.training
        if federation.release == "rounds":
            return self
        asked = {
            "training.optimizer": (training.optimizer, "sgd", "the server's strategy is the optimiser"),
            "training.momentum": (training.momentum, 0, "set the strategy's"),
            "training.weight_decay": (training.weight_decay, 0, "a site sends its sum alone"),
            "training.proximal_mu": (training.proximal_mu, 0, "it pulls back local steps, and there is one"),
            "training.local_epochs": (
                training.local_epochs,
                TrainingConfig.model_fields["local_epochs"].default,
                "a round is one step",
            ),
            "federation.aggregation.kind": (
                federation.aggregation.kind,
                "mean",
                "a step is one sum over sites",
            ),
            "federation.max_update_norm": (
                federation.max_update_norm,
                0,
                "clipping already bounds each patient",
            ),
            "federation.site_noise_multiplier": (
                federation.site_noise_multiplier,
                0,
                "it hides a site's rounds",
            ),
        }
        if federation.release == "secure-steps":
            asked |= {
                "privacy.enabled": (
                    self.privacy.enabled,
                    True,
                    'what it shares is the noise; "steps" gives the same sum without',
                ),
                "federation.wire": (federation.wire, "float32", "masked words cannot be shortened"),
            }
        for key, (found, needed, reason) in asked.items():
            if found != needed:
                raise ValueError(
                    f"federation.release = {federation.release!r} needs {key} = {needed!r}: {reason}. Found {found!r}"
                )
        if federation.strategy.needs_single_updates:
            raise ValueError(
                f"federation.release = {federation.release!r} sends one sum a step, and strategy "
                f"{federation.strategy.kind!r} corrects local steps. Choose another, such as 'fedavg' or 'fedadam'"
            )
        return self

    @model_validator(mode="after")
    def _shared_noise(self) -> RunConfig:
        federation = self.federation
        if federation.release != "secure-steps":
            return self
        if not 1 <= federation.honest <= federation.min_sites or federation.min_sites < 2:
            raise ValueError(
                'federation.release = "secure-steps" shares the noise over federation.honest sites, from 1 to '
                "min_sites (2 or more; the smallest cohort of a step). Found honest = "
                f"{federation.honest}, min_sites = {federation.min_sites}. With "
                "K sites, honest = 3 K / 4 and min_sites = K are usual"
            )
        return self

    @model_validator(mode="after")
    def _adapters(self) -> RunConfig:
        adapted = [one for one in MODALITIES.values() if one.adapters]
        if (
            self.model.trainable == "lora"
            and not any(one.columns(self.data) for one in adapted)
            and not self.task.adapters
        ):
            names = ", ".join(one.name for one in adapted)
            keys = ", ".join(f"data.{key}" for one in adapted for key in one.column_keys)
            raise ValueError(f'model.trainable = "lora" adapts the {names} encoder, but {keys} is empty')
        return self

    @model_validator(mode="after")
    def _labels_are_no_inputs(self) -> RunConfig:
        inputs = {column for one in MODALITIES.values() for column in one.columns(self.data)}
        for column in self.task.columns.values():
            if column in inputs:
                raise ValueError(
                    f"column '{column}' is what the task predicts: it cannot be an input as well"
                )
        return self

    @model_validator(mode="after")
    def _results_can_leave_as_asked(self) -> RunConfig:
        if self.privacy.metrics == "private" and self.task.release is None:
            raise ValueError(
                f"task {self.task.kind!r} has no release of results under privacy: set privacy.metrics = 'none', or "
                "'rounded', which is not private"
            )
        return self

    @model_validator(mode="after")
    def _kinds_suit_the_run(self) -> RunConfig:
        for kind in (self.task, self.model.fusion, self.federation.strategy, self.federation.aggregation):
            kind.check_run(self)
        return self
