"""How far one hostile site moves a round's update under each aggregation rule: its direction and its length.

The updates go through the server's own screening and rules. They are made up: each honest site sends the same direction
plus a part of its own, which is small without privacy and most of the update with it, since the noise of each site is
its own. The hostile site knows all of them. Told is the cosine of the combined update with that of the honest sites
alone, and its norm over theirs: 1 and 1 where the attack did nothing, a cosine below 0 where it turned the model round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmmed.config import FederationConfig, from_flat
from mmmed.quiet import quieten
from server.replies import Answer
from server.update_store import ByRule, UpdateStore
from simulations.bench.measure import Row, parser, publish
from simulations.grid import InProcessGrid

Attack = Callable[[np.ndarray], np.ndarray]  # [sites, d] honest updates -> [d] the hostile one
OWN = {
    "no": 0.5,
    "yes": 5.0,
}  # length of a site's own part over that of the common one: without and with privacy
RULES: Mapping[str, Mapping[str, object]] = {
    "mean, no bound": {"max_update_norm": 1e12},
    "mean (default)": {},
    "median": {"aggregation.kind": "median"},
    "trimmed-mean, f = 1": {"aggregation.kind": "trimmed-mean", "aggregation.hostile_sites": 1},
    "multi-krum, f = 1": {"aggregation.kind": "multi-krum", "aggregation.hostile_sites": 1},
}


def _length(values: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(values, axis=1)))


ATTACKS: Mapping[str, Attack] = {
    "none: a fifth honest site": lambda honest: honest[-1],
    "its own update, 90 times": lambda honest: 90 * honest[-1],
    "the honest mean reversed, 90 times": lambda honest: -90 * honest.mean(0),
    "the honest mean reversed, as long as others": lambda honest: (
        -honest.mean(0) / np.linalg.norm(honest.mean(0)) * _length(honest)
    ),
    "1000 times: refused as an outlier": lambda honest: 1000 * honest[-1],
    "a little: the mean less 1.5 deviations": lambda honest: honest.mean(0) - 1.5 * honest.std(0),
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("poison", (__doc__ or "").splitlines()[0], repeats=1)
    options.add_argument("--sites", type=int, default=5, help="all of them, the hostile one among them")
    options.add_argument("--parameters", type=int, default=20_000)
    chosen = options.parse_args(arguments)
    quieten()
    InProcessGrid("client.app:app", [{}]).close()  # Flower's messages know their sender from a grid
    rows: list[Row] = []
    for private, own in OWN.items():
        honest = _honest(chosen.sites, chosen.parameters, own)
        for attack, make in ATTACKS.items():
            row: Row = {"private": private, "one of the sites sends": attack}
            for rule, keys in RULES.items():
                flat = {f"federation.{key}": value for key, value in keys.items()}
                federation = from_flat({**flat, "federation.min_sites": chosen.sites}).federation
                cosine, norm = moved(
                    federation, honest[:-1], make(honest if "none" in attack else honest[:-1])
                )
                row[rule] = f"{cosine:.2f}, {norm:.2f}"
            rows.append(row)
    publish("poison", rows, chosen.json)
    return 0


def moved(federation: FederationConfig, honest: np.ndarray, hostile: np.ndarray) -> tuple[float, float]:
    """Cosine and relative norm of a round's update with one hostile site, against the mean of the honest ones alone."""
    combiner, like = ByRule(federation), {"layer": np.zeros(honest.shape[1], np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        store = UpdateStore(Path(folder), 1, like)
        for node, update in enumerate([*honest, hostile]):
            arrays = {"layer": np.asarray(update, np.float32)}
            store.add(Answer(node, 0.0, f"site-{node}", weight=1.0, arrays=arrays))
        kept, _ = combiner.choose(store.updates)
        found = combiner.combine(kept, len(honest) + 1)["layer"].astype(np.float64)
    expected = honest.mean(0)
    length = float(np.linalg.norm(found))
    return float(found @ expected) / (length * float(np.linalg.norm(expected)) or 1.0), length / float(
        np.linalg.norm(expected)
    )


def _honest(sites: int, parameters: int, own: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    common = rng.normal(size=parameters)
    return np.asarray(common + own * rng.normal(size=(sites, parameters)))
