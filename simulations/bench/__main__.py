"""``python -m simulations.bench NAME``: run a benchmark; without a name, list them."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = {
    "data": "reading headers, decoding, an epoch from the image cache, memory, and the share of a training step",
    "deidentify": "identifiers that survive in headers, notes and pixels, and what is masked without need",
    "common": "one private task as a bare loop, in process with mmmed, and as plain Flower on Ray",
    "accounting": "epsilon of long and of mixed compositions: time and discretisation error",
    "audit": "how often the empirical audit flags correct code, and its lower bounds",
    "serve": "mmmed serve under four clients: studies a second, waiting, CPU beside a bare torch loop",
    "report": "the cost of a privacy report, and its epsilons between the bounds of an independent accountant",
    "zoo": "every encoder, fusion and task: parameters, the cost of a private step, and how exact it is",
    "dpsgd": "one private step with each clipping engine beside an ordinary one: time and memory",
    "secure": "a step of masked sums: CPU and bytes over the private step, and its time over a SuperLink",
    "poison": "how far one hostile site moves a round's update under each aggregation rule",
    "scale": "a round at the server, or whole runs in process, against sites and model size: CPU, memory",
    "site": "one answer at a site, in a fresh process and in a fork of one that has imported everything",
    "start": "CPU time and memory until `--help` or `config show` has answered",
    "ledger": "a durable append to a site's ledger, opening a long one, verifying all of it",
    "spread": "how much of a record's gradient is its own, which `mmmed privacy plan` takes as --spread",
    "explain": "whether explanations point at what was planted in films and notes",
    "ceiling": "AUROC of logistic regression on frozen features, all sites in one place, without privacy",
    "utility": "AUROC of whole runs at equal epsilon, lever by lever",
}


def main(arguments: list[str]) -> int:
    """Hand the arguments after the name to the benchmark's ``main``."""
    if not arguments or arguments[0] not in BENCHMARKS:
        lines = [f"  {name:12} {about}" for name, about in BENCHMARKS.items()]
        print("\n".join(["usage: python -m simulations.bench NAME [--help]", "", *lines]))
        return 0 if arguments in ([], ["--help"], ["-h"]) else 2
    return int(importlib.import_module(f"simulations.bench.{arguments[0]}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
