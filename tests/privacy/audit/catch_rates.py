"""``python -m tests.privacy.audit.catch_rates``: the quick audit of correct code and each planted fault, many times."""

from __future__ import annotations

import argparse
from collections import Counter

import torch

from privacy.audit import Subject, audit, demo_subject
from tests.privacy.audit.faults import FAULTS


def main() -> None:
    """Print a Markdown table: the fault, audits that flagged it, and how many of them by each check."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--repeats", type=int, default=10, help="audits of each fault (default: %(default)s)"
    )
    options.add_argument(
        "--correct", type=int, default=200, help="audits of correct code (default: %(default)s)"
    )
    options.add_argument("--epsilon", type=float, default=4.0, help="claimed (default: %(default)s)")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    correct = demo_subject(chosen.epsilon)
    print("| fault | flagged | by |\n|---|---|---|")
    _show("none", correct, chosen.correct)
    for name, (plant, _) in FAULTS.items():
        _show(name, plant(correct), chosen.repeats)


def _show(name: str, subject: Subject, repeats: int) -> None:
    flagged, by = 0, Counter[str]()
    for _repeat in range(repeats):
        result = audit(subject, quick=True)
        flagged += not result.passed
        by.update({check.code for check in result.violations})
    codes = (code if n == repeats else f"{code} ({n})" for code, n in sorted(by.items()))
    print(f"| {name} | {flagged} of {repeats} | {' '.join(codes)} |", flush=True)


if __name__ == "__main__":
    main()
