"""The server's rounds over real ClientApps that misbehave, die and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi

from mmmed.config import RunConfig, from_flat
from mmmed.errors import RunError
from server.checkpoint import Arrays
from server.events import Event, PhaseStarted, RoundFinished, SiteReplied, ignore
from server.loop import Rounds
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from tests import standin

APP = "tests.standin:app"
ROOT = Path(__file__).parents[2]


def config(**changes: object) -> RunConfig:
    """A run with changes to ``[federation]``; no update is bounded by the median unless asked, as oracles have it."""
    changes = {"max_update_norm": 0.0 if changes.get("release") else 1e9} | changes
    return from_flat({f"federation.{key.replace('__', '.')}": value for key, value in changes.items()})


def run(
    path: Path,
    sites: list[dict[str, object]],
    agreed: RunConfig,
    on_event: Callable[[Event], None] = ignore,
    workers: int = 0,
    initial: Arrays | None = None,
) -> tuple[Arrays, list[dict]]:
    own = [{"state-dir": str(path.parent / f"state-{i}")} | site for i, site in enumerate(sites)]
    with RunFolder.create_or_open(path, agreed) as folder, InProcessGrid(APP, own, workers=workers) as grid:
        final = Rounds(grid, folder, on_event).run(initial or standin.initial())
        return final, folder.rounds()


def same(found: Arrays, expected: Arrays, tolerance: float = 1e-6) -> None:
    assert list(found) == list(expected)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=tolerance, atol=tolerance)
        assert found[key].dtype == np.float32


def test_rounds_average_the_sites_and_are_on_record(tmp_path: Path) -> None:
    events: list[Event] = []
    final, rounds = run(tmp_path / "run", [{}, {}, {}], config(rounds=2), events.append)
    same(final, standin.averaged(standin.initial(), 2, [0, 1, 2]))
    assert [r["round"] for r in rounds] == [1, 2] and all(r["changed"] for r in rounds)
    first = rounds[0]["train"][1]
    assert first["site"] == "site-1" and first["metrics"] == {"step": 7.0}
    assert first["released"] == {"epsilon": 1.5, "steps": 7}
    assert set(rounds[1]["evaluate"][0]["metrics"]) == {"loss"}
    shown = [type(event) for event in events]
    assert shown == 2 * [PhaseStarted, *3 * [SiteReplied], PhaseStarted, *3 * [SiteReplied], RoundFinished]
    assert events[0] == PhaseStarted(1, 2, "train", 3)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_each_site_is_told_the_run_and_round(tmp_path: Path) -> None:
    run(tmp_path / "run", [{}, {}], config(rounds=2))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    calls = standin.calls(tmp_path / "state-1")
    assert [(c["phase"], c["round"]) for c in calls] == [
        ("train", 1),
        ("evaluate", 1),
        ("train", 2),
        ("evaluate", 2),
    ]
    assert {c["run"] for c in calls} == {environment["run_id"]}


CODES = {
    "raise": "failed", "refuse": "budget-exhausted", "gossip": "failed", "nothing": "failed",
    "nan": "not-finite", "infinite": "not-finite", "shape": "shape-differs", "broadcast": "shape-differs",
    "double": "dtype-differs", "huge": "too-large", "no-update": "bad-record", "garbage": "bad-payload",
    "pickled": "bad-payload", "extra-key": "keys-differ", "no-key": "keys-differ", "no-arrays": "bad-record",
    "no-metrics": "bad-record", "no-site": "bad-record", "heavy": "bad-weight", "weightless": "bad-weight",
    "nan-weight": "bad-weight", "markup-name": "bad-name", "number-name": "bad-name", "copycat": "name-taken",
    "text-epsilon": "bad-statement", "no-receipt": "bad-statement", "endless-noise": "bad-statement",
    "many-scores": "over-bounds", "many-stated": "over-bounds", "long-name": "over-bounds",
    "forged-name": "over-bounds", "long-text": "over-bounds", "large-update": "over-bounds",
}  # fmt: skip


def test_a_bad_reply_costs_only_itself_and_is_told_by_a_code(tmp_path: Path) -> None:
    sites = [{}, {}, *({"behaviour": behaviour} for behaviour in CODES)]
    final, (record,) = run(tmp_path / "run", sites, config(rounds=1))
    same(final, standin.averaged(standin.initial(), 1, [0, 1]))
    assert [line.get("refused") for line in record["train"]] == [None, None, *CODES.values()]
    assert record["changed"]
    assert "Doe" not in (tmp_path / "run" / "rounds.jsonl").read_text()


TABLES = {"large-table": "over-bounds", "large-count": "over-bounds", "other-table": "shape-differs"}


def test_what_is_logged_of_a_site_is_bounded(tmp_path: Path) -> None:
    sites = [{}, {}, *({"behaviour": one, "phase": "evaluate"} for one in TABLES)]
    sites += [
        {"behaviour": one, "phase": "evaluate"} for one in ("endless-noise", "many-scores", "long-text")
    ]
    _, (record,) = run(tmp_path / "run", sites, config(rounds=1))
    codes = [None, None, *TABLES.values(), "bad-statement", "over-bounds", "over-bounds"]
    assert [line.get("refused") for line in record["evaluate"]] == codes
    assert (tmp_path / "run" / "rounds.jsonl").stat().st_size < 20_000
    assert "pooled" not in record


@pytest.mark.parametrize("behaviour", ["raise", "no-metrics", "number-name"])
def test_a_bad_evaluation_costs_only_itself(tmp_path: Path, behaviour: str) -> None:
    final, (record,) = run(
        tmp_path / "run", [{}, {"behaviour": behaviour, "phase": "evaluate"}], config(rounds=1)
    )
    same(final, standin.averaged(standin.initial(), 1, [0, 1]))
    assert [line.get("refused") for line in record["evaluate"]] == [None, CODES[behaviour]]
    assert record["evaluate"][1]["site"] == "site-1"  # known from its training


def test_a_metric_that_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    _, (record,) = run(
        tmp_path / "run", [{}, {"behaviour": "nan-metric", "phase": "evaluate"}], config(rounds=1)
    )
    assert record["evaluate"][1]["metrics"] == {} and "refused" not in record["evaluate"][1]


def test_a_round_with_too_few_updates_changes_nothing(tmp_path: Path) -> None:
    sites: list[dict[str, object]] = [{}, {}, {"behaviour": "refuse", "from-round": 2}]
    final, rounds = run(tmp_path / "run", sites, config(rounds=3, min_sites=3))
    same(final, standin.averaged(standin.initial(), 1, [0, 1, 2]))
    assert [r["changed"] for r in rounds] == [True, False, False]
    assert [len(r["evaluate"]) for r in rounds] == [3, 0, 0]
    told = rounds[1]["train"][2]
    assert told.keys() == {"site", "seconds", "bytes_down", "bytes_up", "refused"}
    assert (told["site"], told["refused"], told["bytes_up"]) == ("site-2", "budget-exhausted", 0)


def test_too_few_sites_end_the_run_before_anybody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="min_sites is 2, but 1 sites"):
        run(tmp_path / "run", [{}], config())
    assert standin.calls(tmp_path / "state-0") == []


def test_a_site_that_never_replies_does_not_hang_the_round(tmp_path: Path) -> None:
    sites: list[dict[str, object]] = [{}, {}, {"behaviour": "hang"}]
    final, (record,) = run(tmp_path / "run", sites, config(rounds=1, round_timeout=45.0), workers=2)
    same(final, standin.averaged(standin.initial(), 1, [0, 1]))
    refused = {line["site"]: line.get("refused") for line in record["train"]}
    assert refused.pop("node-1003") in ("no-reply", "expired")
    assert refused == {"site-0": None, "site-1": None}


STRATEGIES = ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"]
FLOWER: dict[str, Callable[[float], FedAvgM]] = {
    "fedavg": lambda rate: FedAvgM(weighted_by_key="weight", server_learning_rate=rate),
    "fedavgm": lambda rate: FedAvgM(weighted_by_key="weight", server_learning_rate=rate, server_momentum=0.9),
    "fedadam": lambda rate: FedAdam(weighted_by_key="weight", eta=rate),
    "fedyogi": lambda rate: FedYogi(weighted_by_key="weight", eta=rate),
    "fedadagrad": lambda rate: FedAdagrad(weighted_by_key="weight", eta=rate),
}


def flowers_own(strategy: FedAvgM, rounds: int, partitions: int) -> Arrays:
    """Flower's strategy, fed all replies at once as Flower feeds it."""
    record = ArrayRecord({key: Array(value) for key, value in standin.initial().items()})
    with InProcessGrid(APP, [{}] * partitions) as grid:
        for number in range(1, rounds + 1):
            strategy.min_train_nodes = strategy.min_available_nodes = partitions
            requests = strategy.configure_train(number, record, ConfigRecord({"server-round": number}), grid)
            arrays = {key: array.numpy() for key, array in record.items()}
            replies = []
            for partition, request in enumerate(requests):
                new = standin.trained(arrays, partition)
                content = {"arrays": ArrayRecord({k: Array(v) for k, v in new.items()})}
                reply = RecordDict({**content, "metrics": MetricRecord({"weight": 1.0})})
                replies.append(Message(reply, reply_to=request))
            stepped, _ = strategy.aggregate_train(number, replies)
            assert stepped is not None
            record = ArrayRecord(
                {key: Array(np.asarray(array.numpy(), np.float32)) for key, array in stepped.items()}
            )
    return {key: array.numpy() for key, array in record.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_streamed_strategies_equal_flowers(tmp_path: Path, name: str) -> None:
    agreed = config(rounds=3, strategy__kind=name, strategy__server_learning_rate=0.3)
    final, _ = run(tmp_path / "run", [{}, {}, {}], agreed)
    same(final, flowers_own(FLOWER[name](0.3), 3, 3), 1e-5)


def killed_after(path: Path, agreed: RunConfig, where: str) -> None:
    """Run in another process that dies at ``where`` of round 2."""
    script = f"""
import os, signal
from pathlib import Path
from mmmed.config import resolve
from tests.server.test_loop import run
from server import loop
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
where = {where!r}
if where == "before-checkpoint":
    save = loop.save_checkpoint
    loop.save_checkpoint = lambda folder, c: die() if c.round == 2 else save(folder, c)
if where == "before-log":
    append = loop.RunFolder.append_round
    loop.RunFolder.append_round = lambda folder, r: die() if r["round"] == 2 else append(folder, r)
def watch(event):
    if where == "in-train" and type(event).__name__ == "SiteReplied" and event.round == 2: die()
    if where == "after-round" and type(event).__name__ == "RoundFinished" and event.round == 2: die()
run(Path({str(path)!r}), [dict(), dict()], resolve(Path({str(path.parent / "agreed.toml")!r})).config, watch)
"""
    from mmmed.config import to_toml

    (path.parent / "agreed.toml").write_text(to_toml(agreed))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("in-train", "fedavg"),
        ("before-checkpoint", "fedavgm"),
        ("before-log", "fedadam"),
        ("after-round", "fedyogi"),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one_and_asks_nobody_twice(
    tmp_path: Path, where: str, name: str
) -> None:
    agreed = config(
        rounds=4,
        strategy__kind=name,
        strategy__server_learning_rate=0.3,
        ema=0.5 if name == "fedadam" else 0.0,
    )
    killed_after(tmp_path / "run", agreed, where)
    final, rounds = run(tmp_path / "run", [{}, {}], agreed)
    (tmp_path / "other").mkdir()
    undisturbed, _ = run(tmp_path / "other" / "run", [{}, {}], agreed)
    same(final, undisturbed, 0)
    assert [r["round"] for r in rounds] == [1, 2, 3, 4]
    assert all(len(r["train"]) == len(r["evaluate"]) == 2 for r in rounds)
    for site in ("state-0", "state-1"):
        trained = [c["round"] for c in standin.calls(tmp_path / site) if c["phase"] == "train"]
        assert trained == [1, 2, 3, 4]
    assert list((tmp_path / "run" / "updates").iterdir()) == []


def test_the_average_over_rounds_is_what_is_saved(tmp_path: Path) -> None:
    ends = []
    for rounds in (1, 2, 3):
        (tmp_path / str(rounds)).mkdir()
        ends.append(run(tmp_path / str(rounds) / "run", [{}, {}], config(rounds=rounds))[0])
    (tmp_path / "average").mkdir()
    averaged, _ = run(tmp_path / "average" / "run", [{}, {}], config(rounds=3, ema=0.5))
    weights = (0.25, 0.25, 0.5)
    same(averaged, {key: sum(w * end[key] for w, end in zip(weights, ends, strict=True)) for key in averaged})


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_an_adaptive_strategy_takes_small_steps_unless_told_otherwise(tmp_path: Path, name: str) -> None:
    start = standin.initial()
    final, _ = run(tmp_path / "run", [{}, {}], config(rounds=1, strategy__kind=name))
    moved = [np.abs(final[key] - start[key]).max() for key in start]
    assert 0 < max(moved) <= 0.02


def test_a_finished_run_asks_nobody_again(tmp_path: Path) -> None:
    final, _ = run(tmp_path / "run", [{}, {}], config(rounds=2))
    before = standin.calls(tmp_path / "state-0")
    again, rounds = run(tmp_path / "run", [{}, {}], config(rounds=2))
    same(again, final, 0)
    assert standin.calls(tmp_path / "state-0") == before and len(rounds) == 2


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", [{}, {}], config(rounds=1))
    other = standin.initial() | {"scale": np.zeros(2, np.float32)}
    with pytest.raises(RunError, match="other parameters"):
        run(tmp_path / "run", [{}, {}], config(rounds=1), initial=other)


def test_a_torn_update_is_asked_again(tmp_path: Path) -> None:
    agreed = config(rounds=2)
    killed_after(tmp_path / "run", agreed, "before-checkpoint")
    for path in (tmp_path / "run" / "updates").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    final, _ = run(tmp_path / "run", [{}, {}], agreed)
    same(final, standin.averaged(standin.initial(), 2, [0, 1]))


def test_interruption_leaves_a_run_that_continues(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, SiteReplied) and event.round == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", [{}, {}], config(rounds=3), interrupt)
    final, rounds = run(tmp_path / "run", [{}, {}], config(rounds=3))
    same(final, standin.averaged(standin.initial(), 3, [0, 1]))
    assert [r["round"] for r in rounds] == [1, 2, 3]
