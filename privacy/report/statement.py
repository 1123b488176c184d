"""What a site states and signs about its own part of a run. Nothing in it depends on any patient's record.

A statement is a JSON object: the plan as a serialised event, what the run asked for, the steps charged in each round
and under which policy, the link of the newest ledger entry, and an Ed25519 signature (RFC 8032) over the rest in the
ledger's canonical form. It says nothing of the site's other runs: the link is a digest, and the entry's number, which
would tell how many others there are, stays out. Of the site's size it says no more than the sampling rate does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.accounting import DpSgdEvent, Event, adaptive_epsilon, event_from_json
from privacy.accounting.pld import MIN_DELTA
from privacy.discrete import SMOOTHING
from privacy.errors import AccountingError, ReportError
from privacy.ledger import Ledger, Plan
from privacy.ledger.admission import ORDERS
from privacy.ledger.links import canonical
from privacy.ledger.state import Policies, Rounds
from privacy.planning import size_class
from privacy.secure_sum.lattice import LATTICE_BITS
from privacy.versions import versions

SCHEMA = "mmmed-privacy-statement/4"
# What was signed stays readable: the fields that statements of before did not have. They told the entry's number.
_UNSAID = {
    SCHEMA: frozenset[str](),
    "mmmed-privacy-statement/3": frozenset({"shared"}),
    "mmmed-privacy-statement/2": frozenset({"shared", "asked"}),
    "mmmed-privacy-statement/1": frozenset({"shared", "asked", "policies"}),
}
MAX_BYTES = 64 * 1024  # of its JSON text
_MOST_ROUNDS = 10**6
_MOST_STEPS = 10**6
_MOST_SITES = 10**4
_MOST_EPSILON = 1000.0
_MOST_NUMBER = 1e12
_DOMAIN = b"mmmed privacy statement 1\n"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Asked:
    """What a run asked of a site, as the site read it, and the public number that its sampling rate follows from.

    Attributes:
        target_epsilon: epsilon of the whole run.
        rounds: rounds of the run.
        patients: the sampling rate is the batch size over this; None where the run names the rate itself.
        stated: whether the site's policy states that number; else it is the largest power of two not above the
            site's number of patients.
    """

    target_epsilon: float
    rounds: int
    patients: int | None
    stated: bool

    @property
    def derived(self) -> bool:
        """Whether the sampling rate follows from how many patients the site has."""
        return self.patients is not None and not self.stated

    @staticmethod
    def of(target_epsilon: float, rounds: int, patients: int | None, stated: int | None) -> Asked:
        """For a site of so many patients, which do not show, whose policy states a number or none.

        Args:
            target_epsilon: of the run.
            rounds: of the run.
            patients: the site's number; None where the run names the sampling rate itself.
            stated: the number that the site's policy states, if it does.
        """
        if patients is None:
            return Asked(target_epsilon, rounds, patients=None, stated=False)
        return Asked(target_epsilon, rounds, stated or size_class(patients), stated is not None)


@dataclass(frozen=True)
class Shared:
    """How the sites of a run of masked sums share its noise (`privacy.secure_sum.Terms`).

    Attributes:
        sites: that may take part.
        honest: whose noise together is that of the plan's event.
        least_cohort: sites of the smallest sum.
        step: the last step that the site answered: a step asked again is charged again, so charges do not tell it.
    """

    sites: int
    honest: int
    least_cohort: int
    step: int

    @property
    def colluders(self) -> int:
        """Sites of a sum that may work together with the server while the plan's epsilon holds."""
        return self.least_cohort - self.honest

    def multiplier(self, noise_multiplier: float, colluders: int) -> float:
        """The noise multiplier that is left of the smallest sum, if so many of its sites work together.

        In lattice steps a site's share has a deviation s with h s^2 - 9 >= (sigma S)^2, where S, the sensitivity, is
        at least 2^20; the sum of m shares stands for N(0, m s^2 - 9) (`privacy.discrete`).
        """
        part = (self.least_cohort - colluders) / self.honest
        lost = max(0.0, 1 - part) * (SMOOTHING / 2**LATTICE_BITS) ** 2
        return math.sqrt(noise_multiplier**2 * part - lost)


@dataclass(frozen=True)
class Statement:
    """A site's statement whose signature was checked.

    Attributes:
        site: the site's name.
        run_id: the run.
        rule: "planned" or "adaptive", the ledger's rule that admitted the plan.
        event: the mechanism of the whole run, or sweep, signed before any record was read.
        delta: the delta of `epsilon`.
        epsilon: the plan's epsilon, which the site claims.
        max_grad_norm: clipping norm C.
        charged: steps charged, as (first round, last round, steps in each of them).
        policies: (first round charged under it, SHA-256 of the file) of the site's signed policies; empty where a
            simulated site has none, None in a statement of schema 1, which does not say.
        asked: what the run asked for; None for an evaluation, a sweep, or where older software does not say.
        shared: how the sites share the noise; None where each adds all of it.
        metrics_shown: whether metrics on held-out patients left the site without noise.
        ledger: link of the newest entry of the site's ledger.
        time: when it was signed, RFC 3339.
        software: versions of the packages that trained and accounted.
        key: the site's public key, hexadecimal.
    """

    site: str
    run_id: str
    rule: str
    event: Event
    delta: float
    epsilon: float
    max_grad_norm: float
    charged: Rounds
    policies: Policies | None
    asked: Asked | None
    shared: Shared | None
    metrics_shown: bool
    ledger: bytes
    time: str
    software: dict[str, str]
    key: str

    @property
    def mechanism(self) -> DpSgdEvent:
        """The event of a training run or an evaluation. Raises ReportError if the statement is on a sweep."""
        if not isinstance(self.event, DpSgdEvent):
            raise ReportError(f"The statement of site {self.site} is on a sweep, not on a run.")
        return self.event

    @property
    def last_round(self) -> int:
        """The last round that the site answered; 0 before the first."""
        if self.shared is not None:
            return self.shared.step
        return self.charged[-1][1] if self.charged else 0

    @property
    def steps(self) -> int:
        """Steps charged in all rounds."""
        return sum((last - first + 1) * steps for first, last, steps in self.charged)


def sign_statement(
    ledger: Ledger,
    plan: Plan,
    *,
    site: str,
    key: Ed25519PrivateKey,
    metrics_shown: bool,
    asked: Asked | None = None,
    shared: Shared | None = None,
) -> dict[str, Any]:
    """The site's statement on a run as of now.

    Args:
        ledger: the site's ledger, open.
        plan: the run's plan in it.
        site: the site's name.
        key: the site's signing key.
        metrics_shown: whether metrics on held-out patients leave the site without noise.
        asked: what the run asked for, of a training run.
        shared: how its noise is shared, of a run of masked sums.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "site": site,
        "run_id": plan.run_id,
        "rule": plan.rule,
        "event": plan.event.to_json(),
        "delta": plan.delta,
        "epsilon": plan.epsilon,
        "max_grad_norm": plan.max_grad_norm,
        "charged": [list(run) for run in ledger.charged_rounds(plan.run_id)],
        "policies": [list(each) for each in ledger.charged_policies(plan.run_id)],
        "asked": None if asked is None else asdict(asked),
        "shared": None if shared is None else asdict(shared),
        "metrics_shown": metrics_shown,
        "ledger": {"link": ledger.head.link.hex()},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": versions(),
        "key": key.public_key().public_bytes_raw().hex(),
    }
    return seal(body, key)


def seal(body: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """A statement's fields with the signature over them, in place of any that they had."""
    plain = {name: value for name, value in body.items() if name != "signature"}
    return plain | {"signature": key.sign(_DOMAIN + canonical(plain)).hex()}


def read_statement(value: Any) -> Statement:
    """Check a statement's form and signature.

    Raises:
        ReportError: it is malformed, or its signature does not hold for the key in it.
    """
    if not isinstance(value, Mapping) or value.get("schema") not in tuple(_UNSAID):
        raise ReportError(f"A statement must be a JSON object of schema {SCHEMA}.")
    body = {name: item for name, item in value.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(body["key"]))
        key.verify(bytes.fromhex(value["signature"]), _DOMAIN + canonical(body))
    except InvalidSignature:
        raise ReportError(
            f"The statement of site {body.get('site')!r} is not signed by the key in it: it was edited."
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"A statement's key or signature is not readable: {error!r}.") from None
    try:
        return _parse(body)
    except (KeyError, TypeError, ValueError, OverflowError, AccountingError) as error:
        raise ReportError(f"The statement of site {body.get('site')!r} is not readable: {error!r}.") from None


def _parse(body: Mapping[str, Any]) -> Statement:
    unsaid = _UNSAID[body["schema"]]
    _expect(set(body) == {*Statement.__dataclass_fields__, "schema"} - unsaid, "fields", sorted(body))
    _expect(body["rule"] in ("planned", "adaptive"), "rule", body["rule"])
    _expect(isinstance(body["metrics_shown"], bool), "metrics_shown", body["metrics_shown"])
    software = body["software"]
    _expect(
        isinstance(software, dict) and all(isinstance(v, str) for v in software.values()),
        "software",
        software,
    )
    head = body["ledger"]
    _expect(
        isinstance(head, dict) and set(head) == ({"seq", "link"} if "asked" in unsaid else {"link"}),
        "ledger",
        head,
    )
    _expect(_DIGEST.fullmatch(head["link"]) is not None, "ledger", head)
    event, delta = event_from_json(body["event"]), _number(body, "delta")
    _expect(MIN_DELTA <= delta < 1, "delta", delta)
    # Cheap, so that no site can make others compute for hours on a plan that bounds nothing.
    _expect(
        event.steps <= _MOST_STEPS and adaptive_epsilon([event], delta, ORDERS) <= _MOST_EPSILON,
        "event",
        event,
    )
    return Statement(
        site=_text(body, "site"),
        run_id=_text(body, "run_id"),
        rule=body["rule"],
        event=event,
        delta=delta,
        epsilon=_number(body, "epsilon"),
        max_grad_norm=_number(body, "max_grad_norm"),
        charged=_rounds(body["charged"]),
        policies=None if "policies" in unsaid else _policies(body["policies"]),
        asked=None if "asked" in unsaid else _asked(body["asked"]),
        shared=None if "shared" in unsaid else _shared(body["shared"]),
        metrics_shown=body["metrics_shown"],
        ledger=bytes.fromhex(head["link"]),
        time=_text(body, "time"),
        software=dict(software),
        key=_text(body, "key"),
    )


def _asked(value: Any) -> Asked | None:
    if value is None:
        return None
    _expect(isinstance(value, dict) and set(value) == set(Asked.__dataclass_fields__), "asked", value)
    _expect(isinstance(value["stated"], bool), "asked", value)
    rounds, patients = _whole(value["rounds"]), value["patients"]
    _expect(0 < rounds <= _MOST_ROUNDS, "asked", value)
    if patients is None:
        _expect(not value["stated"], "asked", value)
    else:
        _expect(_whole(patients) > 0, "asked", value)
    return Asked(_number(value, "target_epsilon"), rounds, patients, value["stated"])


def _shared(value: Any) -> Shared | None:
    if value is None:
        return None
    _expect(isinstance(value, dict) and set(value) == set(Shared.__dataclass_fields__), "shared", value)
    shared = Shared(*(_whole(value[name]) for name in Shared.__dataclass_fields__))
    _expect(1 <= shared.honest <= shared.least_cohort <= shared.sites <= _MOST_SITES, "shared", value)
    _expect(shared.least_cohort >= 2 and 0 < shared.step <= _MOST_ROUNDS, "shared", value)
    return shared


def _rounds(value: Any) -> Rounds:
    _expect(isinstance(value, list), "charged", value)
    runs, before = [], 0
    for run in value:
        _expect(isinstance(run, list) and len(run) == 3, "charged", run)
        first, last, steps = map(_whole, run)
        _expect(before < first <= last <= _MOST_ROUNDS and steps <= _MOST_STEPS, "charged", run)
        runs.append((first, last, steps))
        before = last
    return tuple(runs)


def _policies(value: Any) -> Policies:
    _expect(isinstance(value, list), "policies", value)
    found = []
    for each in value:
        _expect(isinstance(each, list) and len(each) == 2, "policies", each)
        number, digest = each
        _expect(isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None, "policies", digest)
        _expect(0 < _whole(number) <= _MOST_ROUNDS, "policies", number)
        found.append((number, digest))
    return tuple(found)


def _number(body: Mapping[str, Any], name: str) -> float:
    value = body[name]
    _expect(isinstance(value, int | float) and not isinstance(value, bool), name, value)
    _expect(0 < value <= _MOST_NUMBER, name, value)
    return float(value)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body[name]
    _expect(isinstance(value, str) and 0 < len(value) <= 200, name, value)
    return str(value)


def _whole(value: Any) -> int:
    _expect(isinstance(value, int) and not isinstance(value, bool) and value >= 0, "whole number", value)
    return int(value)


def _expect(holds: bool, name: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{name}: found {found!r}")
