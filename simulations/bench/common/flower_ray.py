"""The task as Flower's Opacus example does it, on Flower's simulation engine: a new PrivacyEngine a message.

Done well otherwise: each actor generates a client's data once, has one thread, and no evaluation is asked for.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simulations.bench.common import task


@lru_cache(maxsize=task.CLIENTS)
def _data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    return task.client_data(client)


def train(message: Message, context: Context) -> Message:
    """Train a round."""
    torch.set_num_threads(1)
    net = task.build_net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    engine = PrivacyEngine(accountant="rdp")  # prints 2.511; Opacus' default, PRV, would print 1.924
    private, optimizer, loader = engine.make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), task.LEARNING_RATE),
        data_loader=DataLoader(
            TensorDataset(*_data(int(context.node_config["partition-id"]))), batch_size=task.BATCH
        ),
        noise_multiplier=task.NOISE_MULTIPLIER,
        max_grad_norm=task.MAX_GRAD_NORM,
    )
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(private(images), labels).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": task.IMAGES, "epsilon": engine.get_epsilon(task.DELTA)})
    return Message(
        RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message
    )


def run() -> dict[str, float]:
    """All rounds."""
    found: dict[str, float] = {}
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(train)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=task.CLIENTS, min_available_nodes=task.CLIENTS
        )
        result = strategy.start(grid, ArrayRecord(task.build_net().state_dict()), task.ROUNDS)
        epsilon = result.train_metrics_clientapp[task.ROUNDS]["epsilon"]
        found["epsilon"] = round(float(epsilon), 3)  # type: ignore[arg-type]
        found["loss"] = task.mean_loss(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app,
        client_app,
        task.CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    from simulations.bench.common import flower_ray  # by its name, as Ray's actors import it

    print(json.dumps(flower_ray.run()))
