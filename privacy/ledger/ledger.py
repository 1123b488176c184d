"""A site's privacy ledger: plan, reserve, run, commit. What is not committed is charged in full."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import Event, claimed_epsilon
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger.admission import ADAPTIVE, ORDERS, PLANNED, admit, charged_event
from privacy.ledger.chain import Chain
from privacy.ledger.clock import passed, read, renewed
from privacy.ledger.identity import DatasetIdentity
from privacy.ledger.reading import LedgerReading
from privacy.ledger.reservation import Reservation
from privacy.ledger.state import (
    VERSION,
    Account,
    Body,
    Budget,
    Plan,
    State,
    Sublimit,
    token_hash,
)


class Ledger(LedgerReading):
    """What a site's patients have been spent, and the only way to spend more.

    Safe for threads and for several processes at once; open it again after a fork. There is no refresh by time, and
    entry times never run backwards (`privacy.ledger.clock`).
    """

    @classmethod
    def open(cls, path: Path, key: Ed25519PrivateKey, *, limit: Budget) -> Ledger:
        """Open the ledger at `path`, or create it with this limit.

        A lower limit than the recorded one is recorded and holds from now on; a higher one is refused.

        Args:
            path: the file, on a local disk. Its anchor is in the same folder.
            key: the site's signing key, always the same.
            limit: the most that any patient may be spent, by all runs together.

        Raises:
            LedgerError: the file cannot be trusted, read or written, or the limit is above the recorded one.
        """
        ledger = cls(Chain(path, key, State()))
        try:
            if not ledger._state.ledger_id or ledger._state.limit != limit:
                ledger._set_limit(limit)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def inspect(cls, path: Path, key: Ed25519PrivateKey) -> Ledger:
        """Open a ledger that is there already, with the limit that it has.

        Raises:
            LedgerError: there is none, or it cannot be trusted or read.
        """
        if not path.is_file():
            raise LedgerError(f"{path}: no such ledger.")
        return cls(Chain(path, key, State()))

    # -- spending ---------------------------------------------------------------------------------------------

    def plan(
        self,
        dataset: DatasetIdentity,
        run_id: str,
        event: Event,
        delta: float,
        max_grad_norm: float,
        purpose: str = "training",
        sublimits: Sequence[Sublimit] = (),
        shared: str = "",
    ) -> Plan:
        """Sign a whole run's mechanism before any data is touched, if the limit admits it.

        The same plan again returns the one that was signed, also if some of its patients have left the data set since:
        whoever is left is charged by it.

        Args:
            dataset: whose data the run uses.
            run_id: a name that no other run has.
            event: noise multiplier, sampling rate and steps of the whole run; or a sweep, which is one step.
            delta: the delta at which the run's epsilon is claimed.
            max_grad_norm: clipping norm.
            purpose: what the run is for.
            sublimits: parts of the limit that this plan must keep too.
            shared: digest of the terms by which the noise is shared, hexadecimal; "" where the site adds all of it.

        Raises:
            BudgetExceeded: a patient would exceed the limit.
            LedgerError: the run was planned with other values.
        """
        event = charged_event(event)
        if event.steps < 1 or not run_id or not max_grad_norm > 0:
            raise LedgerError("A plan needs a run_id, one step or more and a clipping norm above 0.")
        same = (run_id, dataset.fingerprint, event, delta, max_grad_norm, purpose, shared)
        if (known := self.find_plan(run_id)) is not None:
            covered = known.dataset if self.covers(known, dataset) else dataset.fingerprint
            return _unchanged(known, (run_id, covered, *same[2:]))
        claim = claimed_epsilon([event], delta)
        with self._chain.transaction() as work:
            if run_id in self._state.accounts:
                return _unchanged(self._state.accounts[run_id].plan, same)
            rule = self._admit(dataset, event, delta, sublimits)
            plan = Plan(
                run_id, dataset.fingerprint, event, delta, claim, max_grad_norm, purpose, rule, shared
            )
            if dataset.fingerprint not in self._state.datasets:
                work.store_cohort(dataset.fingerprint, dataset.to_bytes())
                work.append(self._entry("dataset", fingerprint=dataset.fingerprint, keys=dataset.keys))
            work.append(self._entry("plan", plan=plan.to_json()))
        return plan

    def check(
        self,
        dataset: DatasetIdentity,
        event: Event,
        delta: float,
        sublimits: Sequence[Sublimit] = (),
    ) -> None:
        """Check that `plan` would admit an event now, and sign nothing.

        Args:
            dataset: whose data the run would use.
            event: noise multiplier, sampling rate and steps of the whole run; or a sweep.
            delta: the delta at which its epsilon would be claimed.
            sublimits: parts of the limit that the plan must keep too.

        Raises:
            BudgetExceeded: a patient would exceed the limit.
            LedgerError: the ledger cannot be trusted or read.
        """
        self._chain.refresh()
        self._admit(dataset, charged_event(event), delta, sublimits)

    def record_policy(
        self,
        text: str,
        limit: Budget,
        *,
        officer: str,
        replaces: str | None,
        countersigned: bool = False,
        keys: str | None = None,
    ) -> None:
        """Record the site's policy and the limit it sets. `privacy.policy.adopt_policy` checks it first.

        Args:
            text: the policy file.
            limit: its limit.
            officer: public key of the officer who signed it, hexadecimal.
            replaces: the policy that is recorded now.
            countersigned: whether two officers signed, so that the limit may rise.
            keys: what patients' digests are made with from now on. If it was something else before, every patient
                counts as the one who was spent most, and no plan of before can be charged any more.

        Raises:
            LedgerError: the limit is above the recorded one, or the recorded policy is another.
        """
        with self._chain.transaction() as work:
            if self._state.policy != replaces:
                raise LedgerError("Another process has changed the recorded policy: try again.")
            if not countersigned:
                self._check_lower(limit)
            values: Body = {"epsilon": limit.epsilon, "delta": limit.delta, "countersigned": countersigned}
            if keys is not None:
                values["keys"] = keys
            work.append(self._entry("policy", text=text, officer=officer, **values))

    def withdraw(self, run_id: str) -> None:
        """Give up a plan of which no step was ever reserved, so that it no longer counts.

        Raises:
            LedgerError: there is no such plan, a step was reserved, or giving it up now would be a choice made
                after results that the planned rule relied on not being made.
        """
        with self._chain.transaction() as work:
            account = self._account(run_id)
            if account.touched:
                raise LedgerError(f"Run {run_id} has reserved steps: its plan counts for ever.")
            if account.withdrawn:
                return
            for accounts in self._exposures(self._patients(account.plan.dataset)):
                touched = any(other.touched for other in accounts)
                if touched and any(other.plan.rule == PLANNED for other in accounts):
                    raise LedgerError(
                        f"Run {run_id} was planned together with a run that has used these patients' data: "
                        "its plan counts for ever."
                    )
            work.append(self._entry("withdraw", run_id=run_id))

    def reserve(self, plan: Plan, round: int, steps: int, sublimits: Sequence[Sublimit] = ()) -> Reservation:
        """Charge steps, durably, before they run.

        If the limit or the policy changed after the plan was signed, the adaptive rule must admit the plan again.

        Args:
            plan: the run's plan.
            round: the federated round.
            steps: how many steps the round wants.
            sublimits: parts of the limit that a plan must keep too.

        Returns:
            A reservation of min(steps, what is left of the plan) steps.

        Raises:
            BudgetExceeded: nothing is left of the plan, or a limit that was lowered no longer admits it.
            LedgerError: the plan is not this ledger's, or cannot be charged.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise LedgerError(f"steps must be a whole number, 1 or more. Found {steps!r}.")
        name, token = secrets.token_hex(8), secrets.token_hex(16)
        with self._chain.transaction() as work:
            account = self._account(plan.run_id)
            if account.plan != plan:
                raise LedgerError(f"Run {plan.run_id} has another plan in this ledger.")
            if account.withdrawn:
                raise BudgetExceeded(f"The plan of run {plan.run_id} was withdrawn: start a new run.")
            if account.generation != self._state.generation:
                raise LedgerError(
                    f"Run {plan.run_id} was planned before the keys of the patients' digests changed: start a new run."
                )
            if (granted := min(steps, account.left)) < 1:
                raise BudgetExceeded(
                    f"Run {plan.run_id} has used all {plan.event.steps} steps of its plan: start a new run."
                )
            if account.terms != self._state.terms:
                self._readmit(account, sublimits)
            work.append(
                self._entry(
                    "reserve",
                    run_id=plan.run_id,
                    reservation=name,
                    round=round,
                    steps=granted,
                    holder=token_hash(token),
                )
            )
        return Reservation(round, granted, partial(self._commit, plan.run_id, name, token))

    def _commit(self, run_id: str, reservation: str, token: str, steps: int) -> None:
        with self._chain.transaction() as work:
            if reservation not in self._account(run_id).open:
                raise LedgerError(f"The reservation for run {run_id} is not open.")
            work.append(
                self._entry("commit", run_id=run_id, reservation=reservation, token=token, steps=steps)
            )

    def disclose(self, run_id: str, what: Sequence[str]) -> None:
        """Record that results are about to leave without differential privacy; a run may do so once.

        Args:
            run_id: the run.
            what: names of the results.

        Raises:
            BudgetExceeded: the run has been given its results before.
        """
        with self._chain.transaction() as work:
            if run_id in self._state.disclosed:
                raise BudgetExceeded(f"Run {run_id} was told its results already: they leave once a run.")
            work.append(self._entry("disclose", run_id=run_id, what=list(what)))

    def note_clock(self) -> None:
        """Note both clocks if that is due: after a boot, after a step of the wall clock, an hour after either."""
        self._chain.refresh()
        if renewed(self._state.mark, self._state.time, read()) is not None:
            with (
                self._chain.transaction() as work
            ):  # should another process have noted them, once more does no harm
                work.append(self._entry("clock"))

    # -- inside -----------------------------------------------------------------------------------------------

    def _entry(self, kind: str, **fields: Any) -> Body:
        """An entry, dated; call it within the transaction that appends it."""
        now, mark, newest = read(), self._state.mark, self._state.time
        if (marked := renewed(mark, newest, now)) is not None:
            return {"kind": kind, "time": marked.time, "clock": marked.to_json(), **fields}
        return {"kind": kind, "time": passed(mark, newest, now), **fields}

    def _check_keys(self, dataset: DatasetIdentity) -> None:
        if self._state.keys not in (None, dataset.keys):
            raise LedgerError(
                f"The data set's patients are named by other keys ({dataset.keys}) than the patients in this ledger "
                f"({self._state.keys}), so that nobody would be recognised. Ingest again with the key file that was "
                f"kept (site-data.key). If it is lost, the privacy officer signs a policy with "
                f'pseudonyms = "{dataset.keys}": then every patient counts as the one who was spent most.'
            )

    def _set_limit(self, limit: Budget) -> None:
        values = {"epsilon": limit.epsilon, "delta": limit.delta}
        with self._chain.transaction() as work:
            if not self._state.ledger_id:
                work.append(
                    self._entry(
                        "open",
                        version=VERSION,
                        ledger_id=secrets.token_hex(16),
                        orders=list(ORDERS),
                        **values,
                    )
                )
                return
            self._check_lower(limit)
            if limit != self._state.limit:
                work.append(self._entry("limit", **values))

    def _check_lower(self, limit: Budget) -> None:
        held = self._state.limit
        if limit.epsilon > held.epsilon or limit.delta > held.delta:
            raise LedgerError(
                f"The limit (epsilon {limit.epsilon:g}, delta {limit.delta:g}) is above the recorded one "
                f"(epsilon {held.epsilon:g}, delta {held.delta:g}): a limit can only be lowered, unless two "
                "officers sign a policy that raises it."
            )

    def _admit(
        self,
        dataset: DatasetIdentity,
        event: Event,
        delta: float,
        sublimits: Sequence[Sublimit],
    ) -> str:
        self._check_keys(dataset)
        kinds, orders = self._kinds(dataset.digests), self._state.orders
        rules = {admit(event, delta, kinds, self._state.limit, orders)}
        for part in sublimits:
            covered = [[each for each in accounts if part.covers(each)] for accounts in kinds]
            rules.add(admit(event, delta, covered, part.budget, orders, part.name))
        return PLANNED if PLANNED in rules else ADAPTIVE

    def _kinds(self, digests: frozenset[bytes]) -> list[list[Account]]:
        """As `_exposures`; of nobody as of one whom nothing was charged, so that a plan's answer is the same."""
        return self._exposures(digests) or [[]]

    def _readmit(self, account: Account, sublimits: Sequence[Sublimit]) -> None:
        plan, state = account.plan, self._state
        kinds = self._kinds(self._patients(plan.dataset))
        for part in (Sublimit("the limit", state.limit), *sublimits):
            others = [
                [each for each in accounts if each is not account and part.covers(each)] for accounts in kinds
            ]
            admit(plan.event, plan.delta, others, part.budget, state.orders, part.name, planned=False)


def _unchanged(known: Plan, same: tuple[object, ...]) -> Plan:
    signed = (
        known.run_id,
        known.dataset,
        known.event,
        known.delta,
        known.max_grad_norm,
        known.purpose,
        known.shared,
    )
    if signed != same:
        names = (
            "run_id",
            "patients",
            "mechanism",
            "delta",
            "max_grad_norm",
            "purpose",
            "way to share the noise",
        )
        changed = [name for name, before, now in zip(names, signed, same, strict=True) if before != now]
        raise LedgerError(
            f"Run {known.run_id} was planned with another {' and '.join(changed)}: a signed plan does not change. "
            "Start a new run."
        )
    return known
