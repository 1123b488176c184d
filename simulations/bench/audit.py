"""How often the audit flags correct code.

A flag is so rare by design that few runs cannot count it. What few runs can show is that p-values are no smaller
than they should be: for each check, the share below 0.05, with the 99.9 % limit that 5 % allows.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from scipy import stats

from privacy.audit import FALSE_ALARM_RATE, audit, demo_subject
from privacy.audit.result import STATISTICAL
from simulations.bench.measure import Row, parser, publish


def main(arguments: list[str]) -> int:
    """Prints the tables. Returns 1 if a p-value was too small too often, or more audits were flagged than stated."""
    options = parser("audit", (__doc__ or "").splitlines()[0], repeats=20)
    options.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 8.0], help="claims to audit")
    options.add_argument("--full", action="store_true", help="the full audit instead of the quick one")
    chosen = options.parse_args(arguments)
    torch.set_num_threads(1)
    p_values: dict[str, list[float]] = defaultdict(list)
    flagged = 0
    bounds: list[Row] = []
    for target in chosen.epsilons:
        subject, lower = demo_subject(target), defaultdict(list)
        for _ in range(chosen.repeats):
            result = audit(subject, quick=not chosen.full)
            flagged += not result.passed
            for check in result.checks:
                p_values[check.code].append(check.p_value)
            for bound in result.bounds:
                lower[bound.code].append(bound.epsilon)
        ranges = {code: f"{min(values):.2f} to {max(values):.2f}" for code, values in lower.items()}
        bounds.append({"claimed epsilon": f"{target:g}", **ranges})
    runs = chosen.repeats * len(chosen.epsilons)
    limit = int(stats.binom.ppf(0.999, runs, 0.05))
    small = {code: sum(p < 0.05 for p in p_values[code]) for code in STATISTICAL}
    rows: list[Row] = [
        {"check": code, "p below 0.05": count, "limit": limit, "least p": f"{min(p_values[code]):.2g}"}
        for code, count in small.items()
    ]
    publish(f"Lower bounds, {chosen.repeats} audits of each", bounds, None)
    publish(f"p-values of {runs} audits of correct code", rows, chosen.json)
    print(f"{flagged} of {runs} audits flagged (stated rate {FALSE_ALARM_RATE:g})")
    too_many = flagged > stats.binom.ppf(0.999, runs, FALSE_ALARM_RATE)
    return int(too_many or max(small.values()) > limit)
