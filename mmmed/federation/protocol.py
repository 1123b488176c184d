"""What travels between the server and a site: requests, replies and refusals, to and from Flower's records.

A request carries the run's whole configuration and the tensors to work from. A site answers it with a reply, or
refuses it with a code; its reason stays in the site's log, since the text of an error may carry a name. The server uses
the same codes for an answer that does not come or cannot be used.

Neither side trusts what it reads here: a request that is no request is a `ConfigError` at the site, a reply that is no
reply is `Refused` at the server. Both are typed and bounded before anything of them is kept: what the `MOST_...` below
say is all that another party can make this one store, in count, length and size. The names of the fields are part of
the format and stand in this file alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from mmmed.config import RunConfig, from_flat
from mmmed.config.schema import MOST_ROUNDS, MOST_SITES, Scalar
from mmmed.config.sources import flat_from_json, to_json
from mmmed.errors import ConfigError

AskAgain = Literal["no", "once", "until decided"]
Phase = Literal["join", "train", "evaluate"]
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

CHECK = "check"  # action of the question what a site would refuse: no part of a run
MODEL = "model"  # name of the model's parameters among a request's tensors
PRIVACY = "privacy."  # begins the names of what a site states of its privacy
SITE_ERROR = 400  # Flower's codes end well below; an error reply with it carries a code as its reason

# What one message may hold. Tensors are bounded by the model's shapes, where those are known.
MOST_CONFIG = 128 * 1024  # characters of a run's configuration
MOST_PARTS = 64  # frozen parts of a model, with their digests
MOST_TERMS = 4 * 1024 * 1024  # bytes of its terms, and of its keys
MOST_SCORES = 256  # numbers of a reply, by name
MOST_STATED = 64  # entries of what a site states
MOST_NUMBER = 1e12  # size of a number
MOST_NAME = 100  # characters of a number's or entry's name
MOST_TEXT = 1000  # characters of a text that a site states, a receipt among them
MOST_STATEMENT = 64 * 1024  # characters of a signed statement; `privacy.report.MAX_BYTES`
MOST_CELLS = 10_000  # of noised counts, and what one may hold:
MOST_COUNT = 1e9
MOST_KEY = 4096  # characters or bytes of a site's key of a run

_CODE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NAME = re.compile(r"[^\W_][\w .-]{0,63}")
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RULE = re.compile(r"[a-z_]{1,30}(\.[a-z_]{1,30})?")
_STATED_NUMBERS = frozenset(
    PRIVACY + name
    for name in (
        *("epsilon", "planned_epsilon", "delta", "noise_multiplier", "sampling_rate", "steps"),
        "max_grad_norm",
    )
)
_STATED_TEXTS = {f"{PRIVACY}statement": MOST_STATEMENT, f"{PRIVACY}receipt": MOST_TEXT}


class Refusal(StrEnum):
    """A code, what it means in words, and whether the server asks again in the same round.

    "once": the site or its process ended while it worked and may be back soon. A second time it is let be, since under
    differential privacy a site is charged for each attempt. "until decided": nothing was computed, somebody at the site
    has to decide.
    """

    meaning: str
    ask_again: AskAgain

    def __new__(cls, code: str, meaning: str, ask_again: AskAgain = "no") -> Refusal:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.ask_again = ask_again
        return member

    # the site's own word
    BUDGET = "budget-exhausted", "the site's privacy budget is used up"
    PLAN = "plan-refused", "the run's privacy settings do not suit the site"
    POLICY = "policy-refused", "the site's policy does not allow it"
    NO_POLICY = "policy-unusable", "the site's policy is missing, expired or not signed"
    LEDGER = "ledger-unusable", "the site's ledger cannot be trusted or written"
    DATA = "data-unusable", "the site's data do not fit the run, or its opt-out list cannot be trusted"
    MODEL = "model-refused", "the model cannot be built or trained there"
    WEIGHTS = "weights-differ", "its encoder or tokenizer is not the server's: install the same version"
    REQUEST = "request-invalid", "the site could not read the request: install the same version"
    HELD = "awaiting-approval", "somebody at the site has to approve the run", "until decided"
    DENIED = "not-approved", "the site decided against the run"
    VOID = "step-void", "the site began this attempt before and its answer is lost"
    CRASHED = "crashed", "the site's task ended before it was done", "once"
    STOPPED = "stopped", "the site was stopped while it worked", "once"
    FAILED = "failed", "the site could not finish; its own log says why"
    # no word of the site
    NO_REPLY = "no-reply", "no answer in time"
    EXPIRED = "expired", "no answer in time"
    OFFLINE = "node-unavailable", "the site went offline", "once"
    NO_APP = "app-unavailable", "the site's application did not start", "once"
    # an answer that cannot be used
    BAD_RECORD = "bad-record", "the answer is not of the form that was agreed"
    BAD_NAME = "bad-name", "the answer names no site"
    BAD_STATEMENT = (
        "bad-statement",
        "what the answer states of its privacy is not of the form that was agreed",
    )
    OVER_BOUNDS = "over-bounds", "the answer holds more, or larger, than was agreed"
    NAME_TAKEN = "name-taken", "the name is not the site's own"
    BAD_WEIGHT = "bad-weight", "the answer claims more weight than others have"
    BAD_PAYLOAD = "bad-payload", "the update cannot be read"
    KEYS_DIFFER = "keys-differ", "the update is of other parameters than the model's"
    SHAPE_DIFFERS = "shape-differs", "the update has other shapes than the model"
    DTYPE_DIFFERS = "dtype-differs", "the update has another type of numbers than was agreed"
    NOT_FINITE = "not-finite", "the update holds a value that is not finite"
    TOO_LARGE = "too-large", "the update is absurdly large"
    OUTLIER = "norm-outlier", "the update was far larger than the others"


_BY_CODE = {str(refusal): refusal for refusal in Refusal}


def refusal_of(code: str) -> Refusal | None:
    """The refusal of a code; None for a code of another version."""
    return _BY_CODE.get(code)


def meaning(code: str) -> str:
    """A refusal in words; "" for a code of another version."""
    refusal = refusal_of(code)
    return refusal.meaning if refusal else ""


_FLOWER_CODES = {
    ErrorCode.MESSAGE_UNAVAILABLE: Refusal.EXPIRED,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: Refusal.EXPIRED,
    ErrorCode.NODE_UNAVAILABLE: Refusal.OFFLINE,
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: Refusal.NO_APP,
    ErrorCode.CLIENT_APP_CRASHED: Refusal.CRASHED,
}


def code_of(reply: Message) -> str:
    """The code of an error reply: the site's own, else what Flower's stands for. Other text is dropped."""
    reason = reply.error.reason or ""
    if _CODE.fullmatch(reason):
        return reason
    return _FLOWER_CODES.get(reply.error.code, Refusal.FAILED)


@dataclass(frozen=True)
class SumRequest:
    """What goes with the requests of a run of masked sums; to this module all but the number is opaque.

    Attributes:
        terms: what all sites agree on (`privacy.secure_sum.Terms.content`); b"" to ask who a site is.
        keys: the sites' keys of the run (`privacy.secure_sum.keys.Bundle.content`); b"" while they join.
        attempt: number of the attempt among all of the run, from 1.
        cohort: names of the sites that are asked, sorted.
    """

    terms: bytes = b""
    keys: bytes = b""
    attempt: int = 0
    cohort: tuple[str, ...] = ()

    def to_record(self) -> ConfigRecord:
        """As Flower carries it."""
        return ConfigRecord(
            {"terms": self.terms, "keys": self.keys, "attempt": self.attempt, "cohort": list(self.cohort)}
        )

    @classmethod
    def read(cls, fields: ConfigRecord) -> SumRequest:
        """From what arrived. Raises ConfigError for another form."""
        terms, keys, attempt, cohort = (fields.get(name) for name in ("terms", "keys", "attempt", "cohort"))
        named = isinstance(cohort, list) and all(
            isinstance(one, str) and _NAME.fullmatch(one) for one in cohort
        )
        if not (isinstance(terms, bytes) and isinstance(keys, bytes) and type(attempt) is int and named):
            raise ConfigError("request: the part on masked sums is not of the form that was agreed")
        if max(len(terms), len(keys)) > MOST_TERMS or len(cohort) > MOST_SITES:  # type: ignore[arg-type]
            raise ConfigError(
                f"request: the part on masked sums holds more than {MOST_TERMS} bytes or {MOST_SITES} sites"
            )
        return cls(terms, keys, attempt, tuple(map(str, cohort)))  # type: ignore[arg-type]


class Refused(Exception):
    """A reply that cannot be used; its text is the code of the refusal."""


@dataclass(frozen=True)
class Request:
    """What the server asks of a site in one phase of a round: to train, or to evaluate.

    Attributes:
        run_id: the run.
        round: number of the round, from 1.
        config: the run's configuration.
        frozen: digests of what is not trained, `mmmed.models.frozen_digests`.
        tensors: what to work from as `mmmed.wire` bytes: `MODEL`, and to train what the strategy sends beside it.
        receipt: the newest entry of the site's ledger that the server has seen, "" if it has seen none.
        sum: of a run of masked sums.
    """

    run_id: str
    round: int
    config: RunConfig
    frozen: Mapping[str, str]
    tensors: Mapping[str, bytes]
    receipt: str = ""
    sum: SumRequest | None = None

    def to_record(self) -> RecordDict:
        """The request as a Flower record."""
        fields: dict[str, int | str] = {
            "server-round": self.round,
            "run-id": self.run_id,
            "run-config": _text(self.config),
            "frozen-parts": json.dumps(dict(self.frozen)),
            "ledger-receipt": self.receipt,
        }
        arrays = ArrayRecord({name: _payload(data) for name, data in self.tensors.items()})
        record = RecordDict({"arrays": arrays, "config": ConfigRecord({**fields})})
        if self.sum is not None:
            record["sum"] = self.sum.to_record()
        return record

    @classmethod
    def read(cls, record: RecordDict) -> Request:
        """From what arrived. Which tensors came is not checked: that may wait until the policy allows the request.

        Raises:
            ConfigError: a field is missing or of another form, or the configuration is not valid.
        """
        run_id, text = run_of(record)
        fields = record["config"]
        try:
            number = int(str(fields["server-round"]))
            told = json.loads(str(fields["frozen-parts"]))
            frozen = {str(part): str(digest) for part, digest in told.items()}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"request lacks its round or frozen parts: {error}") from error
        if not 0 <= number <= MOST_ROUNDS:
            raise ConfigError(f"request: expected a round from 0 to {MOST_ROUNDS}. Found {number}")
        if len(frozen) > MOST_PARTS or any(len(one) > MOST_TEXT for pair in frozen.items() for one in pair):
            raise ConfigError(
                f"request: expected {MOST_PARTS} frozen parts at most, of {MOST_TEXT} characters each"
            )
        arrays = record.get("arrays")
        tensors = {n: one.data for n, one in arrays.items()} if isinstance(arrays, ArrayRecord) else {}
        asked = record.get("sum")
        masked = SumRequest.read(asked) if isinstance(asked, ConfigRecord) else None
        receipt = str(fields.get("ledger-receipt", ""))
        if len(receipt) > MOST_TEXT:
            raise ConfigError(f"request: expected a receipt of {MOST_TEXT} characters at most")
        return cls(run_id, number, _config(text), frozen, tensors, receipt, masked)

    def packed(self, name: str) -> bytes:
        """One of the tensors, as `mmmed.wire` bytes.

        Raises:
            ConfigError: the request does not have it.
        """
        try:
            return self.tensors[name]
        except KeyError as error:
            raise ConfigError(f"request lacks its tensors {name!r}") from error


@lru_cache(maxsize=4)
def _text(config: RunConfig) -> str:
    """A run's configuration as it goes with each of its requests."""
    return to_json(config)


@lru_cache(maxsize=4)
def _config(text: str) -> RunConfig:
    return from_flat(flat_from_json(text))


def run_of(record: RecordDict) -> tuple[str, str]:
    """The run's id and the JSON of its configuration as a request states them; the configuration is not read.

    Raises:
        ConfigError: one is missing, or not of the form or length that was agreed.
    """
    fields = record.get("config")
    if not isinstance(fields, ConfigRecord) or not {"run-id", "run-config"} <= set(fields):
        raise ConfigError("request lacks its run's id or configuration")
    check_run(fields["run-id"], fields["run-config"])
    return str(fields["run-id"]), str(fields["run-config"])


def check_run(run_id: object, config: object) -> None:
    """Raise ConfigError unless these can be a run's id and the text of its configuration."""
    if not isinstance(run_id, str) or not _RUN.fullmatch(run_id):
        raise ConfigError(
            f"run-id: expected letters, digits, - and _, 64 at most. Found {str(run_id)[:80]!r}"
        )
    if not isinstance(config, str) or len(config) > MOST_CONFIG:
        raise ConfigError(f"run-config: expected a text of {MOST_CONFIG} characters at most")


def run_name(run_id: str, config: str) -> str:
    """The short name of a run with one configuration, the same at the coordinator and at the sites.

    12 hexadecimal digits of a hash of the run's id and its configuration as it is sent: should either change, it is
    another run.
    """
    return hashlib.sha256(f"{run_id}\0{config}".encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class _Reply:
    """What every reply holds.

    Attributes:
        site: the site's name.
        stated: what the site states of its privacy, by name.
        metrics: numbers by name.
        weight: how much the site counts, above 0 and 1 at most: the same for all that do not choose less.
    """

    site: str
    stated: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0

    def to_record(self) -> RecordDict:
        """The reply as a Flower record."""
        return RecordDict(
            {
                "metrics": MetricRecord({"weight": self.weight, **self.metrics}),
                "site": ConfigRecord({"name": self.site, **self.stated}),
            }
        )

    @staticmethod
    def _common(record: RecordDict) -> dict[str, Any]:
        """The fields that every reply has, read from a Flower record, by attribute name."""
        site, stated = site_of(record)
        weight, metrics = _metrics(record)
        return {"site": site, "stated": stated, "metrics": metrics, "weight": weight}


@dataclass(frozen=True, kw_only=True)
class JoinReply(_Reply):
    """Who a site is, to a run of masked sums.

    Attributes:
        key: its own public key, Ed25519 in hexadecimal digits.
        introduction: its key of the run (`privacy.secure_sum`), once it was sent the terms; else b"".
    """

    key: str
    introduction: bytes = b""

    def to_record(self) -> RecordDict:
        record = super().to_record()
        record["join"] = ConfigRecord({"key": self.key, "introduction": self.introduction})
        return record

    @classmethod
    def read(cls, record: RecordDict) -> Self:
        """From what arrived; neither key is looked into.

        Raises:
            Refused: it is not of this form.
        """
        common, fields = cls._common(record), _part(record, "join", ConfigRecord)
        key, introduction = fields.get("key"), fields.get("introduction")
        if not (isinstance(key, str) and isinstance(introduction, bytes)):
            raise Refused(Refusal.BAD_RECORD)
        if max(len(key), len(introduction)) > MOST_KEY:
            raise Refused(Refusal.OVER_BOUNDS)
        return cls(key=key, introduction=introduction, **common)


@dataclass(frozen=True, kw_only=True)
class CheckReply(_Reply):
    """What a site would answer to a run, as far as its policy and software say.

    Attributes:
        refused: the code with which it would refuse; "" if it would not.
        rule: name of the policy's rule, where that is the reason; else "".
        purpose: what it would refuse, "training" or "evaluation"; else "".
    """

    refused: str = ""
    rule: str = ""
    purpose: str = ""

    def to_record(self) -> RecordDict:
        record = super().to_record()
        fields: dict[str, str] = {"refused": self.refused, "rule": self.rule, "purpose": self.purpose}
        record["check"] = ConfigRecord({**fields})
        return record

    @classmethod
    def read(cls, record: RecordDict) -> Self:
        """From what arrived.

        Raises:
            Refused: it is not of this form.
        """
        common, fields = cls._common(record), _part(record, "check", ConfigRecord)
        told: dict[str, Any] = {}
        for name, form in (("refused", _CODE), ("rule", _RULE), ("purpose", _CODE)):
            value = fields.get(name)
            if not isinstance(value, str) or not (value == "" or form.fullmatch(value)):
                raise Refused(Refusal.BAD_RECORD)
            told[name] = value
        return cls(**told, **common)


@dataclass(frozen=True, kw_only=True)
class TrainReply(_Reply):
    """The answer to a training request.

    Attributes:
        update: the change of the trainable parameters, as `mmmed.wire` bytes; or masked words, in a run of those.
    """

    update: bytes

    def to_record(self) -> RecordDict:
        record = super().to_record()
        record["arrays"] = ArrayRecord({"update": _payload(self.update)})
        return record

    @classmethod
    def read(cls, record: RecordDict) -> Self:
        """From what arrived; the update is not looked into.

        Raises:
            Refused: it is not of this form.
        """
        common = cls._common(record)
        payload = _part(record, "arrays", ArrayRecord).get("update")
        if payload is None:
            raise Refused(Refusal.BAD_RECORD)
        return cls(update=payload.data, **common)


@dataclass(frozen=True, kw_only=True)
class EvaluateReply(_Reply):
    """The answer to an evaluation request.

    Attributes:
        histograms: noised counts of `privacy.metrics`, float64, three-dimensional, if the site releases any.
    """

    histograms: npt.NDArray[np.float64] | None = None

    def to_record(self) -> RecordDict:
        record = super().to_record()
        if self.histograms is not None:
            record["tables"] = ArrayRecord({"tables": Array(self.histograms)})
        return record

    @classmethod
    def read(cls, record: RecordDict) -> Self:
        """From what arrived.

        Raises:
            Refused: it is not of this form.
        """
        common = cls._common(record)
        return cls(histograms=_histograms(record), **common)


def site_of(record: RecordDict) -> tuple[str, dict[str, Scalar]]:
    """Who replies, and what it states: known also of a reply whose other parts cannot be used.

    Raises:
        Refused: the reply names no site, or what it states is not of the form that was agreed.
    """
    return name_of(record), stated_of(record)


def stated_of(record: RecordDict) -> dict[str, Scalar]:
    """What a reply states: `stated_by` of its record."""
    return stated_by(_part(record, "site", ConfigRecord))


def name_of(record: RecordDict) -> str:
    """The name that a reply gives.

    Raises:
        Refused: it names no site.
    """
    name = _part(record, "site", ConfigRecord).get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(Refusal.BAD_NAME)
    return name


def stated_by(fields: Mapping[str, Any]) -> dict[str, Scalar]:
    """What a site states, from the fields of its record: all but its name.

    What `client.release.Spending` states has the types that it has there. Of anything else numbers and short texts are
    kept, since another version may state more.

    Raises:
        Refused: a field of `Spending` has another type, or there is more than `MOST_...` allow.
    """
    if len(fields) > MOST_STATED + 1:
        raise Refused(Refusal.OVER_BOUNDS)
    stated: dict[str, Scalar] = {}
    for key, value in fields.items():
        if key == "name":
            continue
        if not _is_name(key):
            raise Refused(Refusal.OVER_BOUNDS)
        if key in _STATED_NUMBERS and not (_is_number(value) and 0 <= value <= MOST_NUMBER):
            raise Refused(Refusal.BAD_STATEMENT)
        if key in _STATED_TEXTS and not isinstance(value, str):
            raise Refused(Refusal.BAD_STATEMENT)
        if isinstance(value, str) and len(value) > _STATED_TEXTS.get(key, MOST_TEXT):
            raise Refused(Refusal.OVER_BOUNDS)
        if isinstance(value, bool | str) or (_is_number(value) and abs(value) <= MOST_NUMBER):
            stated[key] = value
    return stated


def scores_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a reply by name; what is no number, or too large for one that means something, is left out.

    Raises:
        Refused: there are more than `MOST_SCORES`, or a name is not of the form that was agreed.
    """
    if len(values) > MOST_SCORES or not all(map(_is_name, values)):
        raise Refused(Refusal.OVER_BOUNDS)
    return {key: float(one) for key, one in values.items() if _is_number(one) and abs(one) <= MOST_NUMBER}


def _is_name(key: object) -> bool:
    return isinstance(key, str) and 0 < len(key) <= MOST_NAME and key.isprintable()


def _is_number(value: object) -> bool:
    """Whether it is a number with a size: no truth value, NaN or infinity."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def tensor_bytes(record: RecordDict) -> int:
    """How many bytes of tensors a message's content holds."""
    # not by `record.array_records`: it ties the record into a cycle, and its memory waits for the garbage collector
    parts = [part for part in record.values() if isinstance(part, ArrayRecord)]
    return sum(len(array.data) for arrays in parts for array in arrays.values())


def _metrics(record: RecordDict) -> tuple[float, dict[str, float]]:
    values = dict(_part(record, "metrics", MetricRecord))
    weight = values.pop("weight", None)
    if not isinstance(weight, int | float) or not 0 < weight <= 1:  # less than others may be said, not more
        raise Refused(Refusal.BAD_WEIGHT)
    return float(weight), scores_of(values)


def _histograms(record: RecordDict) -> npt.NDArray[np.float64] | None:
    if "tables" not in record:
        return None
    sent = _part(record, "tables", ArrayRecord).get("tables")
    if sent is None:
        raise Refused(Refusal.BAD_RECORD)
    if len(sent.data) > 8 * MOST_CELLS + MOST_TEXT:  # before it is decoded
        raise Refused(Refusal.OVER_BOUNDS)
    value = sent.numpy()
    check_histograms(value)
    return value


def check_histograms(value: npt.NDArray[Any]) -> None:
    """Raise Refused unless an array can be what a site releases of its results: 3 axes, float64, finite, in bounds."""
    if value.ndim != 3:
        raise Refused(Refusal.SHAPE_DIFFERS)
    if value.dtype != np.float64:
        raise Refused(Refusal.DTYPE_DIFFERS)
    if not np.isfinite(value).all():
        raise Refused(Refusal.NOT_FINITE)
    if value.size > MOST_CELLS or (np.abs(value) > MOST_COUNT).any():
        raise Refused(Refusal.OVER_BOUNDS)


def _payload(data: bytes) -> Array:
    return Array("uint8", (len(data),), "safetensors", data)


def _part(record: RecordDict, key: str, kind: type[Record]) -> Record:
    value = record.get(key)
    if not isinstance(value, kind):
        raise Refused(Refusal.BAD_RECORD)
    return value
