"""The task with mmmed's parts: the server's rounds and run folder, the in-process grid, the private step."""

from __future__ import annotations

import json
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from mmmed.config import from_flat
from mmmed.wire import pack, unpack
from privacy.accounting import DpSgdEvent, epsilon
from privacy.dpsgd import PrivateStep
from privacy.noise import PrivateRandom
from privacy.sampling import PoissonSampler
from server.checkpoint import load_checkpoint
from server.events import ignore
from server.loop import Rounds
from server.run_folder import RunFolder
from simulations.bench.common import task
from simulations.grid import InProcessGrid

app = ClientApp()


class _Site:
    """A client's data, net and private step, kept from round to round."""

    def __init__(self, number: int, engine: str) -> None:
        self.images, self.labels = task.client_data(number)
        self.net = task.build_net()
        self.step = PrivateStep(
            self.net,
            torch.optim.SGD(self.net.parameters(), task.LEARNING_RATE),
            noise_multiplier=task.NOISE_MULTIPLIER,
            max_grad_norm=task.MAX_GRAD_NORM,
            expected_units=task.SAMPLING_RATE * task.IMAGES,
            engine=engine,  # type: ignore[arg-type]
        )

    def train(self) -> None:
        """Seven steps on Poisson batches."""
        for drawn in PoissonSampler(task.IMAGES, task.SAMPLING_RATE, task.STEPS, PrivateRandom()):
            units = torch.from_numpy(drawn)
            images, labels = self.images[units], self.labels[units]

            def losses(images: torch.Tensor = images, labels: torch.Tensor = labels) -> torch.Tensor:
                return nn.functional.cross_entropy(self.net(images), labels, reduction="none")

            self.step(losses, units)


_site = lru_cache(maxsize=task.CLIENTS)(_Site)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round; release epsilon of all rounds so far."""
    partition = int(context.node_config["partition-id"])
    site = _site(partition, str(context.node_config["engine"]))
    before_round = unpack(message.content.array_records["arrays"]["model"].data)
    site.net.load_state_dict(before_round)
    site.train()
    before = context.state.metric_records["spent"]["steps"] if "spent" in context.state else 0
    steps = int(before) + task.STEPS  # type: ignore[arg-type]
    context.state["spent"] = MetricRecord({"steps": steps})
    spent = epsilon([DpSgdEvent(task.NOISE_MULTIPLIER, task.SAMPLING_RATE, steps)], task.DELTA)
    update = pack({n: v - before_round[n] for n, v in site.net.state_dict().items()}, "float32")
    content = RecordDict(
        {
            "arrays": ArrayRecord({"update": Array("uint8", (len(update),), "safetensors", update)}),
            "metrics": MetricRecord({"weight": 1.0}),
            "site": ConfigRecord({"name": f"client {partition}", "epsilon": spent}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer an evaluation request without results."""
    site = ConfigRecord({"name": f"client {context.node_config['partition-id']}"})
    return Message(RecordDict({"metrics": MetricRecord({"weight": 1.0}), "site": site}), reply_to=message)


def run(engine: str) -> dict[str, float]:
    """All rounds, in a temporary run folder."""
    initial = {key: value.numpy() for key, value in task.build_net().state_dict().items()}
    nodes: list[dict[str, str]] = [{"engine": engine} for _ in range(task.CLIENTS)]
    config = from_flat({"federation.rounds": task.ROUNDS, "federation.min_sites": task.CLIENTS})
    with (
        tempfile.TemporaryDirectory() as temporary,
        RunFolder.create(Path(temporary), config) as folder,
        InProcessGrid("simulations.bench.common.ours:app", nodes) as grid,
    ):
        Rounds(grid, folder, ignore).run(initial)
        record = folder.rounds()[-1]
        checkpoint = load_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    state = {key: torch.from_numpy(value) for key, value in checkpoint.model.items()}
    spent = max(line["released"]["epsilon"] for line in record["train"])
    return {"epsilon": round(spent, 3), "loss": task.mean_loss(state)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(sys.argv[1])))
