"""The privacy report: its cost for a long run of many sites, and how near its epsilon is to the truth.

The cost is CPU time of one thread. For each mechanism, what is reported stands beside `simulations.bench.bracket`, an
accountant that shares nothing with it and bounds epsilon from both sides, 0.1 % apart. Their middle knows the truth to
two millionths, as exact Gaussians show (`tests/privacy/accounting/test_epsilon.py`): below it is below the truth.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import AccountingError
from privacy.ledger import Budget, Ledger, dataset_identity
from privacy.planning import plan_training
from privacy.report import RunFacts, build_report, render_report, sign_statement, verify_report, versions
from privacy.report.numbers import clear_caches
from privacy.report.statement import seal
from simulations.bench.bracket import bracket
from simulations.bench.measure import Row, parser, publish

_DELTA, _TARGET = 1e-5, 8.0
_DELTAS = (1e-5, 1e-7)
_RATES, _NOISE, _STEPS = (0.01, 0.1, 0.5, 1.0), (0.7, 1.0, 2.0, 8.0), (10, 100)
_SMALLEST, _LARGEST = 0.05, 60.0  # epsilons beyond say nothing
_GAP, _RESOLUTION = 1e-3, 2e-6  # of the bracket and of its middle, relative


def main(arguments: list[str]) -> int:
    """Measure, compare and print. Returns 1 if an epsilon is more than 1 % above the truth, or below it."""
    options = parser("report", (__doc__ or "").splitlines()[0], repeats=1)
    options.add_argument("--sites", type=int, default=50)
    options.add_argument("--rounds", type=int, default=1000)
    chosen: Any = options.parse_args(arguments)
    cost = _cost(chosen.sites, chosen.rounds)
    publish(f"Report of {chosen.sites} sites and {chosen.rounds} rounds, CPU-seconds", cost, None)
    cases = itertools.product(_RATES, _NOISE, _STEPS, _DELTAS)
    compared = [row for case in cases if (row := _compare(*case))]
    publish("Reported epsilon, and the bounds of an independent accountant", compared, chosen.json)
    worst, low = max(row["above"] for row in compared), sum(row["below"] for row in compared)
    print(
        f"{len(compared)} mechanisms: reported at most {100 * worst:.3f} % above the lower bound; {low} below the truth"
    )
    return int(low > 0 or worst > 0.01)


def _cost(sites: int, rounds: int) -> list[Row]:
    """Sites of eight sizes, so that there are eight distinct mechanisms and all pairs of them."""
    with tempfile.TemporaryDirectory() as folder:
        statements = [_statement(Path(folder) / str(n), n, rounds) for n in range(sites)]
    facts = RunFacts(
        id="bench",
        private=True,
        target_epsilon=_TARGET,
        rounds=rounds,
        done=rounds,
        answered={statement["site"]: [(1, rounds)] for statement in statements},
        generated="2026-01-01T00:00:00+00:00",
        tuning="none",
        software=versions(),
    )
    found, start = [], time.process_time()
    body = build_report(statements, facts)
    page = render_report(body)
    found.append({"what": "build and draw", "cpu_s": time.process_time() - start, "kB": len(page) // 1000})
    clear_caches()  # as somebody else would
    start = time.process_time()
    problems = verify_report(body)
    found.append({"what": "verify", "cpu_s": time.process_time() - start, "kB": 0})
    if problems:
        raise AccountingError(f"The benchmark's report does not verify: {problems[0]}")
    return found


def _statement(folder: Path, number: int, rounds: int) -> dict[str, Any]:
    patients = 128 << number % 8
    plan = plan_training(
        patients=patients,
        batch_size=64,
        local_epochs=0.5,
        rounds=rounds,
        target_epsilon=_TARGET,
        delta=_DELTA,
    )
    folder.mkdir()
    key = Ed25519PrivateKey.generate()
    with Ledger.open(folder / "ledger.db", key, limit=Budget(_TARGET, _DELTA)) as ledger:
        identity = dataset_identity([f"{number}-{n}" for n in range(patients)], b"s" * 32)
        signed = ledger.plan(identity, "bench", plan.event, _DELTA, max_grad_norm=1.0)
        ledger.reserve(signed, 1, plan.steps_per_round).commit(plan.steps_per_round)
        stated = sign_statement(ledger, signed, site=f"site-{number:02}", key=key, metrics_shown=False)
    # As after all rounds, without flushing each of them to disk twice.
    return seal({**stated, "charged": [[1, rounds, plan.steps_per_round]]}, key)


def _compare(rate: float, noise: float, steps: int, delta: float) -> Row | None:
    """The reported epsilon of one mechanism beside the bracket around the truth; None where it is beyond use."""
    event = DpSgdEvent(noise, rate, steps)
    reported = epsilon([event], delta)
    if not _SMALLEST < reported < _LARGEST:
        return None
    truth = bracket([(noise, rate, steps)], delta, gap=_GAP * reported)
    return {
        "sampling rate": f"{rate:g}",
        "noise": f"{noise:g}",
        "steps": str(steps),
        "delta": f"{delta:g}",
        "reported": f"{reported:.5f}",
        "at least": f"{truth.lower:.5f}",
        "at most": f"{truth.upper:.5f}",
        "above": reported / truth.lower - 1,
        "above the middle": f"{reported / truth.middle - 1:.1e}",
        "below": reported < max(truth.lower, truth.middle * (1 - _RESOLUTION)),
    }
