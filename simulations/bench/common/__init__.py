"""The common task: what private federated training costs in three systems that do equal work.

Four clients of 200 synthetic 1x64x64 images, a GroupNorm CNN of 18,402 parameters, sampling rate 1/7 (expected batch
28.6), noise multiplier 1, clipping norm 1, three rounds of seven steps, one thread a process. The final loss is near
the same for all; the noise makes it differ from run to run.

The epsilons differ on purpose. A new PrivacyEngine a message, as in Flower's example, forgets earlier rounds and
reports one round's epsilon again and again; the others compose all 21 steps. The loop computes its epsilon once, at the
end; the federated systems report one after every round.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from simulations.bench.measure import interleaved, parser, publish, rows

_SYSTEMS = {
    "PyTorch + Opacus loop": ("bare",),
    "mmmed, hooks engine": ("ours", "hooks"),
    "mmmed, bookkeeping engine": ("ours", "bookkeeping"),
    "Flower + Opacus on Ray": ("flower_ray",),
}
_BASELINE = "PyTorch + Opacus loop"
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("common", (__doc__ or "").splitlines()[0], repeats=3).parse_args(arguments)
    commands = {
        name: [sys.executable, "-W", "ignore", "-m", f"simulations.bench.common.{module}", *rest]
        for name, (module, *rest) in _SYSTEMS.items()
    }
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed (pip install 'mmmed[ray]'): its system is left out")
        commands = {name: command for name, command in commands.items() if "Ray" not in name}
    runs = interleaved(commands, options.repeats, os.environ | _ENVIRONMENT)
    found = rows("common", runs, _BASELINE, ("epsilon", "loss"))
    publish("Common task (4 clients, 3 rounds; medians)", found, options.json)
    return 0
