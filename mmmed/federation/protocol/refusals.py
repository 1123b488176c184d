"""Refusals: the codes in which a site says no, or the server of an answer that does not come or cannot be used."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from flwr.app import Message
from flwr.common.constant import ErrorCode

from mmmed.federation.protocol.bounds import CODE

AskAgain = Literal["no", "once", "until decided"]

SITE_ERROR = 400  # Flower's codes end well below; an error reply with it carries a code as its reason


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
    if CODE.fullmatch(reason):
        return reason
    return _FLOWER_CODES.get(reply.error.code, Refusal.FAILED)


class Refused(Exception):
    """A reply that cannot be used; its text is the code of the refusal."""
