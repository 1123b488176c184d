"""How often the audit flags correct code: `python -m tests.privacy.audit.repetitions [--runs N] [--full]`.

A flag is so rare by design that few runs cannot count it. What few runs can show is that p-values are no smaller
than they should be: for each check, the share below 0.05, with the 99.9 % limit that 5 % allows.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

import torch
from scipy import stats

from privacy.audit import FALSE_ALARM_RATE, audit, demo_subject
from privacy.audit.result import STATISTICAL


def main() -> int:
    """Prints the table. Returns 1 if a p-value was too small too often, or more audits were flagged than stated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="for each epsilon")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 8.0])
    parser.add_argument("--full", action="store_true", help="the full audit instead of the quick one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    p_values: dict[str, list[float]] = defaultdict(list)
    flagged = 0
    for target in options.epsilons:
        subject, lower = demo_subject(target), defaultdict(list)
        for _ in range(options.runs):
            result = audit(subject, quick=not options.full)
            flagged += not result.passed
            for check in result.checks:
                p_values[check.code].append(check.p_value)
            for bound in result.bounds:
                lower[bound.code].append(bound.epsilon)
        ranges = "  ".join(f"{code} {min(v):.2f} to {max(v):.2f}" for code, v in lower.items())
        print(f"epsilon {target:g}: lower bounds {ranges}", flush=True)
    runs = options.runs * len(options.epsilons)
    limit = int(stats.binom.ppf(0.999, runs, 0.05))
    bad = flagged > stats.binom.ppf(0.999, runs, FALSE_ALARM_RATE)
    for code in STATISTICAL:
        small = sum(p < 0.05 for p in p_values[code])
        bad |= small > limit
        print(
            f"{code}: {small} of {runs} p-values below 0.05 (limit {limit}), least {min(p_values[code]):.2g}"
        )
    print(f"{flagged} of {runs} audits of correct code flagged (stated rate {FALSE_ALARM_RATE:g})")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
