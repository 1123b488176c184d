"""`mmmed server check`: which policies would refuse a run, before any site is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmmed.cli import app
from mmmed.errors import DeployError

POLICY = """
version = 1
site = "north"
expires = 2099-12-31
unit = "patient"
adjacency = "add_remove"
[limit]
epsilon = 8.0
delta = 1e-4
[period]
days = 365
epsilon = 8.0
delta = 1e-4
[run]
epsilon = 4.0
delta = 1e-4
min_noise_multiplier = 0.5
min_patients = 100
max_records_per_patient = 4
models = ["resnet10+tiny"]
trainable = ["full"]
apps = ["installed"]
columns = ["finding", "image", "text"]
[evaluation]
min_patients = 200
[purposes]
training = 8.0
evaluation = 1.0
[metrics]
auroc = "private"
calibration = "private"
"""


@pytest.mark.parametrize(
    ("assignment", "code", "told"),
    [
        ("privacy.target_epsilon=4", 0, "north: allows the run"),
        ("privacy.target_epsilon=8", 1, "north: REFUSES training: "),
        ("model.fusion.width=2048", 1, "resnet10+tiny+width:2048"),
    ],
)
def test_it_says_who_refuses_and_by_which_rule(tmp_path: Path, assignment: str, code: int, told: str) -> None:
    (tmp_path / "north.toml").write_text(POLICY)
    given = [
        "--set",
        "privacy.target_epsilon=4",
        "--set",
        assignment,
        "--policy",
        str(tmp_path / "north.toml"),
    ]
    result = CliRunner().invoke(app, ["server", "check", *given])
    assert result.exit_code == code, result.output
    assert told in result.output


def test_a_policy_without_peers_refuses_to_share_noise(tmp_path: Path) -> None:
    (tmp_path / "north.toml").write_text(POLICY)
    settings = {
        "privacy.target_epsilon": 4,
        "federation.release": "secure-steps",
        "federation.honest": 2,
        "training.optimizer": "sgd",
    }
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, ["server", "check", *given, "--policy", str(tmp_path / "north.toml")])
    assert result.exit_code == 1 and "north: REFUSES training: peers: " in result.output


def test_without_policies_it_asks_a_federation(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["server", "check", "--folder", str(tmp_path / "none")])
    assert isinstance(result.exception, DeployError) and "holds no federation" in str(result.exception)
