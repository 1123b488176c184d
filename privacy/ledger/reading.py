"""What a site's ledger says: limits, plans, charges and what they add up to. Nothing here changes it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from privacy.accounting import Event, claimed_epsilon, merge
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger.admission import admit, charged_event, filter_epsilon
from privacy.ledger.chain import Chain
from privacy.ledger.clock import Clock, read
from privacy.ledger.export import export
from privacy.ledger.exposure import all_exposures, exposures
from privacy.ledger.identity import DatasetIdentity
from privacy.ledger.links import Head, Receipt
from privacy.ledger.state import Account, Budget, Plan, Policies, Rounds, State


class LedgerReading:
    """A ledger, opened: what its entries add up to, those of other processes included."""

    def __init__(self, chain: Chain[State]) -> None:
        self._chain = chain
        self._digests: dict[str, frozenset[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; further use raises LedgerError."""
        self._chain.close()

    @property
    def limit(self) -> Budget:
        """The most that any patient may be spent, by the newest entry that sets a limit."""
        return self._state.limit

    @property
    def policy(self) -> str | None:
        """The recorded site policy, if there is one."""
        self._chain.refresh()
        return self._state.policy

    @property
    def officer(self) -> str | None:
        """Public key, hexadecimal, of the officer who signed the recorded policy."""
        self._chain.refresh()
        return self._state.officer

    @property
    def keys(self) -> str | None:
        """Commitment to the keys that patients' digests are made with; None before the first plan."""
        self._chain.refresh()
        return self._state.keys

    @property
    def most_patients(self) -> int:
        """How many patients the largest data set has; 0 before the first plan. It never leaves the site."""
        self._chain.refresh()
        return max((len(self._patients(each)) for each in self._state.datasets), default=0)

    @property
    def head(self) -> Head:
        """The newest entry: give it to a peer as a receipt, and later to `verify`."""
        return self._chain.head

    @property
    def signer(self) -> str:
        """The site's public key, hexadecimal."""
        return self._chain.signer

    def receipt(self) -> Receipt:
        """The newest entry, signed, for a peer to keep and hand back with its next request."""
        return self._chain.receipt()

    def check_receipt(self, receipt: Receipt) -> None:
        """Raise LedgerError if the ledger is older than, or another than, what a peer has seen of it."""
        self._chain.check_receipt(receipt)

    def clock(self) -> Clock:
        """What time it is, by both clocks of this machine and what the ledger has noted of them."""
        self._chain.refresh()
        return Clock.of(self._state.mark, self._state.time, read())

    def now(self) -> float:
        """Seconds since the epoch up to which time has passed for certain: turning a clock gains nothing."""
        return self.clock().passed

    def find_plan(self, run_id: str) -> Plan | None:
        """The run's plan, withdrawn or not, if there is one."""
        self._chain.refresh()
        account = self._state.accounts.get(run_id)
        return account.plan if account else None

    def planned_patients(self, plan: Plan) -> int:
        """How many patients a plan charges. It never leaves the site."""
        return len(self._patients(plan.dataset))

    def covers(self, plan: Plan, dataset: DatasetIdentity) -> bool:
        """Whether every patient of a data set is one of those whom the plan charges: some may have left since."""
        return dataset.digests <= self._patients(plan.dataset)

    def took_part(self, digests: Set[bytes]) -> list[tuple[Plan, int | None]]:
        """The plans of which a step was charged, and how many of these patients each charges, oldest first.

        None where nobody can say: the plan is of before the keys of the patients' digests changed.
        """
        self._chain.refresh()
        touched = [account for account in self._state.accounts.values() if account.touched]
        now = self._state.generation
        return [
            (each.plan, len(digests & self._patients(each.plan.dataset)) if each.generation == now else None)
            for each in touched
        ]

    def plans(self) -> tuple[Plan, ...]:
        """All plans that count, oldest first."""
        self._chain.refresh()
        return tuple(account.plan for account in self._state.accounts.values() if not account.withdrawn)

    def disclosed(self) -> dict[str, tuple[str, ...]]:
        """Names of what each run was given without differential privacy, by run id."""
        self._chain.refresh()
        return dict(self._state.disclosed)

    def events(self, run_id: str | None = None) -> tuple[Event, ...]:
        """Everything charged, by all runs or one: reserved steps in full until committed lower.

        Raises:
            LedgerError: the ledger has no such run.
        """
        self._chain.refresh()
        accounts = list(self._state.accounts.values()) if run_id is None else [self._account(run_id)]
        return _charged(accounts)

    def charged_rounds(self, run_id: str) -> Rounds:
        """Steps charged to a run in each round, as (first round, last round, steps in each), ascending.

        Raises:
            LedgerError: the ledger has no such run.
        """
        self._chain.refresh()
        return self._account(run_id).runs

    def charged_policies(self, run_id: str) -> Policies:
        """The recorded policies under which a run was charged; none where no policy was recorded (a simulation).

        Raises:
            LedgerError: the ledger has no such run.
        """
        self._chain.refresh()
        return tuple(self._account(run_id).policies)

    def spent(self, delta: float, run_id: str | None = None) -> float:
        """Epsilon (PLD; with a sweep, RDP) of what was charged: one run's, or the worst patient's over all runs.

        An odometer reading. What may be claimed is a run's `plan.epsilon`, and the limit over all runs.
        """
        if run_id is not None:
            return claimed_epsilon(self.events(run_id), delta)
        self._chain.refresh()
        totals = {_charged(accounts) for accounts in self._combinations()}
        return max((claimed_epsilon(events, delta) for events in totals), default=0.0)

    def used(self, dataset: str, delta: float) -> tuple[float, float]:
        """(charged, planned): epsilon of the worst patient of a data set, by its fingerprint, all data sets counted.

        The first is an odometer reading, the second what all their plans together may claim.
        """
        self._chain.refresh()
        kinds = self._exposures(self._patients(dataset))
        planned = (merge(account.plan.event for account in accounts) for accounts in kinds)
        return (
            max((claimed_epsilon(_charged(accounts), delta) for accounts in kinds), default=0.0),
            max((claimed_epsilon(events, delta) for events in planned), default=0.0),
        )

    def filter_epsilon(self, *more: Event) -> float:
        """Where the adaptive filter stands for the worst patient, at the limit's delta, all plans in full.

        With `more`, where it would stand if the worst patient were in these as well.
        """
        self._chain.refresh()
        charged, limit, orders = (
            [charged_event(event) for event in more],
            self._state.limit,
            self._state.orders,
        )
        values = (filter_epsilon(each, limit, orders, charged) for each in self._combinations() or [[]])
        return max(values)

    def admits(self, event: Event, delta: float) -> bool:
        """Whether a plan of `event` would be admitted on the patients who were spent most; signs nothing."""
        self._chain.refresh()
        try:
            admit(
                charged_event(event),
                delta,
                self._combinations() or [[]],
                self._state.limit,
                self._state.orders,
            )
        except BudgetExceeded:
            return False
        return True

    def verify(self, receipts: Sequence[Head] = ()) -> int:
        """Check every entry, all patient digests, the anchor and `receipts`; return the number of entries.

        Raises:
            LedgerError: anything was edited, removed, inserted or rolled back.
        """
        replayed = self._chain.verify(tuple(receipts))
        if replayed.to_json() != self._state.to_json():
            raise LedgerError(f"The snapshot in {self._chain.path} is not what its entries add up to.")
        for fingerprint in self._state.datasets:
            DatasetIdentity.from_bytes(self._chain.cohort(fingerprint), fingerprint, "")
        return self._chain.head.seq

    def export(self) -> list[dict[str, Any]]:
        """All entries as JSON objects, for `verify_export`. Holds no patient digests and no patient counts."""
        return export(self._chain.entries())

    # -- inside -----------------------------------------------------------------------------------------------

    @property
    def _state(self) -> State:
        return self._chain.state

    def _account(self, run_id: str) -> Account:
        if run_id not in self._state.accounts:
            raise LedgerError(f"The ledger has no plan for run {run_id!r}.")
        return self._state.accounts[run_id]

    def _patients(self, fingerprint: str) -> frozenset[bytes]:
        if fingerprint not in self._digests:
            blob = self._chain.cohort(fingerprint)
            self._digests[fingerprint] = DatasetIdentity.from_bytes(blob, fingerprint, "").digests
        return self._digests[fingerprint]

    def _exposures(self, digests: frozenset[bytes]) -> list[list[Account]]:
        """The plans that count for each kind of patient among `digests`."""
        return exposures(self._state, self._patients, digests)

    def _combinations(self) -> list[list[Account]]:
        """The same for every patient of the site."""
        return all_exposures(self._state, self._patients)


def _charged(accounts: Sequence[Account]) -> tuple[Event, ...]:
    return merge(replace(account.plan.event, steps=account.charged) for account in accounts)
