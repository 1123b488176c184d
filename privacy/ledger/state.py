"""What the entries of a ledger add up to. No storage, no cryptography: a pure replay."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from privacy.accounting import DpSgdEvent, Event, event_from_json
from privacy.errors import AccountingError, LedgerError
from privacy.ledger.clock import Mark

VERSION = 1
Body = dict[str, Any]
Rounds = tuple[tuple[int, int, int], ...]  # (first round, last round, steps in each), ascending
Policies = tuple[tuple[int, str], ...]  # (first round charged under it, its `policy_digest`), as charged


@dataclass(frozen=True)
class Budget:
    """The most that any patient's data may be spent: (epsilon, delta), add/remove of one patient."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise LedgerError(f"A budget's epsilon must be a finite number above 0. Found {self.epsilon!r}.")
        if not 0 < self.delta < 1:
            raise LedgerError(f"A budget's delta must be in (0, 1). Found {self.delta!r}.")


@dataclass(frozen=True)
class Plan:
    """A whole run's mechanism, signed before the run touches any data.

    Attributes:
        run_id: the run.
        dataset: fingerprint of the data set.
        event: all steps of the run, or a whole sweep, as charged (noise multiplier rounded down, sampling rate up).
        delta: the delta of `epsilon`.
        epsilon: what is claimed for the run, by PLD, or for the sweep, by RDP. Stopping early never lowers it.
        max_grad_norm: clipping norm C.
        purpose: what the run is for.
        rule: "adaptive" where the filter over all plans admitted it, "planned" where it was signed before any
            access to these patients and admitted by PLD.
        shared: digest of the terms by which several sites add up to the event's noise (`privacy.secure_sum.Terms`),
            hexadecimal; "" where the site adds all of it.
    """

    run_id: str
    dataset: str
    event: Event
    delta: float
    epsilon: float
    max_grad_norm: float
    purpose: str
    rule: str
    shared: str = ""

    @property
    def mechanism(self) -> DpSgdEvent:
        """The event of a training run or an evaluation. Raises LedgerError if the plan is a sweep's."""
        if not isinstance(self.event, DpSgdEvent):
            raise LedgerError(f"{self.run_id} is a sweep in this ledger: a run needs another name.")
        return self.event

    def to_json(self) -> Body:
        """A JSON object that `from_json` reads."""
        told = {**self.__dict__, "event": self.event.to_json()}
        return told if self.shared else {name: value for name, value in told.items() if name != "shared"}

    @staticmethod
    def from_json(value: Body) -> Plan:
        """Read what `to_json` wrote."""
        return Plan(**{**value, "event": event_from_json(value["event"])})


@dataclass(frozen=True)
class Sublimit:
    """A part of the limit that plans of one kind share.

    Attributes:
        name: the rule's name, for refusals.
        budget: the most that any patient may be spent by these plans together.
        purpose: plans of this purpose; None for any.
        since: plans signed or charged at this time (seconds since the epoch) or later, and unfinished ones, which
            may be charged again.
    """

    name: str
    budget: Budget
    purpose: str | None = None
    since: float = -math.inf

    def covers(self, account: Account) -> bool:
        """Whether an account's plan counts against this part of the limit."""
        recent = account.used >= self.since or account.left > 0
        return recent and self.purpose in (None, account.plan.purpose)


@dataclass
class Account:
    """A plan and what was charged to it.

    Attributes:
        plan: the plan.
        terms: how often the limit or the policy had changed when it was signed.
        generation: how often the keys of the patients' digests had changed when it was signed.
        used: when it was signed or last charged, seconds since the epoch.
        committed: steps of reservations that were committed.
        open: round, steps granted and hash of the holder's token, by id of each reservation not yet committed.
        rounds: steps charged in each round.
        policies: (round, digest) of the policy then recorded, at the first charge and wherever it had changed.
        touched: whether any step was ever reserved.
        withdrawn: whether it was given up before any step.
    """

    plan: Plan
    terms: int
    generation: int
    used: float
    committed: int = 0
    open: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)
    policies: list[tuple[int, str]] = field(default_factory=list)
    touched: bool = False
    withdrawn: bool = False

    @property
    def charged(self) -> int:
        """Steps charged so far; reserved steps that are not committed count in full."""
        return self.committed + sum(steps for _, steps, _ in self.open.values())

    @property
    def runs(self) -> Rounds:
        """Steps charged in each round; neighbouring rounds of equally many steps are one entry."""
        found: list[tuple[int, int, int]] = []
        for number, steps in sorted(self.rounds.items()):
            if found and found[-1][1:] == (number - 1, steps):
                found[-1] = (found[-1][0], number, steps)
            else:
                found.append((number, number, steps))
        return tuple(found)

    @property
    def left(self) -> int:
        """Steps of the plan that have not been charged."""
        return self.plan.event.steps - self.charged


def evaluation_id(run_id: str) -> str:
    """The id under which a run's evaluation is planned, apart from its training: other patients pay for it."""
    return f"{run_id}/evaluation"


def policy_digest(text: str) -> str:
    """SHA-256 of a policy's text, hexadecimal, as `sha256sum` prints it for the file."""
    return hashlib.sha256(text.encode()).hexdigest()


def token_hash(token: str) -> str:
    """SHA-256 of a reservation's token, hexadecimal: the ledger stores this and never the token."""
    return hashlib.sha256(token.encode()).hexdigest()


class State:
    """Limit, plans and charges after a number of entries."""

    def __init__(self) -> None:
        self.ledger_id = ""
        self.limit = Budget(math.ulp(0.0), math.ulp(0.0))  # before the first entry nothing fits
        self.orders: tuple[int, ...] = ()
        self.policy: str | None = None
        self.policy_digest: str | None = None
        self.officer: str | None = None
        self.terms = 0
        self.keys: str | None = None  # that patients' digests are made with
        self.generation = 0
        self.time = 0.0
        self.mark: Mark | None = None
        self.accounts: dict[str, Account] = {}
        self.datasets: set[str] = set()
        self.disclosed: dict[str, tuple[str, ...]] = {}

    def apply(self, body: Body) -> None:
        """Take one more entry into account. Raises LedgerError for one that this version does not know."""
        kinds: dict[str, Callable[[Body], None]] = {
            "open": self._open,
            "limit": self._limit,
            "policy": self._policy,
            "dataset": self._dataset,
            "plan": self._plan,
            "withdraw": self._withdraw,
            "reserve": self._reserve,
            "commit": self._commit,
            "disclose": self._disclose,
            "clock": lambda body: None,
        }
        try:
            self._mark(body)
            kinds[body["kind"]](body)
            self.time = max(self.time, float(body["time"]))
        except (KeyError, TypeError, ValueError, AccountingError) as error:
            raise LedgerError(
                f"The ledger holds an entry that this version cannot read ({body.get('kind')!r}: {error!r}). "
                "Update the software."
            ) from error

    def to_json(self) -> Body:
        """A JSON object that `from_json` reads."""
        return {
            "ledger_id": self.ledger_id,
            "limit": [self.limit.epsilon, self.limit.delta],
            "orders": list(self.orders),
            "policy": self.policy,
            "officer": self.officer,
            "terms": self.terms,
            "keys": self.keys,
            "generation": self.generation,
            "time": self.time,
            "mark": None if self.mark is None else self.mark.to_json(),
            "datasets": sorted(self.datasets),
            "disclosed": {run_id: list(names) for run_id, names in self.disclosed.items()},
            "accounts": [
                {
                    "plan": account.plan.to_json(),
                    "terms": account.terms,
                    "generation": account.generation,
                    "used": account.used,
                    "committed": account.committed,
                    "open": {name: list(value) for name, value in account.open.items()},
                    "rounds": [list(run) for run in account.runs],
                    "policies": [list(each) for each in account.policies],
                    "touched": account.touched,
                    "withdrawn": account.withdrawn,
                }
                for account in self.accounts.values()
            ],
        }

    @classmethod
    def from_json(cls, value: Body) -> State:
        """Read what `to_json` wrote."""
        state = cls()
        state.ledger_id, state.limit = value["ledger_id"], Budget(*value["limit"])
        state.policy, state.officer, state.terms = value["policy"], value["officer"], value["terms"]
        state.policy_digest = None if state.policy is None else policy_digest(state.policy)
        state.keys, state.generation = value["keys"], value["generation"]
        state.orders, state.time, state.datasets = (
            tuple(value["orders"]),
            value["time"],
            set(value["datasets"]),
        )
        state.mark = None if value["mark"] is None else Mark.from_json(value["mark"])
        state.disclosed = {run_id: tuple(names) for run_id, names in value["disclosed"].items()}
        for item in value["accounts"]:
            plan = Plan.from_json(item["plan"])
            reservations = {
                name: (number, steps, holder) for name, (number, steps, holder) in item["open"].items()
            }
            rounds = {n: steps for first, last, steps in item["rounds"] for n in range(first, last + 1)}
            state.accounts[plan.run_id] = Account(
                plan,
                item["terms"],
                item["generation"],
                item["used"],
                item["committed"],
                reservations,
                rounds,
                [(number, digest) for number, digest in item["policies"]],
                item["touched"],
                item["withdrawn"],
            )
        return state

    def _mark(self, body: Body) -> None:
        """Note the clocks. What was charged since the machine was off is dated after that time, once it counts."""
        if "clock" not in body:
            return
        mark = Mark.from_json(body["clock"])
        if self.mark is not None and self.mark.since is not None:
            for account in self.accounts.values():
                if account.used > self.mark.since:
                    account.used += mark.gap
        self.mark = mark

    def _open(self, body: Body) -> None:
        if body["version"] != VERSION:
            raise ValueError(f"version {body['version']}")
        self.ledger_id, self.orders = body["ledger_id"], tuple(body["orders"])
        self.limit = Budget(body["epsilon"], body["delta"])

    def _limit(self, body: Body) -> None:
        self.terms += 1
        self.limit = Budget(body["epsilon"], body["delta"])

    def _policy(self, body: Body) -> None:
        self.terms += 1
        self.policy, self.officer = body["text"], body["officer"]
        self.policy_digest = policy_digest(body["text"])
        self.limit = Budget(body["epsilon"], body["delta"])
        if body.get("keys") is not None:
            self.generation += self.keys not in (None, body["keys"])
            self.keys = str(body["keys"])

    def _dataset(self, body: Body) -> None:
        if self.keys not in (None, body["keys"]):
            raise ValueError(f"data set {body['fingerprint']} of other keys")
        self.keys = str(body["keys"])
        self.datasets.add(body["fingerprint"])

    def _plan(self, body: Body) -> None:
        plan = Plan.from_json(body["plan"])
        if plan.run_id in self.accounts or plan.dataset not in self.datasets:
            raise ValueError(f"plan of run {plan.run_id}")
        self.accounts[plan.run_id] = Account(plan, self.terms, self.generation, float(body["time"]))

    def _withdraw(self, body: Body) -> None:
        account = self.accounts[body["run_id"]]
        if account.touched:
            raise ValueError(f"withdrawal of run {body['run_id']}")
        account.withdrawn = True

    def _reserve(self, body: Body) -> None:
        account = self.accounts[body["run_id"]]
        if account.generation != self.generation:
            raise ValueError(f"reservation for run {body['run_id']} of before the keys changed")
        if account.withdrawn or not 0 < body["steps"] <= account.left or body["reservation"] in account.open:
            raise ValueError(f"reservation for run {body['run_id']}")
        number, steps = int(body["round"]), body["steps"]
        account.open[body["reservation"]] = (number, steps, body["holder"])
        account.rounds[number] = account.rounds.get(number, 0) + steps
        if self.policy_digest is not None and self.policy_digest not in [d for _, d in account.policies[-1:]]:
            account.policies.append((number, self.policy_digest))
        account.touched, account.used = True, float(body["time"])

    def _commit(self, body: Body) -> None:
        account = self.accounts[body["run_id"]]
        number, steps, holder = account.open[body["reservation"]]
        if token_hash(body["token"]) != holder or not 0 <= body["steps"] <= steps:
            raise ValueError(f"commit for run {body['run_id']}")
        del account.open[body["reservation"]]
        account.committed += body["steps"]
        account.rounds[number] -= steps - body["steps"]

    def _disclose(self, body: Body) -> None:
        if body["run_id"] in self.disclosed:
            raise ValueError(f"second disclosure for run {body['run_id']}")
        self.disclosed[body["run_id"]] = tuple(body["what"])
