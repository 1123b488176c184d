"""A site's ledger and log as its pages show them. Everything is read, nothing changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.progress import Progress
from client.refusal_log import refusals
from client.site_folder import StateFolder
from privacy.accounting import Event
from privacy.ledger import Budget, Ledger, Plan
from privacy.report import mechanism_cells, run_cell, shown

_MOST_REFUSALS = 50


@dataclass(frozen=True)
class DatasetBudget:
    """Epsilon of a data set's most exposed patient at the limit's delta, all data sets counted; rounded up."""

    name: str
    spent: float
    reserved: float
    runs: int


@dataclass(frozen=True)
class SiteView:
    """A site's state at one moment.

    Attributes:
        limit: the most that any patient may be spent.
        spent: of the worst patient, over all data sets; an odometer reading.
        entries: entries of the ledger.
        head: hash of the newest, hexadecimal.
        datasets: budget used by each data set.
        plans: a row a run: run, claimed epsilon, noise multiplier, sampling rate, steps planned, charged, purpose.
        progress: of the round that trains now or trained last.
    """

    limit: Budget
    spent: float
    entries: int
    head: str
    datasets: tuple[DatasetBudget, ...]
    plans: tuple[tuple[str, ...], ...]
    progress: Progress | None


def read_site(state: Path) -> SiteView:
    """Read a site's state folder. May take seconds when the ledger has grown.

    Raises:
        LedgerError: the ledger or the key cannot be read or trusted.
    """
    with StateFolder(state).inspect() as ledger:
        plans, limit = ledger.plans(), ledger.limit
        charged = {plan.run_id: ledger.events(plan.run_id) for plan in plans}
        return SiteView(
            limit=limit,
            spent=float(shown(ledger.spent(limit.delta))),
            entries=ledger.head.seq,
            head=ledger.head.link.hex(),
            datasets=tuple(
                _dataset(ledger, name, count, limit.delta)
                for name, count in Counter(plan.dataset for plan in plans).items()
            ),
            plans=tuple(_row(plan, charged[plan.run_id]) for plan in reversed(plans)),
            progress=Progress.read(state),
        )


def read_refusals(states: Sequence[Path]) -> list[tuple[str, str, str]]:
    """Time, code and reason of the newest refusals in the logs of these state folders, newest first."""
    return [_refusal(line) for line in reversed(refusals(*states)[-_MOST_REFUSALS:])]


def _dataset(ledger: Ledger, name: str, runs: int, delta: float) -> DatasetBudget:
    charged, planned = ledger.used(name, delta)
    return DatasetBudget(name[:12], float(shown(charged)), float(shown(planned)), runs)


def _row(plan: Plan, charged: Sequence[Event]) -> tuple[str, ...]:
    return (
        run_cell(plan.run_id),
        shown(plan.epsilon),
        *mechanism_cells(plan.event),
        str(sum(one.steps for one in charged)),
        plan.purpose,
    )


def _refusal(line: str) -> tuple[str, str, str]:
    when, _, rest = line.partition(" refused ")
    code, _, reason = rest.partition(" ")
    return when, code, reason
