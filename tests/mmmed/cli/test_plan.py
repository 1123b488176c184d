"""`mmmed privacy plan`, as a person at a terminal of 80 columns reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmmed.cli import app
from mmmed.config import FederationConfig, RunConfig, resolve
from privacy.accounting import DpSgdEvent, epsilon, shown
from privacy.errors import PlanError
from privacy.planning import plan_training
from privacy.planning.releases import REPEATS

TABLE = "[data]\nimage = ''\ntext = ''\nnumbers = { age = [0, 90], crp = [0, 5] }\n"


def plan(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["privacy", "plan", *map(str, arguments)], env={"COLUMNS": "80"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def pasted(out: str, folder: Path, before: str = "") -> RunConfig:
    """The configuration that the printed lines are, pasted below `before`."""
    file = folder / "run.toml"
    file.write_text(before + out[out.index("[model]") : out.index("\nOf ")])
    return resolve(file).config


@pytest.mark.parametrize(
    "arguments",
    [
        ("--patients", "1000", "--sites", "4", "--epsilon", "8"),
        ("--patients", "2000000", "--sites", "60", "--epsilon", "0.1", "--delta", "1e-9"),
        ("--patients", "9", "--sites", "2", "--epsilon", "40", "--delta", "0.01"),
        ("--patients", "1000"),
        ("--patients", "2000000", "--epsilon", "0.1", "--delta", "1e-9", "--batch-size", "100000"),
    ],
)
def test_every_line_fits_80_columns_and_no_heading_is_cut(arguments: tuple[str, ...]) -> None:
    out = plan(*arguments)
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80, out
    assert "…" not in out
    words = out.split()
    if "--sites" in arguments:
        headings = {"release", "noise", "steps", "passes", "patients", "epsilon", "bears"}
    else:
        headings = {"rate", "steps", "records", "epsilon", "ledger", "passes", "signal", "noise"}
    assert headings <= set(words)


def test_what_is_recommended_can_be_pasted_and_is_what_a_site_plans(tmp_path: Path) -> None:
    out = plan("--patients", "1000", "--sites", "4", "--epsilon", "4", "--delta", "1e-5", "--honest", "1")
    config = pasted(out, tmp_path)
    assert config.federation.release == "steps" and config.model.fusion.kind == "linear"
    assert (config.model.image, config.model.text) == ("efficientnet-lite0", "minilm")
    assert config.model.trainable == "fusion-head" and config.training.batch_size == 125
    solved = plan_training(
        patients=250,
        batch_size=config.training.batch_size,
        local_epochs=config.training.local_epochs,
        rounds=config.federation.rounds,
        target_epsilon=config.privacy.target_epsilon,
        delta=config.privacy.delta,
        rate=config.step_rate,
    )
    text = " ".join(out.split())
    spent = shown(epsilon([solved.event], 1e-5))
    assert f"noise multiplier {solved.noise_multiplier:.4f}, epsilon {spent} (PLD) for 60 steps" in text
    assert "2.00 times the noise, as if it had 500 of the 1,000 patients" in text


def test_a_table_keeps_its_own_data_and_gets_a_linear_head(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(TABLE)
    config = pasted(plan("-c", own, "--patients", "663", "--sites", "4"), tmp_path, TABLE)
    assert config.model.fusion.kind == "linear" and config.data.modalities == ("table",)
    assert config.model.image == RunConfig().model.image  # nothing to freeze


def test_encoders_without_weights_of_their_own_stay_trained(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[data]\nimage = ''\ntext = ''\nvolume = 'ct'\n")
    assert "trainable" not in plan("-c", own, "--patients", "663", "--sites", "4").split("[training]")[0]


def test_the_plan_is_written_with_what_it_is_compared_to(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    out = plan("--patients", "400", "--sites", "4", "--delta", "1e-3", "--json", file)
    body = json.loads(file.read_text())
    assert [one["kind"] for one in body["releases"]] == ["pooled", "steps", "secure-steps"]
    assert "training.batch_size" not in out.split("No figures")[0] and "training.batch_size" in out
    for one in body["releases"]:
        assert epsilon([DpSgdEvent(**one["event"])], 1e-3) == one["epsilon"] <= 8
    assert body["recommended"]["privacy"]["delta"] == 1e-3 and body["settings"]


def test_a_delta_that_is_too_large_for_a_site_is_warned_of() -> None:
    out = " ".join(plan("--patients", "1000", "--sites", "4", "--delta", "1e-3").split())
    assert "warning: delta 0.001 is above a tenth of 1 / patients of a site, 0.0004" in out


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(PlanError, match="--patients"):
        plan("--patients", "3", "--sites", "4")
    with pytest.raises(PlanError, match="Found 5"):
        plan("--patients", "300", "--sites", "4", "--honest", "5")


@pytest.mark.parametrize("sites", ["1", "4"])
def test_it_imports_no_torch(sites: str) -> None:
    script = f"""
import sys
from mmmed.cli import app
app(["privacy", "plan", "--patients", "1000", "--sites", "{sites}"], standalone_mode=False)
print(sorted({{"torch", "monai", "opacus", "flwr", "plotly", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_where_noise_can_be_shared_it_is_recommended_as_a_run_takes_it(tmp_path: Path) -> None:
    out = plan("--patients", "1000", "--sites", "4", "--epsilon", "4", "--delta", "1e-5")
    federation = pasted(out, tmp_path).federation
    assert (federation.release, federation.honest, federation.min_sites) == ("secure-steps", 3, 4)
    assert f"for {federation.rounds + federation.repeats} steps" in " ".join(out.split())


def test_the_steps_that_are_planned_again_are_as_many_as_a_run_asks_for() -> None:
    assert FederationConfig().repeats == REPEATS
