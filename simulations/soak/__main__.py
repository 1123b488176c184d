"""``python -m simulations.soak``: runs one after the other while something breaks every few seconds.

A coordinator and hospitals in processes of their own, TLS and keys on. For so many minutes runs are started, and faults
injected at random; then what runs is let end, and the claims are checked against the sites' ledgers, the run folders
and what was seen from outside. The exit code is 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from mmmed.demo import generate
from simulations.loopback.federation import Federation
from simulations.soak.soak import Soak

_SITES = {"north": "harbour", "south": "northgate", "east": "old-mill"}  # those that have notes


def main(arguments: list[str]) -> int:
    """Soak, print, and write the result; returns the exit code."""
    options = argparse.ArgumentParser(
        prog="python -m simulations.soak", description=(__doc__ or "").splitlines()[0]
    )
    options.add_argument("--minutes", type=float, default=10.0, help="for so long (default: %(default)g)")
    options.add_argument("--rounds", type=int, default=50, help="at least so many (default: %(default)s)")
    options.add_argument("--faults", type=int, default=100, help="at least so many (default: %(default)s)")
    options.add_argument("--sites", type=int, default=3, choices=(2, 3), help="hospitals (default: 3)")
    options.add_argument("--seed", type=int, help="of the choice of faults (default: a new one)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    chosen = options.parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # end what was started
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mmmed-soak-", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        hospitals = generate(home / "data", scale=0.06)
        patients = dict(list(_SITES.items())[: chosen.sites])
        federation = Federation(home, hospitals, patients)
        try:
            federation.start()
            seconds = chosen.minutes * 60
            soak = Soak(federation, random.Random(seed), seconds, chosen.rounds, chosen.faults)
            soak.run()
            result = {"seed": seed, "minutes": chosen.minutes} | soak.result()
        finally:
            federation.end()
    text = json.dumps(result, indent=2) + "\n"
    if chosen.json is not None:
        chosen.json.write_text(text, encoding="utf-8")
    print(text, end="")
    broken = [claim for claim, holds in result["claims"].items() if not holds]
    print("all claims hold" if not broken else f"BROKEN: {'; '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    started = time.monotonic()
    code = main(sys.argv[1:])
    print(f"{time.monotonic() - started:.0f} s in all", file=sys.stderr)
    sys.exit(code)
