"""The run folder: one owner at a time, whole after any kill, no silent change of configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmmed.config import RunConfig, from_flat
from mmmed.errors import RunError
from server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from server.run_folder import RunFolder

CONFIG = RunConfig()
OTHER = from_flat({"federation.rounds": 5, "privacy.target_epsilon": 2.0})


def test_a_new_run_is_resumed_with_the_same_id(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    with RunFolder.create(path, OTHER) as created:
        created.append_round({"round": 1})
    with RunFolder.open(path) as opened:
        assert (opened.config, opened.run_id) == (OTHER, created.run_id)
        assert opened.rounds() == [{"round": 1}]
    with RunFolder.create(tmp_path / "b", OTHER) as another:
        assert another.run_id != created.run_id


def test_environment_says_where_it_ran(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", CONFIG).close()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["versions"]["flwr"] == "1.41.0"
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(environment) >= {"run_id", "created", "platform", "commit"}


def test_a_folder_in_use_names_the_process(tmp_path: Path) -> None:
    script = "import sys;from pathlib import Path;from mmmed.config import RunConfig;" + (
        "from server.run_folder import RunFolder;"
        "f=RunFolder.create(Path(sys.argv[1]), RunConfig());print('held',flush=True);sys.stdin.read()"
    )
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for use in (lambda: RunFolder.open(path), lambda: RunFolder.create(path, CONFIG)):
            with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
                use()
        holder.kill()
    RunFolder.open(path).close()  # the lock dies with its owner


def test_a_refused_opening_gives_the_lock_back(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).close()
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(RunError):
        RunFolder.open(tmp_path, OTHER)
    RunFolder.open(tmp_path, CONFIG).close()


def test_a_changed_configuration_names_its_keys(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).close()
    with pytest.raises(
        RunError, match=r"privacy.target_epsilon was 8.0, now 2.0; federation.rounds was 3, now 5"
    ) as e:
        RunFolder.open(tmp_path, OTHER)
    assert "training.seed" not in str(e.value)


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"thesis\.tex"):
        RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunError, match="cannot be used"):
        RunFolder.create(tmp_path / "thesis.tex", CONFIG)


def test_a_kill_during_creation_leaves_a_folder_that_can_be_created(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).close()
    (tmp_path / "config.toml").unlink()  # written last
    (tmp_path / ".part-config.toml").write_text("half")
    with RunFolder.create(tmp_path, OTHER) as folder:
        assert folder.config == OTHER
    with RunFolder.open(tmp_path) as folder:
        assert folder.config == OTHER


def test_wherever_creation_is_killed_a_run_has_what_makes_it_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replace by which a file appears is where the process may die: before it, or right after it."""

    class Killed(BaseException):
        pass

    beside, replace = {"scenario.csv": b"a,b\n", "scenario.toml": b"split = 1\n", "policy": b"x"}, os.replace
    outcomes = []
    for place in range(11):
        path, step = tmp_path / f"run-{place}", iter(range(100))

        def dies(source: Any, target: Any, place: int = place, step: Iterator[int] = step) -> None:
            number = next(step)
            if place == 2 * number:
                raise Killed
            replace(source, target)
            if place == 2 * number + 1:
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dies)
            try:
                RunFolder.create(path, CONFIG, beside).close()
                outcomes.append("created")
            except Killed:
                outcomes.append("killed")
        if (path / "config.toml").exists():  # it can be resumed: as the run that it is
            assert {name: (path / name).read_bytes() for name in beside} == beside
            RunFolder.open(path).close()
        else:  # it can be begun anew, with the same command
            with RunFolder.create(path, CONFIG, beside):
                assert {name: (path / name).read_bytes() for name in beside} == beside
    assert outcomes == ["killed"] * 10 + ["created"]  # five files


@pytest.mark.parametrize("torn", ['{"round": 2, "tr', "{", '{"round": 2}'])
def test_a_torn_last_line_is_trimmed(tmp_path: Path, torn: str) -> None:
    with RunFolder.create(tmp_path, CONFIG) as folder:
        folder.append_round({"round": 1})
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write(torn)
    with RunFolder.open(tmp_path) as folder:
        assert folder.rounds() == [{"round": 1}]
        folder.append_round({"round": 2})
        assert [r["round"] for r in folder.rounds()] == [1, 2]


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"site": 1}', '{"round": "x"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    with RunFolder.create(tmp_path, CONFIG) as folder:
        folder.append_round({"round": 1})
        with (tmp_path / "rounds.jsonl").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(RunError, match="line 2"):
            folder.rounds()


def test_a_lost_run_id_is_an_error(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).close()
    (tmp_path / "environment.json").write_text("{}")
    with pytest.raises(RunError, match=r"environment\.json"):
        RunFolder.open(tmp_path)


def checkpoint(number: int) -> Checkpoint:
    model = {"a/b": np.full((2, 3), number, np.float32).T, "scale": np.array(number, np.float32)}
    return Checkpoint(number, model, {"m": model, "v": model}, {"round": number, "train": [{"site": "ä"}]})


def test_checkpoints_return_what_was_saved_and_old_ones_go(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for number in range(1, 13):
        save_checkpoint(tmp_path, checkpoint(number))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and (loaded.round, loaded.record) == (12, checkpoint(12).record)
    for arrays in (loaded.model, *loaded.moments.values()):
        for key, value in checkpoint(12).model.items():
            np.testing.assert_array_equal(arrays[key], value)
            assert arrays[key].dtype == np.float32
    assert set(loaded.moments) == {"m", "v"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    newest = tmp_path / "round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:40])
    with pytest.raises(RunError, match="round-00002"):
        load_checkpoint(tmp_path)
    newest.unlink()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.round == 1
