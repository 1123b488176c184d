"""Requests: what the server asks of a site in one phase of a round, and how a run is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from mmmed.config import RunConfig, from_flat
from mmmed.config.schema import MOST_ROUNDS, MOST_SITES
from mmmed.config.sources import flat_from_json, to_json
from mmmed.errors import ConfigError
from mmmed.federation.protocol.bounds import MOST_CONFIG, MOST_PARTS, MOST_TERMS, MOST_TEXT, NAME, RUN
from mmmed.federation.protocol.records import payload

Phase = Literal["join", "train", "evaluate"]

CHECK = "check"  # action of the question what a site would refuse: no part of a run
MODEL = "model"  # name of the model's parameters among a request's tensors


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
            isinstance(one, str) and NAME.fullmatch(one) for one in cohort
        )
        if not (isinstance(terms, bytes) and isinstance(keys, bytes) and type(attempt) is int and named):
            raise ConfigError("request: the part on masked sums is not of the form that was agreed")
        if max(len(terms), len(keys)) > MOST_TERMS or len(cohort) > MOST_SITES:  # type: ignore[arg-type]
            raise ConfigError(
                f"request: the part on masked sums holds more than {MOST_TERMS} bytes or {MOST_SITES} sites"
            )
        return cls(terms, keys, attempt, tuple(map(str, cohort)))  # type: ignore[arg-type]


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
        arrays = ArrayRecord({name: payload(data) for name, data in self.tensors.items()})
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
    if not isinstance(run_id, str) or not RUN.fullmatch(run_id):
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
