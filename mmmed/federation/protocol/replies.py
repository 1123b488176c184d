"""Replies: what a site answers, to and from Flower's records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mmmed.config.schema import Scalar
from mmmed.federation.protocol.bounds import CODE, MOST_KEY, RULE
from mmmed.federation.protocol.fields import histograms_of, metrics_of, site_of
from mmmed.federation.protocol.records import part, payload
from mmmed.federation.protocol.refusals import Refusal, Refused


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
        weight, metrics = metrics_of(record)
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
        common, fields = cls._common(record), part(record, "join", ConfigRecord)
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
        common, fields = cls._common(record), part(record, "check", ConfigRecord)
        told: dict[str, Any] = {}
        for name, form in (("refused", CODE), ("rule", RULE), ("purpose", CODE)):
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
        record["arrays"] = ArrayRecord({"update": payload(self.update)})
        return record

    @classmethod
    def read(cls, record: RecordDict) -> Self:
        """From what arrived; the update is not looked into.

        Raises:
            Refused: it is not of this form.
        """
        common = cls._common(record)
        payload = part(record, "arrays", ArrayRecord).get("update")
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
        return cls(histograms=histograms_of(record), **common)
