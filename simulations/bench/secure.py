"""What masked sums cost: CPU and bytes of a step over the private step itself, and, over a SuperLink, its time.

In process every site of the cohort rounds a vector, adds its share of the noise, masks and keeps its words, and the
server adds them up: what `privacy.secure_sum` does beside the draw, the keys made before. Accounts are in memory: a
ledger's charge is that of any private step.

With --loopback a coordinator and four hospitals, each in processes of its own with TLS and keys, take so many steps of
a tiny model; seconds a step are those between the ends of the first and of the last.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmmed.demo import generate
from privacy.secure_sum import Coordinator, Site, Terms
from simulations.bench.measure import Row, parser, publish
from simulations.loopback.federation import Federation
from simulations.loopback.processes import mmmed

_MODEL = hashlib.sha256(b"a model").digest()


class _Memory:
    """An account that remembers the last attempt."""

    def __init__(self) -> None:
        self._last = 0

    def last(self) -> int:
        return self._last

    def charge(self, attempt: int) -> None:
        self._last = attempt


def in_process(sites: int, dimension: int, steps: int, folder: Path) -> Row:
    """CPU-seconds and bytes of a step, of all sites and the server together.

    Args:
        sites: K, all of them in every step.
        dimension: d, coordinates of the vector.
        steps: that are measured; the median is told.
        folder: for the sites' files.
    """
    identities = {f"site-{n:03d}": Ed25519PrivateKey.generate() for n in range(sites)}
    terms = Terms.planned(
        "bench",
        {name: key.public_key().public_bytes_raw().hex() for name, key in identities.items()},
        {"weight": (dimension,)},
        clip=1.0,
        noise_multiplier=2.0,
        sampling_rate=0.5,
        steps=steps,
        repeats=0,
        honest=max(1, sites - 1),
        least_cohort=sites,
    )
    members = {name: Site(folder / name, name, key, terms, _Memory()) for name, key in identities.items()}
    keys = [member.introduce() for member in members.values()]
    for member in members.values():
        member.meet(keys)
    server, vector = Coordinator(terms, keys), np.zeros(dimension)
    spent = []
    for step in range(1, steps + 1):
        started = time.process_time()
        request = server.ask(step, server.names, _MODEL)
        for name, member in members.items():
            server.add(name, member.answer(request, lambda: vector))
        server.total()
        spent.append(time.process_time() - started)
    return {
        "where": "in process",
        "sites": sites,
        "coordinates": dimension,
        "CPU-s a step": round(statistics.median(spent), 4),
        "s a step": None,
        "bytes up a site": dimension * terms.lattice.word.itemsize,
    }


def loopback(steps: int, home: Path) -> list[Row]:
    """Seconds a step of four hospitals over a SuperLink on this machine, with masked sums and with plain ones."""
    hospitals = generate(home / "data", scale=0.06)
    places = {"north": "harbour", "south": "northgate", "east": "meadow", "west": "old-mill"}
    federation = Federation(home, hospitals, places)
    federation.start()
    try:
        peers = {
            "honest": len(places),
            "colluders": 0,
            "least_cohort": 2,
            "repeats": 100,
            "keys": _keys(federation),
        }
        for site in federation.sites:
            site.folder.sign(by_two=True, peers=peers, run__min_patients=1, run__trainable=["fusion-head"])
        return [_stepped(federation, release, steps) for release in ("steps", "secure-steps")]
    finally:
        federation.end()


def _keys(federation: Federation) -> dict[str, str]:
    lines = (mmmed("privacy", "policy", "peer", site.path, cwd=site.path)[1] for site in federation.sites)
    return {name: json.loads(key) for name, key in (line.strip().split(" = ") for line in lines)}


def _stepped(federation: Federation, release: str, steps: int) -> Row:
    run = federation.begin(
        f"federation.release={release}",
        f"federation.rounds={steps}",
        "federation.min_sites=4",
        "federation.honest=3",
        "model.trainable=fusion-head",
        "training.optimizer=sgd",
        "training.local_epochs=4",
        "privacy.delta=1e-4",
    ).wait(patience=60.0 * steps)
    ends = [datetime.fromisoformat(record["finished"]) for record in run.rounds()]
    up = {line["bytes_up"] for line in run.rounds()[-1]["train"]}
    return {
        "where": f"SuperLink, {release}",
        "sites": len(federation.sites),
        "coordinates": max(up) // (8 if release == "secure-steps" else 4),
        "CPU-s a step": None,
        "s a step": round((ends[-1] - ends[0]).total_seconds() / (len(ends) - 1), 2),
        "bytes up a site": max(up),
    }


def main(argv: Sequence[str]) -> int:
    """Measure, print a table and, if asked, write the rows as JSON."""
    options = parser("secure", (__doc__ or "").splitlines()[0], repeats=None)
    options.add_argument("--sites", type=int, nargs="+", default=[4, 16], help="sites of the cohort")
    options.add_argument(
        "--coordinates", type=int, nargs="+", default=[1665, 40_000, 1_000_000], help="length of the vector"
    )
    options.add_argument("--steps", type=int, default=9, help="steps of each (default: %(default)s)")
    options.add_argument("--loopback", action="store_true", help="also four hospitals over a SuperLink")
    chosen = options.parse_args(argv)
    table = []
    for sites in chosen.sites:
        for dimension in chosen.coordinates:
            with tempfile.TemporaryDirectory() as folder:
                table.append(in_process(sites, dimension, chosen.steps, Path(folder)))
            publish("A step of masked sums", table, chosen.json)
    if chosen.loopback:
        with tempfile.TemporaryDirectory() as folder:
            table += loopback(chosen.steps, Path(folder))
        publish("A step of masked sums", table, chosen.json)
    return 0
