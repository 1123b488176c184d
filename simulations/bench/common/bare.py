"""The least that does the task: one process, one net and one PrivacyEngine a client, no messages."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simulations.bench.common import task

State = dict[str, torch.Tensor]


def client(number: int) -> tuple[Callable[[State], State], PrivacyEngine]:
    """A function that trains a round, and the engine that remembers all of them."""
    engine = PrivacyEngine()
    net = task.build_net()
    net, optimizer, loader = engine.make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), task.LEARNING_RATE),
        data_loader=DataLoader(TensorDataset(*task.client_data(number)), batch_size=task.BATCH),
        noise_multiplier=task.NOISE_MULTIPLIER,
        max_grad_norm=task.MAX_GRAD_NORM,
    )

    def train(state: State) -> State:
        net._module.load_state_dict(state)
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        return {key: value.clone() for key, value in net._module.state_dict().items()}

    return train, engine


def run() -> dict[str, float]:
    """Federated averaging as a loop."""
    clients = [client(number) for number in range(task.CLIENTS)]
    state = task.build_net().state_dict()
    for _ in range(task.ROUNDS):
        states = [train(state) for train, _ in clients]
        state = {key: torch.stack([each[key] for each in states]).mean(0) for key in state}
    epsilons = [engine.get_epsilon(task.DELTA) for _, engine in clients]
    return {"epsilon": round(max(epsilons), 3), "loss": task.mean_loss(state)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run()))
