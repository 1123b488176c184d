"""``python -m tests.privacy.audit.catch_rates``: the quick audit of each planted fault, many times."""

from __future__ import annotations

import argparse
from collections import Counter

import torch

from privacy.audit import audit, demo_subject
from tests.privacy.audit.faults import FAULTS


def main() -> None:
    """Print a Markdown table: the fault, audits that flagged it, and how many of them by each check."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--repeats", type=int, default=10, help="audits of each fault (default: %(default)s)"
    )
    options.add_argument("--epsilon", type=float, default=4.0, help="claimed (default: %(default)s)")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    correct = demo_subject(chosen.epsilon)
    print("| fault | flagged | by |\n|---|---|---|")
    for name, (plant, _) in FAULTS.items():
        faulty, flagged, by = plant(correct), 0, Counter[str]()
        for _repeat in range(chosen.repeats):
            result = audit(faulty, quick=True)
            flagged += not result.passed
            by.update({check.code for check in result.violations})
        codes = (code if n == chosen.repeats else f"{code} ({n})" for code, n in sorted(by.items()))
        print(f"| {name} | {flagged} of {chosen.repeats} | {' '.join(codes)} |", flush=True)


if __name__ == "__main__":
    main()
