"""What a round costs the server against the number of sites and the size of the model.

Every site's reply is ready when the server looks, and arrives one at a time: what is measured is the server alone, from
the bytes of the replies to the next model, in a process of its own for each row. mmmed checks, spools, averages and
writes a checkpoint; Flower's FedAvg checks nothing, keeps all replies in memory and averages them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from mmmed.config import from_flat
from mmmed.wire import pack
from server.events import ignore
from server.loop import Rounds
from server.run_folder import RunFolder
from simulations.bench import virtual_sites
from simulations.bench.measure import Row, interleaved, parser, publish
from simulations.grid import InProcessGrid

_TENSORS = 16
_NO_APP = "client.app:app"  # never called
_SYSTEMS = ("mmmed", "mmmed, int8", "Flower FedAvg")


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("scale", (__doc__ or "").splitlines()[0], repeats=1)
    options.add_argument(
        "--engine",
        choices=("none", "inprocess"),
        default="none",
        help="none: replies are ready, the server alone is measured; inprocess: whole runs, sites and all",
    )
    options.add_argument("--sites", type=int, nargs="+", default=[2, 8, 16, 64], metavar="N")
    options.add_argument(
        "--mb", type=float, nargs="+", default=[1, 10, 100, 1000], help="model size (1e6 bytes)"
    )
    options.add_argument("--rounds", type=int, default=3, help="of a whole run (default: %(default)s)")
    options.add_argument(
        "--most-gb", type=float, default=4.0, help="leave out what needs more (replies on disk or in memory)"
    )
    chosen = options.parse_args(arguments)
    if chosen.engine == "inprocess":
        title = "Whole runs of virtual sites in one process, imports and all; aims beside"
        publish(title, virtual_sites.rows(chosen.sites, chosen.mb, chosen.rounds), chosen.json)
        return 0
    if any(mb < 1 or mb % 1 for mb in chosen.mb):
        options.error("--mb: whole numbers, unless --engine is inprocess")
    found: list[Row] = []
    for mb in map(int, chosen.mb):
        for sites in chosen.sites:
            if sites * mb > 1000 * chosen.most_gb:
                print(f"{sites} sites of {mb} MB left out: over --most-gb {chosen.most_gb:g}")
                continue
            here = [sys.executable, "-W", "ignore", "-m", "simulations.bench.scale"]
            commands = {system: [*here, system, str(sites), str(mb)] for system in _SYSTEMS}
            runs = interleaved(commands, chosen.repeats, os.environ | {"OMP_NUM_THREADS": "1"})
            for system, measured in runs.items():
                best = min(measured, key=lambda one: one.cpu_s)
                out = best.output
                found.append(
                    {
                        "system": system, "sites": sites, "model_mb": mb,
                        "down_mb": out["down_mb"], "up_mb": out["up_mb"],
                        "cpu_s": round(out["cpu_s"], 2), "peak_mb": round(best.peak_mb - out["start_mb"], 1),
                    }
                )  # fmt: skip
    publish("One round at the server; peak memory above the imports", found, chosen.json)
    return 0


class _ReadyGrid(InProcessGrid):
    """Sites whose replies are ready, made one at a time as they are pulled."""

    def __init__(self, sites: int, update: bytes) -> None:
        super().__init__(_NO_APP, [{}] * sites)
        self._update = update
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            self._waiting[message.metadata.message_id] = message
        return list(self._waiting)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = next((i for i in message_ids if i in self._waiting), None)
        if wanted is None:
            return []
        request = self._waiting.pop(wanted)
        content = RecordDict(
            {
                "metrics": MetricRecord({"weight": 1.0}),
                "site": ConfigRecord({"name": f"site {request.metadata.dst_node_id}"}),
            }
        )
        if request.metadata.message_type == MessageType.TRAIN:
            data = bytes(bytearray(self._update))  # each reply its own memory, as from a network
            content["arrays"] = ArrayRecord({"update": Array("uint8", (len(data),), "safetensors", data)})
        return [Message(content, reply_to=request)]


def _model(mb: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    size = mb * 1_000_000 // 4 // _TENSORS
    return {f"layer{i}": random.standard_normal(size, dtype=np.float32) for i in range(_TENSORS)}


def _ours(sites: int, mb: int, wire: str) -> dict[str, float]:
    model = _model(mb)
    update = pack({key: torch.from_numpy(value) for key, value in model.items()}, wire)  # type: ignore[arg-type]
    config = from_flat({"federation.rounds": 1, "federation.wire": wire})
    with tempfile.TemporaryDirectory() as folder, RunFolder.create(Path(folder), config) as run:
        Rounds(_ReadyGrid(sites, update), run, ignore).run(model)
        (record,) = run.rounds()
    lines = [line for phase in ("train", "evaluate") for line in record[phase]]
    down, up = (sum(line[f"bytes_{way}"] for line in lines) for way in ("down", "up"))
    return {"down_mb": round(down / 1e6, 1), "up_mb": round(up / 1e6, 1)}


def _flower(sites: int, mb: int) -> dict[str, float]:
    model = _model(mb)
    InProcessGrid(_NO_APP, [{}] * sites)  # messages know their sender from the grid

    def replies() -> Iterator[Message]:
        for _ in range(sites):
            arrays = ArrayRecord({key: Array(value) for key, value in model.items()})
            content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
            yield Message(content, 0, MessageType.TRAIN)

    FedAvg().aggregate_train(1, replies())
    return {
        "down_mb": float(2 * sites * mb),
        "up_mb": float(sites * mb),
    }  # the model to train, and to evaluate


def _run(system: str, sites: int, mb: int) -> dict[str, float]:
    usage = os.times()
    start_mb = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    wire = "int8" if "int8" in system else "float32"
    found = _flower(sites, mb) if system == "Flower FedAvg" else _ours(sites, mb, wire)
    spent = os.times()
    return found | {"cpu_s": spent.user + spent.system - usage.user - usage.system, "start_mb": start_mb}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
