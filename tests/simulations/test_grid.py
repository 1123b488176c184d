"""The in-process grid: isolation of nodes, and nothing that a client does ends a round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from mmmed.config import RunConfig, to_flat
from mmmed.errors import RunError
from mmmed.federation.strategies.flower import to_record
from simulations.grid import InProcessGrid
from tests import standin

APP = "tests.standin:app"


def messages(grid: InProcessGrid, kind: str = "train", ttl: float = 60.0) -> list[Message]:
    import json

    config = {"server-round": 1, "run-id": "run", "run-config": json.dumps(to_flat(RunConfig()))}
    content = RecordDict({"arrays": to_record(standin.initial()), "config": ConfigRecord(config)})
    return [Message(content, node, kind, ttl=ttl) for node in grid.get_node_ids()]


def by_node(replies: Iterator[Message]) -> dict[int, Message]:
    return {reply.metadata.src_node_id: reply for reply in replies}


def sites(folder: Path, *behaviours: str) -> list[dict[str, str]]:
    return [{"behaviour": b, "state-dir": str(folder / str(i))} for i, b in enumerate(behaviours)]


@pytest.fixture(params=[0, 2], ids=["serial", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return request.param


def test_every_site_trains_from_the_same_model(tmp_path: Path, workers: int) -> None:
    with InProcessGrid(APP, sites(tmp_path, "", "", ""), workers=workers) as grid:
        replies = by_node(grid.send_and_receive(messages(grid)))
        assert list(replies) == sorted(replies) or workers
        for partition, node in enumerate(grid.get_node_ids()):
            expected = standin.trained(standin.initial(), partition)
            for key, array in replies[node].content["arrays"].items():
                np.testing.assert_array_equal(array.numpy(), expected[key])


def test_context_stays_with_its_node_and_a_failure_leaves_it_unchanged(tmp_path: Path, workers: int) -> None:
    with InProcessGrid(APP, sites(tmp_path, "", "raise"), workers=workers) as grid:
        for _ in range(3):
            replies = by_node(grid.send_and_receive(messages(grid)))
        good, bad = (replies[node] for node in grid.get_node_ids())
        assert bad.error.reason == "failed" and "Doe" not in str(bad)
        assert good.has_content()
    assert [call["calls"] for call in standin.calls(tmp_path / "0")] == [1, 2, 3]
    assert [call["calls"] for call in standin.calls(tmp_path / "1")] == [1, 1, 1]


def test_a_client_cannot_change_what_the_others_receive(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "", "")) as grid:
        sent = messages(grid, "evaluate.untouched")  # both carry one RecordDict, as Flower's strategies do
        for reply in grid.send_and_receive(sent):
            assert "mark" not in reply.content["seen"]
        assert set(sent[0].content["arrays"]) == set(standin.SHAPES)
        assert "mark" not in sent[0].content["config"]


@pytest.mark.parametrize("behaviour", ["nothing", "gossip", "refuse"])
def test_error_replies_carry_on(tmp_path: Path, behaviour: str) -> None:
    reason = {"nothing": "failed", "refuse": "budget-exhausted", "gossip": "patient Jane Doe is missing"}[
        behaviour
    ]
    with InProcessGrid(APP, sites(tmp_path, behaviour, "")) as grid:
        replies = by_node(grid.send_and_receive(messages(grid)))
        bad, good = (replies[node] for node in grid.get_node_ids())
        assert bad.error.reason == reason  # a reply that the app itself made passes as it is
        assert good.has_content()


def test_a_killed_worker_costs_its_message_and_is_replaced(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "die", "", ""), workers=1) as grid:
        for _ in range(2):
            replies = by_node(grid.send_and_receive(messages(grid)))
            dead, *alive = (replies[node] for node in grid.get_node_ids())
            assert dead.error.reason == "crashed"
            assert all(reply.has_content() for reply in alive)


def test_a_stuck_site_expires_and_its_worker_serves_again(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "hang", ""), workers=1) as grid:
        by_node(
            grid.send_and_receive(messages(grid, "evaluate"))
        )  # the worker is there, however long that took
        first = by_node(grid.send_and_receive(messages(grid, ttl=8.0)))
        assert first[grid.get_node_ids()[0]].error.reason == "expired"
        second = by_node(grid.send_and_receive(messages(grid, "evaluate")))
        assert all(reply.has_content() for reply in second.values())
    assert (tmp_path / "0" / "committed").exists()


def test_an_expired_message_is_not_run(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "")) as grid:
        ids = grid.push_messages(messages(grid, ttl=0.01))
        time.sleep(0.05)
        (reply,) = grid.pull_messages(ids)
        assert reply.error.reason == "expired"
    assert standin.calls(tmp_path / "0") == []


def test_replies_stream(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "", "", "")) as grid:
        replies = grid.send_and_receive(messages(grid))
        next(iter(replies))
        assert [len(standin.calls(tmp_path / str(i))) for i in range(3)] == [1, 0, 0]


def test_threads_and_processes(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "", "", ""), workers=2, threads=3) as grid:
        list(grid.send_and_receive(messages(grid)))
        (first,), *_ = (standin.calls(tmp_path / str(i)) for i in range(3))
        assert first["threads"] == "3" and first["pid"] != os.getpid()
        pids = {int(str(call["pid"])) for i in range(3) for call in standin.calls(tmp_path / str(i))}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("reference", "workers"),
    [
        ("tests.standin:absent", 0),
        ("tests.absent:app", 0),
        ("tests.standin:train", 0),
        ("x", 0),
        ("tests.absent:app", 1),
    ],
)
def test_an_app_that_cannot_be_loaded(reference: str, workers: int) -> None:
    with pytest.raises(RunError, match="ClientApp"), InProcessGrid(reference, [{}], workers=workers) as grid:
        list(grid.send_and_receive(messages(grid)))


def test_unknown_nodes_get_no_message_id(tmp_path: Path) -> None:
    with InProcessGrid(APP, sites(tmp_path, "")) as grid:
        assert grid.push_messages([Message(RecordDict(), 5, "train")]) == []


def test_flowers_own_strategy_runs_on_it(tmp_path: Path) -> None:
    import json

    with InProcessGrid(APP, sites(tmp_path, "", "", "")) as grid:
        strategy = FedAvg(
            min_train_nodes=3, min_available_nodes=3, min_evaluate_nodes=3, weighted_by_key="weight"
        )
        config = ConfigRecord({"run-id": "run", "run-config": json.dumps(to_flat(RunConfig()))})
        result = strategy.start(
            grid, to_record(standin.initial()), 2, train_config=config, evaluate_config=config
        )
    expected = standin.averaged(standin.initial(), 2, [0, 1, 2])
    assert set(result.arrays) == set(expected)
    for key, array in result.arrays.items():
        np.testing.assert_allclose(array.numpy(), expected[key], rtol=1e-5)


INTERRUPTED = """
import sys
from tests.simulations.test_grid import APP, messages, sites
from pathlib import Path
from simulations.grid import InProcessGrid
if __name__ == "__main__":
    with InProcessGrid(APP, sites(Path(sys.argv[1]), "hang", "hang"), workers=int(sys.argv[2])) as grid:
        list(grid.send_and_receive(messages(grid)))
"""


def test_ctrl_c_lets_the_running_sites_commit_and_ends_every_process(tmp_path: Path, workers: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(workers)],
        env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    running = [tmp_path / str(i) / "hanging" for i in range(2 if workers else 1)]
    deadline = time.monotonic() + 600
    while not all(path.exists() for path in running):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    _, errors = process.communicate(timeout=300)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    for path in running:
        assert path.with_name("committed").exists()
        (call,) = standin.calls(path.parent)
        with pytest.raises(ProcessLookupError):
            os.kill(int(str(call["pid"])), 0)
