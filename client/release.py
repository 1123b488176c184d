"""The gate: everything that leaves a site is made here, and nothing else is.

A training reply holds the privatised update, uniform weight, and the public parameters of the mechanism
(what was charged, not what was seen). An evaluation reply holds what the policy's rule for the metric allows:
nothing, noised counts that the ledger was charged for, rounded numbers (which is not differential privacy), or,
in a simulation without a policy, everything. A refusal holds a code; its reason stays in the site's log, since
an exception's text may carry a name. From the charge on there is one code for everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from flwr.app import Error, Message

from mmmed.errors import ConfigError, DataError, MmmedError, ModelError, WeightsDiffer
from mmmed.federation.protocol import (
    PRIVACY,
    SITE_ERROR,
    CheckReply,
    EvaluateReply,
    JoinReply,
    Refusal,
    TrainReply,
)
from privacy.errors import (
    BudgetExceeded,
    LedgerError,
    PolicyError,
    PolicyRefusal,
    PrivacyError,
    SigningKeyError,
    VoidStep,
)
from privacy.policy import SHOWN, Policy


class AwaitsApproval(MmmedError):
    """The policy allows the run, and a person at the site decides about it when it comes."""


_WEIGHT = 1.0  # the same for every site: a weight by examples would tell their number


_CODES: tuple[tuple[type[Exception], Refusal], ...] = (  # the first that fits
    (BudgetExceeded, Refusal.BUDGET),
    (PolicyRefusal, Refusal.POLICY),
    (PolicyError, Refusal.NO_POLICY),
    (LedgerError, Refusal.LEDGER),
    (SigningKeyError, Refusal.LEDGER),
    (VoidStep, Refusal.VOID),
    (PrivacyError, Refusal.PLAN),
    (DataError, Refusal.DATA),
    (WeightsDiffer, Refusal.WEIGHTS),
    (ModelError, Refusal.MODEL),
    (ConfigError, Refusal.REQUEST),
    (AwaitsApproval, Refusal.HELD),
)


@dataclass(frozen=True)
class Spending:
    """What a site states about its privacy after a round; none of it depends on the data.

    `epsilon` is the PLD epsilon of all steps charged so far at `delta`; `planned_epsilon` that of the plan.
    `statement` is the same and the round's charges as JSON, signed by the site, for the privacy report. `receipt`
    is the newest entry of the site's ledger, signed, which the server hands back: an older ledger is then refused.
    """

    epsilon: float
    planned_epsilon: float
    delta: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    max_grad_norm: float
    statement: str
    receipt: str


def training_reply(
    request: Message, site: str, update: bytes, spending: Spending | None, told: Mapping[str, float]
) -> Message:
    """The reply to a training request.

    Args:
        request: the request.
        site: the site's name.
        update: of `client.error_feedback`.
        spending: what was charged; None in a run without privacy.
        told: numbers for the strategy, made from the update and the charged steps alone.
    """
    stated = _stated(spending) if spending else {}
    reply = TrainReply(site=site, update=update, metrics=told, weight=_WEIGHT, stated=stated)
    return Message(content=reply.to_record(), reply_to=request)


def join_reply(request: Message, site: str, key: str, introduction: bytes) -> Message:
    """The reply of a site that joins a run of masked sums: who it is, and its key of the run.

    Args:
        request: the request.
        site: the site's name.
        key: its own public key, hexadecimal.
        introduction: of `privacy.secure_sum`; b"" before it was sent the terms.
    """
    reply = JoinReply(site=site, key=key, introduction=introduction)
    return Message(content=reply.to_record(), reply_to=request)


def check_reply(request: Message, site: str, error: Exception | None, purpose: str) -> Message:
    """The reply of a site that is asked what it would refuse: a code and the name of a rule, no more.

    Args:
        request: the question.
        site: the site's name.
        error: what a run would meet; None if nothing.
        purpose: what for.
    """
    if error is None:
        reply = CheckReply(site=site)
    else:
        rule = error.rule if isinstance(error, PolicyRefusal) else ""
        reply = CheckReply(site=site, refused=str(refusal_code(error)), rule=rule, purpose=purpose)
    return Message(content=reply.to_record(), reply_to=request)


def _stated(spending: Spending) -> dict[str, str | float | int]:
    return {f"{PRIVACY}{key}": value for key, value in vars(spending).items()}


@dataclass(frozen=True)
class Shown:
    """Metrics that leave unchanged; for generated or public data only."""

    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Rounded:
    """Metrics that leave rounded to multiples of `STEP`. This is not differential privacy."""

    metrics: Mapping[str, float]


@dataclass(frozen=True)
class PrivateHistograms:
    """Histograms (T, 2, bins) of `privacy.metrics` with noise, and what was charged for them."""

    histograms: np.ndarray
    spending: Spending


Results = Shown | Rounded | PrivateHistograms | None
STEP = 0.05  # of a rounded metric
_NEEDS = {Shown: (SHOWN,), Rounded: (SHOWN, "rounded"), PrivateHistograms: (SHOWN, "rounded", "private")}


def evaluation_reply(
    request: Message, site: str, policy: Policy | None, results: Results, told: Sequence[str] = ()
) -> Message:
    """The reply to an evaluation request.

    Args:
        request: the request.
        site: the site's name.
        policy: the site's; None if there are no results.
        results: what was computed, if anything.
        told: names of the task's metrics, all of which the policy must allow to leave like this.

    Raises:
        PolicyRefusal: the policy's rule for a metric does not let it leave like this.
    """
    metrics: dict[str, float] = {}
    stated: dict[str, str | float | int] = {}
    if results is not None:
        if not told:
            raise PolicyRefusal("metrics", "the results are of no metric that the policy could name.")
        for name in told:
            rule = policy.metric_rule(name) if policy else "none"
            if rule not in _NEEDS[type(results)]:
                raise PolicyRefusal("metrics", f"{name}: allowed is {rule}. Found {type(results).__name__}.")
    if isinstance(results, Shown):
        metrics = {key: float(value) for key, value in results.metrics.items() if np.isfinite(value)}
    elif isinstance(results, Rounded):
        finite = {key: value for key, value in results.metrics.items() if np.isfinite(value)}
        metrics = {key: round(round(value / STEP) * STEP, 2) for key, value in finite.items()}
        stated = {"results": "rounded, not private"}
    elif isinstance(results, PrivateHistograms):
        stated = _stated(results.spending)
    histograms = results.histograms if isinstance(results, PrivateHistograms) else None
    reply = EvaluateReply(site=site, stated=stated, metrics=metrics, weight=_WEIGHT, histograms=histograms)
    return Message(content=reply.to_record(), reply_to=request)


def refusal_reply(request: Message, code: Refusal) -> Message:
    """The reply of a site that refuses a request: it holds a code and nothing else."""
    return Message(Error(SITE_ERROR, code.value), reply_to=request)


class RoundFailed(Exception):
    """An error after patients' data were in use. Its cause stays at the site."""


@contextmanager
def one_code() -> Iterator[None]:
    """Turn every error of the block into `RoundFailed`, which leaves as `Refusal.FAILED`.

    Used for everything after the charge: the kind of an error that a record causes would reveal something of it.
    """
    try:
        yield
    except Exception as error:
        raise RoundFailed(f"{type(error).__name__}: {error}") from error


def refusal_code(error: Exception) -> Refusal:
    """The code by which an error may be named to others; `FAILED` for an error without a code of its own."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Refusal.FAILED
