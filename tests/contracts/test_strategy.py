"""What holds for every strategy and aggregation rule, and for ones that a test adds through the registry alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from client.simulated import simulated_manifest
from mmmed.config import RunConfig, from_flat, to_flat
from mmmed.errors import ConfigError
from mmmed.federation.aggregation import AGGREGATIONS, Aggregation
from mmmed.federation.strategies import STRATEGIES, Strategy
from mmmed.federation.strategies.base import Combined
from mmmed.federation.updates import Arrays
from mmmed.models import build_model, load_model, trainable_state
from server.events import Event, RoundFinished, ignore
from server.loop import Rounds
from server.run import federate
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from tests import standin
from tests.client.conftest import configured  # noqa: F401 (a fixture)
from tests.contracts.steered import Steered

Configured = Callable[..., RunConfig]
EVERY = pytest.mark.parametrize("kind", [*STRATEGIES.sections, "steered"])
RATE = 1e-7  # so small that gradients and noise move nothing: what remains is the strategy's


class Nameless(Strategy):
    """A section without code."""

    kind: Literal["nameless"] = "nameless"


class First(Aggregation):
    """A rule that takes the first update."""

    implementation: ClassVar[str] = "tests.contracts.test_strategy:first"

    kind: Literal["first"] = "first"


def first(updates: Any) -> Arrays:
    return {key: updates[0].tensor(key) for key in updates[0].keys}


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for section in (Steered, Nameless):
        monkeypatch.setitem(STRATEGIES.sections, section.model_fields["kind"].default, section)
    monkeypatch.setitem(AGGREGATIONS.sections, "first", First)
    yield


def of(kind: str, **training: object) -> RunConfig:
    flat = {
        f"training.{key}": value for key, value in {"optimizer": "sgd", "momentum": 0.0, **training}.items()
    }
    return from_flat(flat | {"federation.strategy.kind": kind})


class Alone:
    """An update in memory."""

    norm, weight, keys, metrics = 1.0, 1.0, ("a",), {"local-steps": 2.0, "pushes": 2.0}

    def tensor(self, key: str) -> np.ndarray:
        return np.full((2,), 0.5, np.float32)

    def tensors(self, keys: Sequence[str]) -> list[np.ndarray]:
        return [self.tensor(key) for key in keys]

    def scaled(self, factor: float) -> Alone:
        return self


@pytest.fixture(scope="module")
def server_identity() -> None:
    """Flower's messages know their sender from the grid."""
    InProcessGrid("tests.standin:app", [{}]).close()


@EVERY
@pytest.mark.usefixtures("server_identity")
def test_what_it_remembers_goes_on_in_another_process(kind: str) -> None:
    config, model = of(kind), {"a": np.array([1.0, -2.0], np.float32)}
    assert from_flat(to_flat(config)) == config

    def step(server: Any, number: int, now: Arrays) -> Arrays:
        return server.step(Combined(number, now, {"a": Alone().tensor("a")}, [Alone()], 1))  # type: ignore[no-any-return]

    section = config.federation.strategy
    one, other = section.at_server(config, model), section.at_server(config, model)
    after = step(one, 1, model)
    assert list(after) == ["a"] and after["a"].dtype == np.float32 and (after["a"] != model["a"]).any()
    other.restore({name: dict(arrays) for name, arrays in one.state().items()})
    assert np.array_equal(step(one, 2, after)["a"], step(other, 2, after)["a"])
    assert one.extras().keys() == set(section.halves().site.wants)
    for name, extra in one.extras().items():
        assert np.array_equal(extra["a"], other.extras()[name]["a"])


def test_a_strategy_that_is_registered_runs_and_goes_on_after_its_server_died(
    configured: Configured,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Private, on the real sites; its extra tensor, its correction, its reply and its state are all at work."""
    config = configured(
        federation={"strategy": {"kind": "steered", "push": 0.25}, "rounds": 2},
        training={"optimizer": "sgd", "learning_rate": RATE},
    )
    sites = len(simulated_manifest(config).sites)
    nodes = [
        {"partition-id": i, "num-partitions": sites, "state-dir": str(tmp_path / f"state-{i}")}
        for i in range(2)
    ]

    def die(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            raise KeyboardInterrupt

    for watch in (die, ignore):
        with (
            RunFolder.create_or_open(tmp_path / "run", config) as folder,
            InProcessGrid("client.app:app", nodes, workers=0) as grid,
        ):
            try:
                federate(grid, folder, build_model(config), watch)
            except KeyboardInterrupt:
                continue
            rounds = folder.rounds()
    steps = [[line["metrics"]["pushes"] for line in record["train"]] for record in rounds]
    assert [len(each) for each in steps] == [2, 2] and min(map(min, steps)) >= 1
    start, end = (
        trainable_state(build_model(config)),
        trainable_state(load_model(tmp_path / "run" / "model")[0]),
    )
    moved = 0.25 * (1 * np.mean(steps[0]) + 2 * np.mean(steps[1]))
    for name, value in end.items():
        np.testing.assert_allclose((value - start[name]).numpy(), moved, rtol=1e-3)


def test_a_strategy_without_code_is_no_fedavg(configured: Configured, tmp_path: Path) -> None:  # noqa: F811
    config = configured(federation={"strategy": {"kind": "nameless"}, "min_sites": 1})
    with (
        RunFolder.create_or_open(tmp_path / "run", config) as folder,
        InProcessGrid("tests.standin:app", [{}]) as grid,
        pytest.raises(ConfigError, match="'nameless' names no code"),
    ):
        Rounds(grid, folder, ignore).run(standin.initial())


def test_a_rule_that_is_registered_combines_the_updates(tmp_path: Path) -> None:
    config = from_flat({"federation.aggregation.kind": "first", "federation.rounds": 1})
    with (
        RunFolder.create_or_open(tmp_path / "run", config) as folder,
        InProcessGrid("tests.standin:app", [{}, {}]) as grid,
    ):
        final = Rounds(grid, folder, ignore).run(standin.initial())
    expected = standin.averaged(standin.initial(), 1, [0])
    for key in expected:
        np.testing.assert_allclose(final[key], expected[key], rtol=1e-6)


def test_the_registries_import_nothing_heavy() -> None:
    code = (
        "import sys, mmmed.federation.strategies, mmmed.federation.aggregation\n"
        "assert not {'torch', 'flwr', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
