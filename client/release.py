"""The gate: everything that leaves a site is made here, and nothing else is.

A training reply holds the privatised update, uniform weight, and the public parameters of the mechanism
(what was charged, not what was seen). An evaluation reply holds metrics only from a simulation, where the
data are generated or public. A refusal holds a code; its reason stays in the site's log, since an exception's
text may carry a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from mmmed.errors import ConfigError, DataError, ModelError
from privacy.errors import (
    BudgetExceeded,
    LedgerError,
    PolicyError,
    PolicyRefusal,
    PrivacyError,
    SigningKeyError,
)

SITE_ERROR = 400  # Flower's codes end well below; a reply with it carries one of `Refusal` as its reason
_WEIGHT = 1.0  # the same for every site: a weight by examples would tell their number


class Refusal(StrEnum):
    """Why a site did not do what it was asked, as much as others may know."""

    BUDGET = "budget-exhausted"
    PLAN = "plan-refused"
    POLICY = "policy-refused"
    NO_POLICY = "policy-unusable"
    LEDGER = "ledger-unusable"
    DATA = "data-unusable"
    MODEL = "model-refused"
    REQUEST = "request-invalid"
    FAILED = "failed"


_CODES: tuple[tuple[type[Exception], Refusal], ...] = (  # the first that fits
    (BudgetExceeded, Refusal.BUDGET),
    (PolicyRefusal, Refusal.POLICY),
    (PolicyError, Refusal.NO_POLICY),
    (LedgerError, Refusal.LEDGER),
    (SigningKeyError, Refusal.LEDGER),
    (PrivacyError, Refusal.PLAN),
    (DataError, Refusal.DATA),
    (ModelError, Refusal.MODEL),
    (ConfigError, Refusal.REQUEST),
)


@dataclass(frozen=True)
class Spending:
    """What a site states about its privacy after a round; None of it depends on the data.

    `epsilon` is the PLD epsilon of all steps charged so far at `delta`; `planned_epsilon` that of the plan.
    `statement` is the same and the round's charges as JSON, signed by the site, for the privacy report.
    """

    epsilon: float
    planned_epsilon: float
    delta: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    max_grad_norm: float
    statement: str


def training_reply(
    request: Message, site: str, update: bytes, spending: Spending | None, steps: int | None = None
) -> Message:
    """The reply to a training request: an update of `client.update`.

    `spending` None marks a run without privacy. `steps`, as charged, are told where the strategy needs them.
    """
    arrays = ArrayRecord({"update": Array("uint8", (len(update),), "safetensors", update)})
    told = {} if steps is None else {"local-steps": float(steps)}
    stated = {f"privacy.{key}": value for key, value in vars(spending).items()} if spending else {}
    content = RecordDict(
        {
            "arrays": arrays,
            "metrics": MetricRecord({"weight": _WEIGHT, **told}),
            "site": ConfigRecord({"name": site, **stated}),
        }
    )
    return Message(content=content, reply_to=request)


def evaluation_reply(
    request: Message, site: str, metrics: Mapping[str, float], *, simulated: bool
) -> Message:
    """The reply to an evaluation request: `metrics` leave only a simulated site."""
    shown = {key: float(value) for key, value in metrics.items() if np.isfinite(value)} if simulated else {}
    content = RecordDict(
        {"metrics": MetricRecord({"weight": _WEIGHT, **shown}), "site": ConfigRecord({"name": site})}
    )
    return Message(content=content, reply_to=request)


def refusal_reply(request: Message, code: Refusal) -> Message:
    """The reply when the site does not comply: a code and nothing else."""
    return Message(Error(SITE_ERROR, code.value), reply_to=request)


def refusal_code(error: Exception) -> Refusal:
    """What others may know of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Refusal.FAILED
