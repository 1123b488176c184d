"""May one more plan run on these patients? The rule that keeps every patient within the limit.

A patient's spend is that of all plans on data sets they are in, each counted in full. A new plan is admitted

* by the *adaptive* rule, if the RDP filter (Feldman and Zrnic 2021) over all plans and the new one, at orders
  fixed when the ledger was created, stays within the limit: valid even though plans are chosen after seeing
  the results of earlier ones; or else
* by the *planned* rule, if none of these patients' data was ever used and what may be claimed (PLD; RDP where one of
  them is a sweep) for all plans signed so far and the new one together stays within the limit: valid because all
  were fixed before any result. Once a step was reserved only the adaptive rule can admit more, and what the planned
  rule let in is counted there.

A filter that stops when a PLD epsilon reaches the limit is not valid under adaptive choice (arXiv 2602.06756).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from privacy.accounting import DpSgdEvent, Event, adaptive_epsilon, claimed_epsilon, merge, shown
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger.state import Account, Budget

ADAPTIVE, PLANNED = "adaptive", "planned"
ORDERS = (2, 3, 5, 9, 18, 40)
_SIGMA_TICKS = 10_000  # noise multipliers are charged on a grid of 1e-4
_RATE_TICKS = 10**12


def charged_event(event: Event) -> Event:
    """The event as it is charged: noise multipliers rounded down to 1e-4, sampling rates up to 1e-12."""
    if isinstance(event, DpSgdEvent):
        return _charged_steps(event)
    return replace(event, trials=tuple(_charged_steps(trial) for trial in event.trials))


def _charged_steps(event: DpSgdEvent) -> DpSgdEvent:
    ticks = round(event.noise_multiplier * _SIGMA_TICKS)
    if ticks / _SIGMA_TICKS > event.noise_multiplier:
        ticks -= 1
    rate = round(event.sampling_rate * _RATE_TICKS)
    if rate / _RATE_TICKS < event.sampling_rate:
        rate += 1
    if ticks < 1:
        raise LedgerError(f"A noise multiplier must be 0.0001 or more. Found {event.noise_multiplier!r}.")
    return DpSgdEvent(ticks / _SIGMA_TICKS, rate / _RATE_TICKS, event.steps)


def filter_epsilon(
    accounts: Sequence[Account], limit: Budget, orders: Sequence[int], more: Sequence[Event] = ()
) -> float:
    """The epsilon of all plans together, each in full, valid even if each was chosen after the results of earlier ones.

    Feldman and Zrnic 2021 (`privacy.accounting.adaptive_epsilon`).

    Args:
        accounts: plans that count for one patient.
        limit: gives the delta.
        orders: RDP orders, fixed when the ledger was created.
        more: events to count in addition.
    """
    events = [*(account.plan.event for account in accounts), *more]
    return adaptive_epsilon(merge(events), limit.delta, orders)


def admit(
    event: Event,
    delta: float,
    earlier: Sequence[Sequence[Account]],
    limit: Budget,
    orders: Sequence[int],
    name: str = "the limit",
    *,
    planned: bool = True,
) -> str:
    """The rule by which a plan of `event` is admitted.

    Args:
        event: the new plan's mechanism.
        delta: the new plan's delta.
        earlier: for every combination of data sets that a patient is in, the plans on them.
        limit: the budget of every patient.
        orders: the filter's orders, as fixed at the ledger's creation.
        name: what to call the limit in a refusal.
        planned: whether the planned rule may be used.

    Returns:
        "adaptive" or "planned" (if any patient needed the latter).

    Raises:
        BudgetExceeded: a patient would exceed the limit.
    """
    if delta > limit.delta:
        raise BudgetExceeded(f"The run's delta {delta:g} is above the limit's {limit.delta:g}: lower it.")
    rule = ADAPTIVE
    for accounts in earlier:
        if (bound := filter_epsilon(accounts, limit, orders, [event])) <= limit.epsilon:
            continue
        rule, basis = PLANNED, "RDP filter over all runs"
        if planned and not any(account.touched for account in accounts):
            events = [*(account.plan.event for account in accounts), event]
            bound, basis = claimed_epsilon(events, limit.delta), "all planned runs together"
        if bound > limit.epsilon:
            raise BudgetExceeded(
                f"With this run a patient's epsilon would reach {shown(bound)} ({basis}, delta {limit.delta:g}); "
                f"{name} is {limit.epsilon:g}. Ask for more noise, fewer steps or a lower sampling rate."
            )
    return rule
