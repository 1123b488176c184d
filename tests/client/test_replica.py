"""One replica of the model serves all sites of a process, and nothing of one site reaches another by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from client.model import _built, reused_model
from client.simulated import open_simulated, simulated_manifest
from client.site import Site
from client.training import evaluate_round, train_round
from mmmed.config import RunConfig
from mmmed.models import build_model, trainable_state
from simulations.bench.virtual_sites import virtual_run

MORE = {"model.fusion.dropout": 0.3, "training.optimizer": "adam", "training.local_epochs": 3.0}
Answer = dict[str, torch.Tensor]


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return virtual_run(tmp_path, 3, 0.01, 1, **MORE)


def sites_of(run: RunConfig, state: Path) -> list[Site]:
    manifest = simulated_manifest(run)
    return [open_simulated(manifest.of_site(name), run, state / name) for name in manifest.sites]


def answer(site: Site, run: RunConfig) -> Answer:
    start = {name: value.clone() for name, value in trainable_state(build_model(run)).items()}
    return dict(train_round(site, run, "r", 1, start)[0])


def equal(one: Answer, other: Answer) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_sites_answer_as_in_processes_of_their_own(run: RunConfig, tmp_path: Path) -> None:
    sites = sites_of(run, tmp_path / "state")
    alone = []
    for number, site in enumerate(sites):
        _built.cache_clear()  # all that a process keeps of a model
        torch.manual_seed(number)  # whatever it drew before
        alone.append(answer(site, run))
    assert not equal(alone[0], alone[1])
    for order in (sites, sites[::-1]):
        together = {}
        for site in order:
            together[site.name] = answer(site, run)
            evaluate_round(site, run, together[site.name])
        assert all(equal(together[site.name], one) for site, one in zip(sites, alone, strict=True))


def test_a_site_leaves_the_random_state_as_it_was(run: RunConfig, tmp_path: Path) -> None:
    site = sites_of(run, tmp_path / "state")[0]
    answer(site, run)
    before = torch.get_rng_state()
    answer(site, run)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("trainable", ["full", "norm-bias"])
def test_nothing_is_left_in_the_replica(tmp_path: Path, trainable: str) -> None:
    run = virtual_run(tmp_path, 2, 0.01, 1, **{"model.trainable": trainable})
    built, replica = build_model(run), reused_model(run)
    with torch.no_grad():
        for value in (*replica.parameters(), *replica.buffers()):
            value.add_(1)
    for parameter in replica.parameters():
        parameter.requires_grad_(True).grad = torch.ones_like(parameter)
    replica.eval()
    again = reused_model(run)
    assert again is replica
    assert [m.training for m in again.modules()] == [m.training for m in built.modules()]
    for one, other in zip(again.parameters(), built.parameters(), strict=True):
        assert one.grad is None and one.requires_grad == other.requires_grad
        assert one.requires_grad or torch.equal(one, other)
    for buffer, other in zip(again.buffers(), built.buffers(), strict=True):
        assert torch.equal(buffer, other)
