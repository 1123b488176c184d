"""Sites that are lost and come back, or wait for approval, within a round."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from mmmed.errors import RunError
from server import messaging
from server.app import check_that_something_was_learnt
from server.events import Event, ignore
from server.loop import Rounds
from server.run_folder import RunFolder
from server.waits import Waits, waits_of
from simulations.grid import InProcessGrid
from tests import standin
from tests.server.test_loop import config, run, same


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "_PAUSE", 0.01)


def first(codes: str) -> dict[str, object]:
    return {"behaviour": "say-first", "codes": codes}


@pytest.mark.parametrize("code", ["crashed", "stopped", "node-unavailable", "app-unavailable"])
def test_a_site_that_was_lost_is_asked_once_more(tmp_path: Path, code: str) -> None:
    final, rounds = run(tmp_path / "run", [{}, first(code)], config(rounds=1))
    assert not [line for line in rounds[0]["train"] if "refused" in line]
    same(final, standin.averaged(standin.initial(), 1, [0, 1]))


def test_a_site_that_is_lost_twice_is_let_be(tmp_path: Path) -> None:
    _, rounds = run(tmp_path / "run", [{}, {}, first("crashed crashed")], config(rounds=1))
    assert [line.get("refused") for line in rounds[0]["train"]].count("crashed") == 1
    assert len([c for c in standin.calls(tmp_path / "state-2") if c["phase"] == "train"]) == 2


def test_a_site_that_waits_for_approval_is_asked_until_it_decides(tmp_path: Path) -> None:
    held = first(" ".join(["awaiting-approval"] * 4))
    final, _ = run(tmp_path / "run", [{}, held], config(rounds=1))
    same(final, standin.averaged(standin.initial(), 1, [0, 1]))
    denied = first("awaiting-approval not-approved")
    _, rounds = run(tmp_path / "denied" / "run", [{}, {}, denied], config(rounds=1))
    assert [line.get("refused") for line in rounds[0]["train"]].count("not-approved") == 1


def test_a_run_that_every_sites_policy_refused_does_not_end_as_completed(tmp_path: Path) -> None:
    refuses = first(" ".join(["policy-refused"] * 2))
    _, rounds = run(tmp_path / "run", [refuses, refuses], config(rounds=2))
    with pytest.raises(RunError, match="no round changed the model"):
        check_that_something_was_learnt(rounds)
    _, rounds = run(tmp_path / "good" / "run", [{}, {}], config(rounds=1))
    check_that_something_was_learnt(rounds)


def test_whom_a_round_waits_for_is_told_until_it_has_decided(tmp_path: Path) -> None:
    waits, told = Waits(tmp_path), list[dict[str, str]]()

    def follow(event: Event) -> None:
        waits.follow(event)
        told.append(waits_of(tmp_path))

    held = first("awaiting-approval awaiting-approval not-approved")
    run(tmp_path / "run", [{}, {}, held], config(rounds=1), follow)
    (words,) = next(one for one in told if one).values()
    assert "approve" in words
    assert told[-1] == {} and not (tmp_path / "waits.json").exists()


def test_who_never_decides_costs_the_round_its_deadline_and_no_more(tmp_path: Path) -> None:
    held = first(" ".join(["awaiting-approval"] * 100000))
    _, rounds = run(tmp_path / "run", [{}, {}, held], config(rounds=1, round_timeout=2.0))
    assert rounds[0]["changed"]
    assert [line.get("refused") for line in rounds[0]["train"]].count("awaiting-approval") == 1


class Lossy(InProcessGrid):
    """A grid over a network that swallows the first messages to one of its nodes."""

    pull_interval = 0.01

    def __init__(self, *arguments: Any, swallowed: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._swallowed, self._victim = swallowed, self.get_node_ids()[-1]
        self.asked = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            lost = False
            if message.metadata.dst_node_id == self._victim and message.metadata.message_type == "train":
                self.asked += 1
                lost = self.asked <= self._swallowed
            ids += [f"lost-{self.asked}"] if lost else super().push_messages([message])
            if lost:
                message.metadata.__dict__["_message_id"] = ids[-1]
        return ids


@pytest.mark.parametrize(("swallowed", "asked"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_who_says_nothing_is_asked_again_since_the_network_may_have_swallowed_it(
    tmp_path: Path, swallowed: int, asked: int
) -> None:
    nodes = [{"state-dir": str(tmp_path / f"state-{i}")} for i in range(2)]
    with (
        Lossy("tests.standin:app", nodes, swallowed=swallowed) as grid,
        RunFolder.create(tmp_path / "run", config(rounds=1, round_timeout=4.0, min_sites=1)) as folder,
    ):
        Rounds(grid, folder, ignore).run(standin.initial())
        (record,) = folder.rounds()
    assert grid.asked == asked
    refused = [line["refused"] for line in record["train"] if "refused" in line]
    assert refused == (["no-reply"] if swallowed > 2 else [])


def test_a_refusal_is_not_asked_again(tmp_path: Path) -> None:
    run(tmp_path / "run", [{}, {}, first("budget-exhausted")], config(rounds=1))
    assert len([c for c in standin.calls(tmp_path / "state-2") if c["phase"] == "train"]) == 1
