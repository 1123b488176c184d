"""A site's figures for its hospital's own monitoring. They stay at the site, as its pages do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from client.dashboard.view import read_refusals
from client.progress import Progress
from client.site_folder import StateFolder
from mmmed.dashboard.metrics import Gauge
from privacy.report import shown


def site_gauges(name: str, state: Path, logs: Sequence[Path]) -> Callable[[], list[Gauge]]:
    """A function that reads the figures of a site: budget, ledger, clock, newest refusals, progress.

    Epsilon is computed anew only when the ledger has grown, since that may take seconds.
    """
    known: dict[int, float] = {}

    def read() -> list[Gauge]:
        mine = {"site": name}
        gauges = []
        if StateFolder(state).holds_ledger():
            with StateFolder(state).inspect() as ledger:
                limit, entries, clock = ledger.limit, ledger.head.seq, ledger.clock()
                if entries not in known:
                    known.clear()
                    known[entries] = float(shown(ledger.spent(limit.delta)))  # rounded up
            gauges += [
                Gauge(
                    "mmmed_site_epsilon_spent",
                    "Epsilon charged to the most spent patient, at the limit's delta.",
                    [(mine, known[entries])],
                ),
                Gauge(
                    "mmmed_site_epsilon_limit",
                    "The most that any patient may be spent.",
                    [(mine, limit.epsilon)],
                ),
                Gauge("mmmed_site_ledger_entries", "Entries of the ledger.", [(mine, entries)]),
                Gauge(
                    "mmmed_site_clock_ahead_seconds",
                    "This machine's clock less the time that has passed for certain.",
                    [(mine, clock.wall - clock.passed)],
                ),
            ]
        codes = Counter(code for _, code, _ in read_refusals(logs))
        gauges.append(
            Gauge(
                "mmmed_site_refusals",
                "Requests refused, of the newest 50 in the log.",
                [({**mine, "code": code}, number) for code, number in sorted(codes.items())],
            )
        )
        if (progress := Progress.read(state)) is not None:
            figures = {"round": progress.server_round, "step": progress.step, "steps": progress.steps}
            gauges += [
                Gauge(
                    f"mmmed_site_{what}",
                    f"{what.capitalize()} of the newest round of training.",
                    [(mine, value)],
                )
                for what, value in figures.items()
            ]
        return gauges

    return read
