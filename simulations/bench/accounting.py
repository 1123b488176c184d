"""What an epsilon costs to compute, and how much of it is discretisation.

Every case is accounted with empty caches, but "one more round", which comes on top of a cached composition. CPU time
of one thread, without the imports; the error is the estimate from above of `privacy.accounting.discretisation_error`.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from privacy.accounting import DpSgdEvent, cross_check, discretisation_error, epsilon, pld
from simulations.bench.measure import Row, parser, publish

DELTA = 1e-5
SEGMENTS = [DpSgdEvent(0.8 + 0.03 * i, 0.01 + 0.002 * i, 20 + i) for i in range(50)]
# What is accounted, and what is in the caches before.
CASES: dict[str, tuple[list[DpSgdEvent], list[DpSgdEvent]]] = {
    "100,000 steps, sigma 0.8, q 0.001": ([DpSgdEvent(0.8, 0.001, 100_000)], []),
    "100,000 steps, sigma 8, q 0.01": ([DpSgdEvent(8.0, 0.01, 100_000)], []),
    "50 mechanisms": (SEGMENTS, []),
    "one more round, a new mechanism": ([*SEGMENTS, DpSgdEvent(1.3, 0.07, 20)], SEGMENTS),
    "one more round, the first mechanism": ([*SEGMENTS, SEGMENTS[0]], SEGMENTS),
    "one more round, the last mechanism": ([*SEGMENTS, SEGMENTS[-1]], SEGMENTS),
}


def _row(name: str, repeats: int, check: bool) -> Row:
    events, cached = CASES[name]
    seconds = []
    for _ in range(repeats):
        pld.clear_caches()
        epsilon(cached, DELTA)
        start = time.thread_time()
        value = epsilon(events, DELTA)
        seconds.append(time.thread_time() - start)
    row: Row = {
        "case": name,
        "cpu_s": round(statistics.median(seconds), 4),
        "epsilon": round(value, 5),
        "error": round(discretisation_error(events, DELTA), 6),
    }
    if check:
        others = cross_check(events, DELTA, value, slack=row["error"])
        row |= {"prv": "none" if others.prv is None else round(others.prv, 5), "rdp": round(others.rdp, 5)}
    return row


def main(argv: list[str] | None = None) -> int:
    """Run, print a table, and write the rows to a file if asked."""
    options = parser("accounting", (__doc__ or "").splitlines()[0], repeats=5)
    options.add_argument(
        "--check", action="store_true", help="also by PRV and RDP, which take far longer, with the alarm on"
    )
    arguments: Any = options.parse_args(argv)
    epsilon([DpSgdEvent(1.0, 0.5, 1)], DELTA)  # the imports
    found = [_row(name, arguments.repeats, arguments.check) for name in CASES]
    publish(f"Epsilon at delta {DELTA:g}", found, arguments.json)
    return 0
