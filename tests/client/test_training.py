from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import client.training
from client.site import Site
from client.training import Parameters, evaluate_round, load_parameters, local_steps, train_round
from mmmed.config import RunConfig
from mmmed.errors import ConfigError
from mmmed.models import build_model, trainable_state
from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import BudgetExceeded, PlanError, PrivacyError
from privacy.planning import plan_training, schedule, size_class

Configured = Callable[..., RunConfig]


def initial(config: RunConfig) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainable_state(build_model(config)).items()}


def training_loss(site: Site, config: RunConfig, parameters: dict[str, torch.Tensor]) -> float:
    own = replace(site, data=replace(site.data, test=site.data.train))
    return evaluate_round(own, config, parameters)["loss"]


def charged(site: Site, run_id: str = "r") -> tuple[DpSgdEvent, ...]:
    with site.ledger() as ledger:
        return ledger.events(run_id=run_id) if ledger.find_plan(run_id) else ()


def test_epsilon_composes_over_rounds_and_ends_within_the_target(site: Site, configured: Configured) -> None:
    config = configured()
    parameters, spent = initial(config), []
    for server_round in range(1, config.federation.rounds + 1):
        parameters, spending = train_round(site, config, "r", server_round, parameters)
        assert spending is not None
        spent.append(spending)
        steps = sum(s.steps for s in spent)
        assert sum(event.steps for event in charged(site)) == steps
        expected = epsilon(
            [DpSgdEvent(spending.noise_multiplier, spending.sampling_rate, steps)], spending.delta
        )
        assert spending.epsilon == pytest.approx(expected, rel=0.01)
        assert spending.epsilon >= expected * 0.9999
    epsilons = [s.epsilon for s in spent]
    assert epsilons == sorted(epsilons) and epsilons[0] < epsilons[-1]
    assert epsilons[-1] <= config.privacy.target_epsilon
    assert epsilons[-1] > 0.95 * config.privacy.target_epsilon  # the budget is used, not wasted


def test_a_round_in_bfloat16_is_charged_alike_and_releases_float32(
    site: Site, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(training={"precision": "bfloat16"})
    kinds, forward = set(), torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        out = forward(self, x)
        kinds.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    parameters, spending = train_round(site, config, "r", 1, initial(config))
    assert torch.bfloat16 in kinds
    assert all(value.dtype == torch.float32 for value in parameters.values())
    assert spending is not None and sum(event.steps for event in charged(site)) == spending.steps


def test_the_noise_is_there_and_never_repeats(site: Site, configured: Configured, tmp_path: Path) -> None:
    config = configured()
    start = initial(config)

    def update(state: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        (tmp_path / state).mkdir()
        return train_round(replace(site, state=tmp_path / state), config, "r", 1, start)[0]

    one, two = update("a"), update("b")
    for name in one:
        assert not torch.equal(one[name], start[name])
        assert not torch.equal(one[name], two[name]), f"{name} carries no fresh noise"


def test_an_answer_given_is_given_again_and_costs_nothing(site: Site, configured: Configured) -> None:
    config = configured()
    start = initial(config)
    first, spending = train_round(site, config, "r", 1, start)
    first = {name: value.clone() for name, value in first.items()}
    before = charged(site)
    again, same = train_round(site, config, "r", 1, start)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert same == spending
    assert charged(site) == before
    moved = {name: value + 1e-3 for name, value in start.items()}
    train_round(site, config, "r", 1, moved)  # other parameters are another question
    assert sum(e.steps for e in charged(site)) > sum(e.steps for e in before)


def test_a_plan_is_never_overrun(site: Site, configured: Configured) -> None:
    config = configured()
    start = initial(config)
    for server_round in range(1, config.federation.rounds + 1):
        train_round(site, config, "r", server_round, start)
    with pytest.raises(BudgetExceeded):
        train_round(site, config, "r", config.federation.rounds + 1, start)


@pytest.mark.parametrize(
    "change",
    [
        {"privacy": {"target_epsilon": 4.0, "delta": 1e-3}},
        {"privacy": {"delta": 1e-4}},
        {"privacy": {"max_grad_norm": 2.0}},
        {"federation": {"rounds": 2}},
        {"training": {"batch_size": 4, "augment": False}},
    ],
)
def test_a_run_cannot_change_its_mechanism_on_the_way(
    site: Site, configured: Configured, change: dict[str, Any]
) -> None:
    config = configured()
    train_round(site, config, "r", 1, initial(config))
    before = charged(site)
    with pytest.raises(PrivacyError):
        train_round(site, configured(**change), "r", 2, initial(config))
    assert charged(site) == before


def test_an_interrupted_round_is_charged_for_the_steps_it_took(
    site: Site, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(training={"batch_size": 2, "local_epochs": 1.0})
    written = client.training.Progress.write

    def interrupt(progress: client.training.Progress, state: Any) -> None:
        written(progress, state)
        if progress.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(client.training.Progress, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_round(site, config, "r", 1, initial(config))
    assert sum(event.steps for event in charged(site)) == 3


@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("resnet18", "bookkeeping"),
        ("resnet18", "hooks"),
        ("densenet121", "bookkeeping"),
        pytest.param("densenet121", "hooks", marks=pytest.mark.slow),
        ("efficientnet-b0", "bookkeeping"),
        pytest.param("efficientnet-b0", "hooks", marks=pytest.mark.slow),
    ],
)
def test_every_image_encoder_trains_privately(
    site: Site, configured: Configured, image: str, engine: str
) -> None:
    config = configured(
        model={"image": image},
        privacy={"engine": engine},
        training={"batch_size": 2, "local_epochs": 0.05},
        federation={"rounds": 1},
    )
    start = initial(config)
    end, spending = train_round(site, config, "r", 1, start)
    assert spending is not None and spending.steps == 1
    assert all(
        torch.isfinite(value).all() and not torch.equal(value, start[name]) for name, value in end.items()
    )


def test_without_privacy_a_round_repeats_and_learns(site: Site, configured: Configured) -> None:
    config = configured(privacy={"enabled": False}, training={"local_epochs": 10.0})
    start = initial(config)
    one, spending = train_round(site, config, "a", 1, start)
    two, _ = train_round(site, config, "b", 1, start)
    assert spending is None
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert training_loss(site, config, one) < 0.9 * training_loss(site, config, start)
    assert not charged(site, "a")


def test_the_proximal_pull_keeps_the_update_small(site: Site, configured: Configured) -> None:
    def distance(mu: float) -> float:
        config = configured(privacy={"enabled": False}, training={"proximal_mu": mu, "local_epochs": 3.0})
        start = initial(config)
        end, _ = train_round(site, config, f"mu{mu}", 1, start)
        return sum(float((end[name] - start[name]).square().sum()) for name in end)

    assert distance(100.0) < 0.7 * distance(0.0)


def test_every_step_is_corrected_by_the_drift(site: Site, configured: Configured) -> None:
    rate = 1e-6  # so small that the gradients do not change on the way
    sgd = {"optimizer": "sgd", "learning_rate": rate, "local_epochs": 3.0}
    config = configured(privacy={"enabled": False}, training=sgd)
    start = {name: torch.zeros_like(value) for name, value in initial(config).items()}
    drift = {name: torch.randn(value.shape) for name, value in start.items()}

    def correct(parameters: Parameters) -> None:
        for name, value in parameters.items():
            value.sub_(rate * drift[name].to(value.device))

    plain, _ = train_round(site, config, "plain", 1, start)
    corrected, _ = train_round(site, config, "corrected", 1, start, correct)
    steps = local_steps(site, config, None)
    for name, value in drift.items():
        assert torch.allclose(corrected[name] - plain[name], -rate * steps * value, atol=rate / 100)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan"])
def test_parameters_that_are_not_the_models_are_refused_before_anything_is_charged(
    site: Site, configured: Configured, fault: str
) -> None:
    config = configured()
    parameters = initial(config)
    name = next(iter(parameters))
    if fault == "missing":
        del parameters[name]
    elif fault == "extra":
        parameters["more"] = torch.zeros(1)
    elif fault == "shape":
        parameters[name] = parameters[name][None]
    else:
        parameters[name] = torch.full_like(parameters[name], float("nan"))
    with pytest.raises(ConfigError):
        train_round(site, config, "r", 1, parameters)
    assert not charged(site)
    with pytest.raises(ConfigError):
        load_parameters(build_model(config), parameters)


@pytest.mark.parametrize(("patients", "shown"), [(1, 1), (2, 2), (3, 2), (255, 128), (256, 256)])
def test_a_site_shows_only_the_power_of_two_of_its_size(patients: int, shown: int) -> None:
    assert size_class(patients) == shown


def test_sites_of_one_size_class_cannot_be_told_apart_by_their_mechanism() -> None:
    ask: dict[str, Any] = {
        "batch_size": 16,
        "local_epochs": 2,
        "rounds": 3,
        "target_epsilon": 4,
        "delta": 1e-3,
    }
    assert plan_training(patients=64, **ask) == plan_training(patients=127, **ask)


def test_a_plan_that_cannot_be_private_is_refused() -> None:
    ask: dict[str, Any] = {
        "patients": 50,
        "batch_size": 8,
        "local_epochs": 1,
        "rounds": 3,
        "target_epsilon": 4,
    }
    with pytest.raises(PlanError, match="1 / patients"):
        plan_training(**ask, delta=0.02)
    with pytest.raises(PlanError, match="batch_size"):
        schedule(patients=7, batch_size=8, local_epochs=1)
    with pytest.raises(PlanError, match="no patient"):
        size_class(0)
    assert schedule(patients=9, batch_size=9, local_epochs=1) == (1.0, 1)
