"""The configuration tree. Each section is one frozen pydantic model; unknown keys are refused.

The task, the fusion, the strategy and the aggregation rule come in kinds: their sections are in the registries of
`mmmed.tasks`, `mmmed.models.fusion`, `mmmed.federation.strategies` and `mmmed.federation.aggregation`.

Defaults are the embedded demonstration on two CPU cores. Optional text values use ``""`` for "not set",
so that the tree has no nulls and survives TOML and Flower's run config unchanged.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmmed.federation.aggregation import AGGREGATIONS, Aggregation, Mean
from mmmed.federation.strategies import STRATEGIES, FedAvg, Strategy
from mmmed.models.fusion import FUSIONS, Attention, Fusion
from mmmed.section import FrozenTable, Positive, PositiveFloat, Section
from mmmed.tasks import TASKS, Classification

Scalar = bool | int | float | str
Precision = Literal["float32", "bfloat16"]

FILES = ("image", "volume")  # modalities that are files below the source folder; keys of DataConfig
MODALITIES = ("image", "text", "volume", "table")  # all that a record may consist of


class DataConfig(Section):
    """Where a site's studies are, and which columns of its table mean what."""

    source: str = Field("demo", description='"demo" (generated hospitals) or a folder that holds the table')
    table: str = Field(
        "", description='CSV or Parquet table in the source folder; "" is its data.parquet or else data.csv'
    )
    patient: str = Field("patient_id", description="column: the patient, the unit of privacy")
    study: str = Field("study_id", description="column: the study")
    site: str = Field("site", description="column: the hospital")
    image: str = Field("image", description='column: image file below the source folder; "" for no images')
    volume: str = Field(
        "", description='column: CT or MR volume (NIfTI) below the source folder; "" for no volumes'
    )
    text: str = Field("text", description='column: the clinical note; "" for no text')
    numbers: FrozenTable[tuple[float, float]] = Field(
        {}, description="columns of numbers, each with the range it usually lies in: {age = [0, 90]}"
    )
    categories: FrozenTable[tuple[str, ...]] = Field(
        {}, description='columns of categories, each with the values there are: {sex = ["F", "M"]}'
    )
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
    image_size: int = Field(64, ge=16, le=1024, description="pixels a side after resizing")
    image_channels: Literal[1, 3] = Field(1, description="1 for films, 3 for colour")
    volume_size: int = Field(48, ge=16, le=256, description="voxels a side of the cube that volumes become")
    volume_spacing: float = Field(
        0.0, ge=0, allow_inf_nan=False,
        description="mm from voxel to voxel, the middle of a larger volume is kept; 0 fits all of each volume",
    )  # fmt: skip
    volume_window: tuple[float, ...] = Field(
        (),
        description="values that become 0 and 1, such as [-1000, 400] HU; [] takes each volume's own range",
    )
    text_tokens: int = Field(64, ge=8, le=512, description="tokens of a note that are read")

    @model_validator(mode="after")
    def _some_modality(self) -> DataConfig:
        if not self.modalities:
            keys = ", ".join((*FILES, "text", "numbers", "categories"))
            raise ValueError(f"{keys} are all empty: name at least one column to learn from")
        return self

    @model_validator(mode="after")
    def _window(self) -> DataConfig:
        window = self.volume_window
        if window and not (len(window) == 2 and -math.inf < window[0] < window[1] < math.inf):
            raise ValueError(f"volume_window must be [low, high] or []. Found {list(window)}")
        return self

    @model_validator(mode="after")
    def _declared(self) -> DataConfig:
        for column, (low, high) in self.numbers.items():
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"numbers.{column} must be [low, high]. Found {[low, high]}")
        for column, values in self.categories.items():
            if len(values) < 2 or len(set(values)) != len(values):
                raise ValueError(
                    f"categories.{column} must be two or more distinct values. Found {list(values)}"
                )
        if both := sorted(set(self.numbers) & set(self.categories)):
            raise ValueError(f"column '{both[0]}' is in numbers and in categories: leave it in one")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that are learnt from: those of which a column is named."""
        columns = {name: getattr(self, name) for name in (*FILES, "text")}
        columns["table"] = self.numbers or self.categories
        return tuple(name for name in MODALITIES if columns[name])


class ModelConfig(Section):
    """One encoder a modality, fusion."""

    image: Literal["resnet10", "resnet18", "densenet121", "efficientnet-b0", "efficientnet-lite0"] = Field(
        "resnet10",
        description='MONAI CNN, built with GroupNorm; or "efficientnet-lite0", pretrained on ImageNet '
        "(extra `pretrained`)",
    )
    image_width: int = Field(
        16, ge=8, le=64, description="channels of a ResNet's first stage (64 is the standard)"
    )
    image_weights: str = Field("", description="local file, or MONAI bundle, of pretrained image weights")
    image_scaling: Literal["unit", "imagenet"] = Field(
        "unit", description="pixels that image_weights expect: [0, 1], or standardised as torchvision's"
    )
    volume: Literal["resnet10", "resnet18"] = Field(
        "resnet10", description="MONAI 3D CNN, built with GroupNorm"
    )
    volume_width: int = Field(16, ge=8, le=64, description="channels of its first stage")
    text: str = Field(
        "tiny", description='"tiny", "minilm" (pretrained; extra `pretrained`) or a local Hugging Face folder'
    )
    text_dropout: float = Field(0.0, ge=0, lt=1, description='of the encoder "tiny"')
    fusion: Annotated[Fusion, FUSIONS] = Attention()
    trainable: Literal["full", "norm-bias", "lora", "fusion-head"] = Field(
        "full",
        description="which parameters are trained and travel: all; norms and biases; the text encoder's adapters and "
        "what follows the encoders; only that",
    )
    lora_rank: Positive = Field(4, description='rank of the adapters of trainable = "lora"')


class TrainingConfig(Section):
    """Local training at a site."""

    batch_size: Positive = Field(
        128, description='expected patients a step; with release = "steps" what a step\'s sum is divided by'
    )
    local_epochs: PositiveFloat = Field(4.0, description="passes over a site's patients in one round")
    records_per_patient: Positive = Field(2, description="at most so many records of a patient a step")
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: PositiveFloat = 2e-3
    momentum: float = Field(0.0, ge=0, lt=1, description="for sgd")
    weight_decay: float = Field(0.0, ge=0)
    proximal_mu: float = Field(0.0, ge=0, description="FedProx pull towards the global model")
    augment: bool = Field(False, description="random shifts, rotations and contrast of training images")
    views: Positive = Field(
        1,
        description="augmented views of a record in a step, averaged in its patient's gradient; where the encoder is "
        "frozen, the record and fixed views of it",
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

    enabled: bool = True
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
    """Rounds and who must take part."""

    rounds: Positive = Field(3, description='rounds; with release = "steps" steps of the whole federation')
    release: Literal["rounds", "steps"] = Field(
        "rounds",
        description="what a site releases: the change after local epochs, or the clipped and noised sum of one step, "
        "so that every patient of the federation counts alike",
    )
    sampling_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description='share of each site\'s patients that a step draws, with release = "steps"',
    )
    min_sites: Positive = Field(2, description="a round with fewer good updates changes nothing")
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
        description="larger updates are scaled down to this norm; 0 for no bound",
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
    """The whole tree."""

    task: Annotated[Classification, TASKS] = Classification()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    federation: FederationConfig = FederationConfig()

    @property
    def digest(self) -> str:
        """SHA-256 of the tree as JSON with sorted keys, in hex."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def step_rate(self) -> float | None:
        """The share of each site's patients in a step, where a round is one step of the federation; else None."""
        return self.federation.sampling_rate if self.federation.release == "steps" else None

    @model_validator(mode="after")
    def _steps(self) -> RunConfig:
        """One plain sum a step: what needs several local steps, or more than the sum, cannot go with it."""
        federation, training = self.federation, self.training
        if federation.release != "steps":
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
        for key, (found, needed, reason) in asked.items():
            if found != needed:
                raise ValueError(
                    f'federation.release = "steps" needs {key} = {needed!r}: {reason}. Found {found!r}'
                )
        if federation.strategy.needs_single_updates:
            raise ValueError(
                f'federation.release = "steps" sends one sum a step, and strategy {federation.strategy.kind!r} '
                "corrects local steps. Choose another, such as 'fedavg' or 'fedadam'"
            )
        return self

    @model_validator(mode="after")
    def _adapters(self) -> RunConfig:
        if self.model.trainable == "lora" and not self.data.text:
            raise ValueError('model.trainable = "lora" adapts the text encoder, but data.text is empty')
        return self

    @model_validator(mode="after")
    def _labels_are_no_inputs(self) -> RunConfig:
        data = self.data
        inputs = {*(getattr(data, name) for name in (*FILES, "text")), *data.numbers, *data.categories}
        for column in self.task.columns:
            if column in inputs:
                raise ValueError(
                    f"column '{column}' is what the task predicts: it cannot be an input as well"
                )
        return self

    @model_validator(mode="after")
    def _kinds_suit_the_run(self) -> RunConfig:
        for kind in (self.task, self.model.fusion, self.federation.strategy, self.federation.aggregation):
            kind.check_run(self)
        return self
