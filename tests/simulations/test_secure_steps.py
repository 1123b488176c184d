"""``federation.release = "secure-steps"``: the server learns the noised sum over sites, and no site's part of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.secure_steps import introduction, masked_step
from client.simulated import simulated_manifest
from mmmed.config import RunConfig, to_toml
from mmmed.errors import RunError
from mmmed.federation.protocol import Request
from privacy.accounting import DpSgdEvent, epsilon
from privacy.errors import PolicyRefusal
from privacy.report import unfinished, verify_report
from simulations.simulate import resume_run, start_run
from tests.simulations.test_simulate import start, wait_for
from tests.simulations.test_steps import STEPS, config, initial, lines, pooled, trained


def secure(hospitals: Path, honest: int, **changes: Any) -> RunConfig:
    """A run that clips nobody, so that but for its noise it is gradient descent in one place."""
    sites = len(simulated_manifest(config(hospitals)).sites)
    values = config(hospitals, private=True).model_dump()
    values["privacy"] |= {"max_grad_norm": 30.0, "target_epsilon": 100.0, **changes.pop("privacy", {})}
    values["federation"] |= {"release": "secure-steps", "min_sites": sites, "honest": honest, **changes}
    return RunConfig.model_validate(values)


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_the_sum_is_the_pooled_one_with_the_noise_of_the_honest(hospitals: Path, tmp_path: Path) -> None:
    sites = len(simulated_manifest(config(hospitals)).sites)
    for honest in (1, sites):
        run = secure(hospitals, honest)
        folder = start_run(run, folder=tmp_path / f"run-{honest}", engine="inprocess", workers=0)
        (noise,) = {one["released"]["privacy.noise_multiplier"] for x in lines(folder) for one in x["train"]}
        moved = run.training.learning_rate / (run.training.batch_size * sites)
        expected = moved * noise * run.privacy.max_grad_norm * (STEPS * sites / honest) ** 0.5
        apart = flat(trained(folder)) - flat(pooled(run))
        assert apart.std() == pytest.approx(expected, rel=0.1)
        way = flat(pooled(run)) - flat(initial(run))
        length = float(np.linalg.norm(way))
        assert abs(apart @ way) / length < 5 * expected < length
        assert abs(apart.mean()) < 5 * expected / len(apart) ** 0.5


def quick(hospitals: Path, **changes: Any) -> RunConfig:
    values = config(hospitals, private=True, rate=0.5).model_dump()
    values["model"] |= {"trainable": "fusion-head", "fusion": {"kind": "linear"}}
    values["federation"] |= {"release": "secure-steps", "min_sites": 3, "honest": 2, **changes}
    return RunConfig.model_validate(values)


def test_every_attempt_is_charged_signed_and_reported(hospitals: Path, tmp_path: Path) -> None:
    run = quick(hospitals)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    stated = [line["released"] for one in lines(folder) for line in one["train"]]
    assert len(stated) == 4 * STEPS and {one["privacy.steps"] for one in stated} == {1}
    report = json.loads((folder / "report" / "privacy.json").read_text())
    assert verify_report(report) == [] == unfinished(report)
    assert report["shared"]["honest"] == 2 and report["shared"]["colluders"] == 1
    planned = DpSgdEvent(stated[0]["privacy.noise_multiplier"], 0.5, STEPS + run.federation.repeats)
    assert report["sites"][0]["epsilon_planned"] == pytest.approx(
        epsilon([planned], run.privacy.delta), rel=1e-6
    )
    assert report["sites"][0]["epsilon_planned"] <= run.privacy.target_epsilon
    kept = [path.name for path in folder.rglob("secure_sums/*/*/*")]
    assert "closed" in kept and not {"secret", "answer"} & set(kept)
    resume_run(folder, engine="inprocess", workers=0)  # nothing is left to do, and nobody is charged again
    assert len(lines(folder)) == STEPS


def test_a_site_that_is_lost_voids_the_attempt_and_the_others_step(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick(hospitals)
    gone, asked = simulated_manifest(run).sites[1], []

    def drops_out(site: Any, request: Request) -> Any:
        assert request.sum is not None
        asked.append((site.name, request.round, request.sum.attempt))
        if site.name == gone and request.round == 2:
            raise PolicyRefusal("run", "not today")
        return masked_step(site, request)

    monkeypatch.setattr("client.app.masked_step", drops_out)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    assert all(one["changed"] for one in lines(folder))
    others = {name for name, _, _ in asked} - {gone}
    assert {(step, attempt) for name, step, attempt in asked if name == gone} == {(1, 1), (2, 2), (3, 4)}
    assert all(
        {(s, a) for n, s, a in asked if n == one} == {(1, 1), (2, 2), (2, 3), (3, 4)} for one in others
    )
    report = json.loads((folder / "report" / "privacy.json").read_text())
    assert verify_report(report) == [] == unfinished(report)
    charged = {row["site"]: row["steps_charged"] for row in report["sites"]}
    assert charged == dict.fromkeys(others, 4) | {gone: 2}


@pytest.mark.slow
def test_without_repeats_a_lost_step_is_lost(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick(hospitals, repeats=0)
    gone = simulated_manifest(run).sites[1]

    def drops_out(site: Any, request: Request) -> Any:
        if site.name == gone and request.round == 1:
            raise PolicyRefusal("run", "not today")
        return masked_step(site, request)

    monkeypatch.setattr("client.app.masked_step", drops_out)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    assert [one["changed"] for one in lines(folder)] == [
        True,
        True,
        False,
    ]  # three attempts, of which one was void
    report = json.loads((folder / "report" / "privacy.json").read_text())
    assert all(row["steps_charged"] <= STEPS for row in report["sites"])


def test_a_run_that_too_few_sites_join_does_not_begin(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick(hospitals)
    absent = simulated_manifest(run).sites[:2]

    def refuses(site: Any, request: Request) -> bytes:
        if site.name in absent:
            raise PolicyRefusal("peers", "not with those")
        return introduction(site, request)

    monkeypatch.setattr("client.app.introduction", refuses)
    with pytest.raises(RunError, match=r"2 sites joined, and federation\.min_sites is 3"):
        start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)


@pytest.mark.parametrize(
    ("part", "changes", "key"),
    [
        ("privacy", {"enabled": False}, "privacy.enabled"),
        ("federation", {"wire": "int8"}, "federation.wire"),
        ("federation", {"max_update_norm": 1.0}, "federation.max_update_norm"),
        ("federation", {"aggregation": {"kind": "median"}}, "federation.aggregation.kind"),
        ("training", {"optimizer": "adam"}, "training.optimizer"),
        ("federation", {"honest": 0}, "federation.honest"),
        ("federation", {"honest": 4}, "federation.honest"),
        ("federation", {"strategy": {"kind": "scaffold"}}, "scaffold"),
    ],
)
def test_what_cannot_go_with_masked_sums_is_named(
    hospitals: Path, part: str, changes: dict[str, Any], key: str
) -> None:
    values = quick(hospitals).model_dump()
    values[part] |= changes
    with pytest.raises(ValidationError, match=key):
        RunConfig.model_validate(values)


def test_a_run_goes_on_after_kill_9(hospitals: Path, tmp_path: Path) -> None:
    run, out = quick(hospitals), tmp_path / "run"
    (tmp_path / "run.toml").write_text(to_toml(run))
    arguments = ["simulate", "--config", str(tmp_path / "run.toml"), "--out", str(out), "--workers", "0"]
    process = start(hospitals, out, *arguments)
    wait_for(process, lambda: (out / "rounds.jsonl").exists() and len(lines(out)) >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resume_run(out, engine="inprocess", workers=0)
    assert [one["round"] for one in lines(out)] == [1, 2, 3] and all(one["changed"] for one in lines(out))
    report = json.loads((out / "report" / "privacy.json").read_text())
    assert verify_report(report) == [] == unfinished(report)
    assert all(STEPS <= row["steps_charged"] <= STEPS + 1 for row in report["sites"])
