"""``mmmed poc``: a federation in one command, and the first run of the docs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.run_request import INSTALLED, run_request
from client.site_folder import SiteFolder
from mmmed.config import RunConfig, resolve
from mmmed.errors import ConfigError, DeployError
from privacy.accounting import calibrate_noise_multiplier
from privacy.ledger import Ledger, dataset_identity
from privacy.metrics import evaluation_event
from privacy.planning import plan_training
from privacy.policy import EVALUATION, TRAINING, SitePolicy
from simulations.loopback.federation import TINY
from simulations.loopback.hospital import Hospital
from simulations.loopback.processes import mmmed, processes, wait_for
from simulations.poc import CONFIG, NEXT, Poc, allowing

ROOT = Path(__file__).parents[2]
MASKED = (
    *TINY,
    "federation.release=secure-steps",
    "federation.min_sites=3",
    "federation.honest=2",
    "training.optimizer=sgd",
    "training.local_epochs=4",
)


def tiny(data: Path) -> RunConfig:
    return resolve(assignments=TINY, options={"data.source": str(data)}).config


def test_each_policy_allows_the_configuration_and_no_other(tmp_path: Path, hospitals: Path) -> None:
    config = tiny(hospitals)
    hospital = Hospital(tmp_path / "north", hospitals)
    hospital.sign(**allowing(config))
    policy = SitePolicy.parse((hospital.path / "site-policy.toml").read_text())
    for purpose in (TRAINING, EVALUATION):
        policy.check(run_request(config, purpose, INSTALLED), time.time())
    with pytest.raises(ConfigError, match="privacy alone"):
        allowing(resolve(assignments=(*TINY, "privacy.enabled=false")).config)


def test_the_largest_hospitals_of_the_data_take_part(hospitals: Path) -> None:
    from simulations.poc import hospitals as choose

    config, table = tiny(hospitals), hospitals / "data.csv"
    assert choose(table, config, 3) == {name: name for name in ("northgate", "harbour", "meadow")}
    with pytest.raises(ConfigError, match="has 4 hospitals"):
        choose(table, config, 9)


@pytest.mark.usefixtures("nginx")
def test_policies_name_each_other_where_the_run_shares_its_noise(tmp_path: Path, hospitals: Path) -> None:
    masked = resolve(assignments=MASKED, options={"data.source": str(hospitals)}).config
    with pytest.raises(ConfigError, match=r"federation.min_sites is 3, but --sites is 2"):
        Poc(tmp_path / "few", masked, 2)
    made = Poc(tmp_path / "poc", masked, 3)
    keys = {site.name: site.peer_key() for site in made.federation.sites}
    for site in made.federation.sites:
        signed = SiteFolder(site.path).policy()
        assert signed.countersigned and signed.policy.peers is not None
        assert dict(signed.policy.peers.roster) == keys and signed.policy.peers.colluders == 1
        for purpose in (TRAINING, EVALUATION):
            signed.policy.check(run_request(masked, purpose, INSTALLED), time.time())


@pytest.mark.usefixtures("nginx")
def test_the_folder_says_how_to_go_on_and_is_never_written_over(tmp_path: Path, hospitals: Path) -> None:
    home = tmp_path / "poc"
    made = Poc(home, tiny(hospitals), 2)
    assert resolve(home / CONFIG).config == tiny(hospitals)
    told = (home / NEXT).read_text()
    assert f"cd {home}" in told and "mmmed site start --site northgate" in told
    for site in made.federation.sites:  # the command that signs an edited policy finds the officer's key
        key = home / "officers" / f"{site.name}.key"
        mmmed("privacy", "policy", "sign", site.path, "--key", key, cwd=home)
        assert "in force" in mmmed("privacy", "policy", "check", site.path, cwd=home)[1]
        assert made.federation.coordinator.kit(site.name).is_file()
    with pytest.raises(DeployError, match="is there already"):
        Poc(home, tiny(hospitals), 2)


def test_a_policy_as_it_is_written_first_allows_the_first_run_of_the_docs(tmp_path: Path) -> None:
    mmmed("privacy", "policy", "init", "--site", "north", cwd=tmp_path)
    docs = (ROOT / "docs" / "coordinator.md").read_text()
    named = set(re.findall(r"configs/\w+\.toml", docs))
    assert named
    for name in named:
        code, told = mmmed(
            "server",
            "check",
            ROOT / name,
            "--policy",
            tmp_path / "site-policy.toml",
            cwd=tmp_path,
            check=False,
        )
        assert (code, "REFUSES" in told) == (0, False), told


def test_the_first_runs_noise_and_budget_keep_to_the_first_policy(tmp_path: Path) -> None:
    mmmed("privacy", "policy", "init", "--site", "north", cwd=tmp_path)
    policy = SitePolicy.parse((tmp_path / "site-policy.toml").read_text())
    run = resolve(ROOT / "configs" / "first_run.toml").config
    delta = run.privacy.delta
    training = plan_training(
        patients=600,
        batch_size=run.training.batch_size,
        local_epochs=run.training.local_epochs,
        rounds=run.federation.rounds,
        target_epsilon=run.privacy.target_epsilon,
        delta=delta,
        largest_delta=policy.largest_delta,
        stated=policy.patients,
    )
    results = evaluation_event(calibrate_noise_multiplier(run.privacy.metrics_epsilon, delta, 1.0, 1))
    key = Ed25519PrivateKey.generate()
    with Ledger.open(tmp_path / "state" / "ledger.db", key, limit=policy.limit) as ledger:
        for purpose, event, number in ((TRAINING, training.event, 600), (EVALUATION, results, 200)):
            policy.check_plan(purpose, event.noise_multiplier, number)
            whose = dataset_identity(
                (f"{purpose}-{i}" for i in range(number)), b"a secret of the site, 32 bytes.."
            )
            limits = policy.sublimits(purpose, ledger.now())
            plan = ledger.plan(whose, purpose, event, delta, 1.0, purpose, limits)
            ledger.reserve(plan, 1, event.steps, limits)


@pytest.mark.parametrize("file", ["compose.coordinator.yaml", "compose.site.yaml"])
def test_compose_files_name_commands_that_there_are(file: str) -> None:
    (words,) = re.findall(
        r"^ +command: (\[.*\])$", (ROOT / "docs" / "deploy" / file).read_text(), re.MULTILINE
    )
    group, command, option, _ = json.loads(words)
    assert option in mmmed(group, command, "--help", cwd=ROOT)[1]


@pytest.mark.slow
@pytest.mark.usefixtures("nginx")
@pytest.mark.parametrize("interrupted", [False, True])
def test_one_command_runs_a_federation_and_leaves_no_process(
    tmp_path: Path, hospitals: Path, interrupted: bool
) -> None:
    settings = [part for one in (TINY if interrupted else MASKED) for part in ("--set", one)]
    command = ["poc", "--sites", "3", "--data", hospitals, "--out", tmp_path / "poc", *settings]
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmmed.cli", *map(str, command)],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if interrupted:
        wait_for(lambda: bool(processes("client.node.runner", str(tmp_path / "poc"))), "a site to start")
        process.send_signal(signal.SIGINT)
    code = process.wait(1800)
    told = said.read_text()
    assert processes(str(tmp_path / "poc")) == []
    if interrupted:
        assert code == 130, told
        return
    assert code == 0, told
    assert "finished:completed" in told and "token" in told
    assert Path(re.findall(r"privacy report: (.*)", told)[0]).is_file()
    assert "mmmed site start --site northgate" in told
