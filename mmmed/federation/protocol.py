"""Why a site's part of a round is missing, as a code: all that others may know of it.

A site answers a request or refuses it with one of these codes; its reason stays in the site's log, since the text of an
error may carry a name. The server uses the same codes for an answer that does not come or cannot be used.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

AskAgain = Literal["no", "once", "until decided"]


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
    DATA = "data-unusable", "the site's data do not fit the run"
    MODEL = "model-refused", "the model cannot be built or trained there"
    WEIGHTS = "weights-differ", "its encoder or tokenizer is not the server's: install the same version"
    REQUEST = "request-invalid", "the site could not read the request: install the same version"
    HELD = "awaiting-approval", "somebody at the site has to approve the run", "until decided"
    DENIED = "not-approved", "the site decided against the run"
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
    NAME_TAKEN = "name-taken", "another site answered under this name"
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
