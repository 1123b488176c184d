"""The CPU time of one round at a site, in a process of its own and in a fork of one that has imported everything.

A fresh process is what Flower's executor starts for each message; a fork is what mmmed's runner does. Both answer the
same training request of a tiny model from a hospital's folder: policy, ledger, data, DP-SGD, the kept answer. Each
request is a round of its own, so none is answered from what was kept. `asked too much` is a request that the policy
refuses: what is left when no training is done.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from simulations.bench.measure import Row, interleaved, parser, publish

_FRESH, _FORK = "a fresh process", "a fork of the runner"


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("site", (__doc__ or "").splitlines()[0], repeats=5)
    chosen = options.parse_args(arguments)
    from mmmed.demo import generate
    from simulations.loopback.hospital import ROOMY, Hospital

    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        hospital = Hospital(home / "north", generate(home / "data", scale=0.06))
        hospital.sign(limit=ROOMY, period={"days": 365, **ROOMY}, purposes={"training": ROOMY["epsilon"]})
        here = [sys.executable, "-W", "ignore", "-m", "simulations.bench.site"]
        commands = {
            f"{system}|{what}": [*here, system, what, str(hospital.path)]
            for what in ("a round", "asked too much")
            for system in (_FRESH, _FORK)
        }
        for command in commands.values():  # fills the caches of images and byte code
            interleaved({"": command}, 1, os.environ)
        runs = interleaved(commands, chosen.repeats, os.environ | {"OMP_NUM_THREADS": "1"})
    found: list[Row] = []
    for name, measured in runs.items():
        system, _, what = name.partition("|")
        spent = [one.output["cpu_s"] for one in measured]
        found.append(
            {"system": system, "what": what, "cpu_s": sorted(spent)[len(spent) // 2], "least": min(spent)}
        )
    publish("CPU-seconds of one answer at a site", found, chosen.json)
    return 0


def _answer(site: str, what: str) -> None:
    """Answer one request as `client.node.task` does, without the network."""
    from flwr.app import Context, Message, RecordDict

    from client.app import app
    from mmmed.config import resolve
    from mmmed.federation.protocol import MODEL, Request
    from mmmed.models import build_model, frozen_digests, trainable_state
    from mmmed.wire import pack
    from simulations.grid import InProcessGrid
    from simulations.loopback.federation import TINY

    InProcessGrid("client.app:app", [{}])  # messages know their sender from the grid
    asked = ["privacy.target_epsilon=100"] if what == "asked too much" else ["privacy.target_epsilon=0.5"]
    config = resolve(None, [*TINY, *asked]).config
    model = build_model(config)
    tensors = {MODEL: pack(trainable_state(model), "float32")}
    request = Request(os.urandom(8).hex(), 1, config, frozen_digests(model, config), tensors)
    context = Context(1, 1, {"site-dir": site}, RecordDict(), {})
    reply = app(message=Message(request.to_record(), 1, "train"), context=context)
    if reply.has_error() != (what == "asked too much"):
        raise SystemExit(f"the site answered {reply.error.reason if reply.has_error() else 'the request'}")


def _in_fork(work: Callable[[], None]) -> float:
    """CPU-seconds of `work` in a fork of this process, once everything has been imported."""
    import client.node.runner  # noqa: F401

    gc.freeze()
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit("the fork failed")
    return usage.ru_utime + usage.ru_stime


def _fresh(work: Callable[[], None]) -> float:
    import client.node.runner  # noqa: F401

    work()
    spent = os.times()
    return spent.user + spent.system


if __name__ == "__main__":
    system, what, site = sys.argv[1:]
    measured = (_in_fork if system == _FORK else _fresh)(lambda: _answer(site, what))
    print(json.dumps({"cpu_s": round(measured, 2)}))
