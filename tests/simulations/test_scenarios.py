"""Scenarios: patients dealt, cells emptied, labels flipped, and sites that are away or mean ill, in a real round."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.simulated import simulated_manifest
from mmmed.config import RunConfig, resolve
from mmmed.data.manifest import Manifest
from mmmed.data.split import held_out
from mmmed.errors import ConfigError
from simulations.scenarios import Scenario, about, parse_settings, read_scenario, scenario_files
from simulations.scenarios.behaviour import otherwise
from simulations.scenarios.deal import deal, even_labels, label_counts, site_sizes
from simulations.scenarios.table import (
    absent_rounds,
    dealt,
    kept_files,
    kept_scenario,
    kept_table,
    node_settings,
    patient_kinds,
)
from simulations.trial import evaluated_trial
from tests.simulations.conftest import ROOT

Command = Callable[..., tuple[int, str, str]]
TINY = (
    "data.image=",
    "data.numbers={age = [0, 100]}",
    "data.text_tokens=8",
    "model.fusion.kind=linear",
    "training.batch_size=4",
    "training.local_epochs=1",
    "federation.rounds=2",
    "privacy.metrics=none",
)


def config(hospitals: Path, *more: str) -> RunConfig:
    return resolve(None, [*TINY, f"data.source={hospitals}", *more]).config


def read(scenario: Scenario, run: RunConfig) -> Manifest:
    with dealt(scenario, run) as table:
        return simulated_manifest(run, table)


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", scenario_files())
def test_every_scenario_opens_with_its_command_and_makes_a_table_that_sites_can_read(
    name: str, hospitals: Path
) -> None:
    command, shows = about(scenario_files()[name])
    assert command.startswith(f"mmmed simulate --scenario {name} ") and len(shows) > 40
    scenario = read_scenario(name)
    run = config(hospitals, "data.image=image")
    natural = simulated_manifest(run)
    manifest = read(scenario.model_copy(update={"fewest": 3}), run)
    assert len(manifest.sites) == (scenario.sites or len(natural.sites))
    assert set(scenario.named) <= set(manifest.sites)
    assert (manifest.records.groupby("patient")["site"].nunique() == 1).all()
    if not scenario.same_labels:
        assert set(manifest.records["study"]) == set(natural.records["study"])
    assert Scenario.model_validate(read_scenario(name).model_dump()) == scenario


def test_an_installed_package_has_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["simulations"]
    found = {path for pattern in patterns for path in (ROOT / "simulations").glob(pattern)}
    assert len(scenario_files()) >= 14 and set(scenario_files().values()) <= found


def test_a_wrong_scenario_is_told_by_name_and_key(tmp_path: Path, hospitals: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scenario 'label-skw'\. Did you mean 'label-skew'"):
        read_scenario("label-skw")
    with pytest.raises(ConfigError, match=r"unknown key 'alpa'\. Did you mean 'alpha'"):
        read_scenario("label-skew", {"alpa": 1})
    with pytest.raises(ConfigError, match=r"alpha.*greater than 0.*Found -1"):
        read_scenario("label-skew", {"alpha": -1})
    with pytest.raises(ConfigError, match="needs sites"):
        read_scenario("natural", {"split": "iid"})
    with pytest.raises(ConfigError, match="a number for each of sites = 4"):
        read_scenario("few-large-many-small", {"sites": 4})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_scenario(str(tmp_path / "none.toml"))
    run = config(hospitals)
    with pytest.raises(ConfigError, match=r"no site 'site-9'\. The sites are harbour, meadow"):
        read(Scenario(join={"site-9": 2}), run)
    with pytest.raises(ConfigError, match="missing modality 'image': the run learns from text, table"):
        read(Scenario(missing=({"modality": "image"},)), run)
    with pytest.raises(ConfigError, match="not enough for 50 sites"):
        read(Scenario(split="iid", sites=50), run)
    masked = run.model_copy(
        update={"federation": run.federation.model_copy(update={"release": "secure-steps"})}
    )
    with pytest.raises(ConfigError, match="sends masked"):
        read(Scenario(malicious=({"sites": ("meadow",), "kind": "sign-flip"},)), masked)


def test_settings_of_the_run_and_of_the_scenario_are_told_apart() -> None:
    run, own = parse_settings(["training.seed=1", "scenario.alpha=0.1", "scenario.split=iid"])
    assert run == ["training.seed=1"] and own == {"alpha": 0.1, "split": "iid"}
    with pytest.raises(ConfigError, match=r"expected scenario\.key=value"):
        parse_settings(["scenario.alpha"])
    with pytest.raises(ConfigError, match="expected one value"):
        parse_settings(["scenario.alpha=1,2"])


# ---------------------------------------------------------------- splits

labels = st.lists(st.integers(0, 2), min_size=60, max_size=120).map(np.array)


@settings(max_examples=25, deadline=None)
@given(labels, st.sampled_from(["iid", "dirichlet", "quantity"]), st.integers(2, 6), st.integers(0, 99))
def test_every_patient_is_at_one_site_and_a_seed_gives_the_same(
    kinds: np.ndarray, split: str, sites: int, seed: int
) -> None:
    scenario = Scenario(split=split, sites=sites, alpha=0.3, fewest=5)
    found = deal(kinds, scenario, seed)
    assert found.shape == kinds.shape and set(found) <= set(range(sites))
    sizes = np.bincount(found, minlength=sites)
    assert sizes.min() >= 5 - (split == "dirichlet")  # by rounding
    assert (deal(kinds, scenario, seed) == found).all()
    assert (deal(kinds, scenario, seed + 1) != found).any()
    if split != "quantity":
        assert sizes.max() - sizes.min() <= (1 if split == "iid" else 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(2, 8))
def test_large_alpha_is_everybodys_mix_and_sizes_stay(seed: int, sites: int) -> None:
    assert label_spread(1e7, sites, seed) <= 2.5 / (600 // sites)
    label_spread(0.05, sites, seed)


def test_label_skew_fades_as_alpha_grows() -> None:
    spreads = [np.mean([label_spread(alpha, 4, seed) for seed in range(8)]) for alpha in (0.05, 1, 1000)]
    assert spreads[0] > 1.2 * spreads[1] > 2 * spreads[2]


def label_spread(alpha: float, sites: int, seed: int) -> float:
    """How far a site's mix of three kinds is from everybody's, at most."""
    of_kinds, sizes = np.array([400, 150, 50]), np.full(sites, 600 // sites)
    sizes[0] += 600 - sizes.sum()
    counts = label_counts(of_kinds, sizes, alpha, np.random.default_rng(seed))
    assert (counts.sum(axis=1) == of_kinds).all() and (counts >= 0).all()
    assert (abs(counts.sum(axis=0) - sizes) <= 2).all()
    return float(abs(counts / sizes - (of_kinds / 600)[:, None]).max())


def test_shares_are_the_sizes_where_they_leave_enough_for_everybody() -> None:
    rng = np.random.default_rng(0)
    scenario = Scenario(split="quantity", sites=4, shares=(5, 3, 1, 1), fewest=10)
    assert site_sizes(1000, scenario, rng).tolist() == [500, 300, 100, 100]
    small = site_sizes(60, scenario, rng)
    assert small.sum() == 60 and small.min() == 10 and small[0] > small[1] > small[2] == small[3]
    drawn = Scenario(split="quantity", sites=4, alpha=1e6, fewest=10)
    assert np.ptp(site_sizes(1000, drawn, rng)) <= 4


def test_even_labels_leaves_sites_with_one_mix() -> None:
    kinds = np.repeat([0, 1, 0, 1], [90, 10, 40, 60])
    sites = np.repeat([0, 1], [100, 100])
    kept = even_labels(kinds, sites, seed=0)
    shares = [kinds[kept & (sites == site)].mean() for site in (0, 1)]
    assert shares == pytest.approx([0.35, 0.35], abs=0.03)
    assert kept[sites == 1].sum() > 50 and (even_labels(kinds, sites, seed=0) == kept).all()


def test_a_patients_kind_is_what_any_record_says(hospitals: Path) -> None:
    kinds = patient_kinds(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 2]), config(hospitals))
    assert len(set(kinds)) == 3


# ---------------------------------------------------------------- what is missing, flipped, away


def test_missing_cells_leave_each_record_something(hospitals: Path) -> None:
    run = config(hospitals, "data.image=image", "data.numbers={}")
    scenario = Scenario(
        missing=({"modality": "image", "sites": ("harbour",)}, {"modality": "text", "share": 0.5})
    )
    before, after = simulated_manifest(run).records, read(scenario, run).records
    image, text = after["image"] != "", after["text"] != ""
    had = before["text"] != ""
    assert (image | text).all() and not (text & ~had).any()
    assert not image[(after["site"] == "harbour") & had].any()
    assert image[after["site"] != "harbour"].all()
    assert 0.3 < text[had & (after["site"] != "harbour")].mean() < 0.7
    pd.testing.assert_frame_equal(read(scenario, run).records, after)


def test_flipped_labels_are_those_of_training_patients_alone(hospitals: Path) -> None:
    run = config(hospitals)
    scenario = Scenario(malicious=({"sites": ("harbour",), "kind": "label-flip"},))
    natural, flipped = simulated_manifest(run), read(scenario, run)
    changed = natural.labels != flipped.labels
    test = held_out(natural, run.data, run.training.seed)
    assert (changed == (~test & (natural.records["site"] == "harbour").to_numpy())).all()


def test_who_is_away_follows_from_site_round_and_seed() -> None:
    scenario = Scenario(join={"a": 3}, drop={"b": 2}, unreachable=0.0)
    assert absent_rounds(scenario, "a", 4, 0) == [1, 2]
    assert absent_rounds(scenario, "b", 4, 0) == [2, 3, 4]
    assert absent_rounds(scenario, "c", 4, 0) == []
    often = Scenario(unreachable=0.5)
    assert absent_rounds(often, "a", 400, 0) != absent_rounds(often, "a", 400, 1)
    assert 150 < len(absent_rounds(often, "a", 400, 0)) < 250


def test_what_malicious_sites_send() -> None:
    update = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert otherwise("sign-flip", 2.0, update, 0)["b"].item() == -8
    assert otherwise("scale", 2.0, update, 0)["a"].tolist() == [6, 0]
    noise = torch.cat([v.flatten() for v in otherwise("free-rider", 2.0, update, 0).values()])
    assert noise.norm().item() == pytest.approx(10, rel=1e-5) and noise[1] != 0
    assert not any(value.any() for value in otherwise("free-rider", 0.0, update, 0).values())


def test_a_private_run_with_a_late_a_leaving_and_a_malicious_site(hospitals: Path, tmp_path: Path) -> None:
    run, folder = config(hospitals), tmp_path / "run"
    scenario = Scenario(
        split="iid",
        sites=3,
        join={"site-1": 2},
        drop={"site-2": 2},
        malicious=({"sites": ("site-3",), "kind": "sign-flip"},),
    )
    found = evaluated_trial(run, folder, 0, scenario)
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    refused = [[line["refused"] for line in one["train"] if "refused" in line] for one in records]
    assert refused == [["expired"], ["expired"]] and all(one["changed"] for one in records)
    answered = [{line["site"] for line in one["train"] if "refused" not in line} for one in records]
    assert answered == [{"site-2", "site-3"}, {"site-1", "site-3"}]
    report = json.loads((folder / "report" / "privacy.json").read_text())
    spent = {site["site"]: len(site["course"]) for site in report["sites"]}
    assert spent == {"site-1": 1, "site-2": 1, "site-3": 2}  # who is away is charged nothing
    assert kept_scenario(folder) == scenario and resolve(folder / "config.toml").config == run
    table = kept_table(folder)
    assert table is not None and set(found["auroc"]["sites"]) <= set(pd.read_csv(table)["site"])


def test_the_command_refuses_before_it_writes(mmmed: Command, hospitals: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = mmmed("simulate", "--scenario", "nowhere", "--data", hospitals, "--out", out)
    assert code == 2 and "mmmed simulate scenarios" in err and not out.exists()
    assert mmmed("simulate", "--set", "scenario.alpha=1", "--data", hospitals, "--out", out)[0] == 2
    code, text, _ = mmmed("simulate", "scenarios")
    assert code == 0 and all(name in text for name in scenario_files())
    assert mmmed("simulate", "--rounds", "2", "scenarios")[0] == 2


def test_a_run_remembers_its_scenario_without_a_table_where_data_are_as_they_were(
    hospitals: Path, tmp_path: Path
) -> None:
    run, scenario = config(hospitals), read_scenario("natural", {"unreachable": 0.5})
    with dealt(scenario, run) as table:
        assert table is None
        for name, content in kept_files(scenario, table).items():
            (tmp_path / name).write_bytes(content)
    assert kept_table(tmp_path) is None and kept_scenario(tmp_path) == scenario
    assert "table" not in node_settings(scenario, "harbour", None, run)
    assert node_settings(None, "harbour", None, run) == {}
