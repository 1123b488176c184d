"""Aggregation rules against their definitions, and what a hostile or broken minority can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import MultiKrum
from safetensors import safe_open
from safetensors.numpy import save_file

from mmmed.config import from_flat
from mmmed.errors import ConfigError
from mmmed.federation.aggregation import AGGREGATIONS, Aggregation, Mean
from mmmed.federation.strategies.scaffold import next_control
from privacy.noise import lattice_step
from server.checkpoint import Arrays
from server.replies import Answer
from server.site_level import SiteLevel
from server.update_store import OUTLIER, ByRule, Update, UpdateStore, screen
from simulations.grid import InProcessGrid
from tests import standin
from tests.server.test_loop import config, run, same

pytestmark = pytest.mark.usefixtures("server_identity")

LIKE: Arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float32)}


@pytest.fixture(scope="module")
def server_identity() -> None:
    """Flower's messages know their sender from the grid."""
    InProcessGrid("tests.standin:app", [{}]).close()


def spooled(folder: Path, each: list[Arrays], **about: object) -> list[Update]:
    spool = UpdateStore(folder, 1, LIKE)
    for node, arrays in enumerate(each):
        answer = Answer(node, 0.0, f"site-{node}", weight=1.0, arrays=arrays)
        spool.add(replace(answer, **about))  # type: ignore[arg-type]
    return spool.updates


def random(count: int, seed: int = 0) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    return [
        {k: np.asarray(rng.normal(size=v.shape), np.float32) for k, v in LIKE.items()} for _ in range(count)
    ]


def flowers_krum(each: list[Arrays], hostile: int) -> Arrays:
    strategy = MultiKrum(
        num_malicious_nodes=hostile, num_nodes_to_select=len(each) - hostile, weighted_by_key="weight"
    )
    replies = []
    for arrays in each:
        record = ArrayRecord({key: Array(value) for key, value in arrays.items()})
        content = RecordDict({"arrays": record, "metrics": MetricRecord({"weight": 1.0})})
        replies.append(Message(content, 0, MessageType.TRAIN))
    chosen, _ = strategy.aggregate_train(1, replies)
    assert chosen is not None
    return {key: np.asarray(array.numpy(), np.float32) for key, array in chosen.items()}


def robust(rule: str, hostile: int) -> Aggregation:
    """The rule, told of so many hostile sites if it takes their number."""
    section = AGGREGATIONS.sections[rule]
    told = {"hostile_sites": hostile} if "hostile_sites" in section.model_fields else {}
    return section.model_validate(told)  # type: ignore[return-value]


def expected(each: list[Arrays], rule: str, hostile: int) -> Arrays:
    stacks = {key: np.sort(np.stack([one[key] for one in each]), axis=0) for key in LIKE}
    if rule == "median":
        return {key: np.median(stack, axis=0) for key, stack in stacks.items()}
    if rule == "multi-krum":
        return flowers_krum(each, hostile)
    cut = hostile if rule == "trimmed-mean" else 0
    return {key: stack[cut : len(each) - cut].mean(0) for key, stack in stacks.items()}


@pytest.mark.parametrize("rule", AGGREGATIONS.sections)
@pytest.mark.parametrize(("count", "hostile"), [(3, 0), (5, 1), (7, 2), (10, 3)])
def test_each_rule_is_its_definition(tmp_path: Path, rule: str, count: int, hostile: int) -> None:
    each = random(count)
    assert count >= robust(rule, hostile).least_updates
    found = robust(rule, hostile).combine(spooled(tmp_path, each))
    same(found, {k: np.asarray(v, np.float32) for k, v in expected(each, rule, hostile).items()}, 1e-5)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_a_hostile_minority_cannot_steer_a_robust_rule(tmp_path: Path, rule: str) -> None:
    honest = random(5)
    bad = [{key: np.full_like(value, 1e3) for key, value in LIKE.items()}] * 2
    updates = spooled(tmp_path, honest + bad)
    found = robust(rule, 2).combine(updates)
    largest = max(float(np.abs(value).max()) for one in honest for value in one.values())
    assert all(np.abs(value).max() <= largest for value in found.values())
    assert all(np.abs(value).max() > 100 for value in Mean().combine(updates).values())


def test_the_mean_follows_the_weights(tmp_path: Path) -> None:
    each = random(2)
    light, full = (spooled(tmp_path / str(w), each, weight=w) for w in (0.25, 1.0))
    found = Mean().combine([light[0], full[1]])
    same(found, {k: np.asarray(0.2 * each[0][k] + 0.8 * each[1][k], np.float32) for k in LIKE}, 1e-6)


def test_outliers_are_refused_and_large_updates_scaled(tmp_path: Path) -> None:
    each = random(4)
    each[1] = {key: value * 5 for key, value in each[1].items()}
    each[2] = {key: value * 10 * OUTLIER for key, value in each[2].items()}
    updates = spooled(tmp_path, each)
    kept, outliers = screen(updates, max_norm=1.0)
    assert outliers == {2} and [one.answer.node for one in kept] == [0, 1, 3]
    for one in kept:
        squares = sum(float(np.square(one.tensor(key)).sum()) for key in LIKE)
        assert np.sqrt(squares) == pytest.approx(min(1.0, updates[one.answer.node].norm), rel=1e-5)
        assert one.norm == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert screen(updates[:2], 0.0) == (updates[:2], set())  # two cannot tell who of them is wrong


def test_a_thousandfold_update_costs_only_itself_and_its_spending_stays_on_record(tmp_path: Path) -> None:
    sites: list[dict[str, object]] = [{}, {}, {}, {"behaviour": "outlier"}]
    final, (record,) = run(tmp_path / "run", sites, config(rounds=1))
    same(final, standin.averaged(standin.initial(), 1, [0, 1, 2]))
    told = record["train"][3]
    assert told["refused"] == "norm-outlier" and told["released"]["epsilon"] == 1.5


def moved(tmp_path: Path, hostile: float, **keys: object) -> tuple[float, float]:
    """Cosine and norm of a round with one of five sites hostile, against the mean of the four alone."""
    honest = [{"a": one["a"] + 3, "b": one["b"]} for one in random(4)]
    mean = {key: np.mean([one[key] for one in honest], axis=0) for key in LIKE}
    bad = {key: np.asarray(value * hostile, np.float32) for key, value in mean.items()}
    rule = ByRule(config(**keys).federation)
    kept, _ = rule.choose(spooled(tmp_path, [*honest, bad]))
    found, expected = (
        np.concatenate([np.ravel(one[key]) for key in LIKE]) for one in (rule.combine(kept, 5), mean)
    )
    length = np.linalg.norm(found)
    return found @ expected / (length * np.linalg.norm(expected)), length / np.linalg.norm(expected)


@pytest.mark.parametrize("hostile", [90.0, -90.0, -1.0])
def test_no_single_site_turns_a_round_by_default(tmp_path: Path, hostile: float) -> None:
    cosine, norm = moved(tmp_path, hostile, max_update_norm=0.0)
    assert cosine > 0.9 and 0.3 < norm < 1.3
    if hostile == -90:
        assert moved(tmp_path / "unbounded", hostile, max_update_norm=1e9)[0] < 0  # what it is there for


def test_masked_sums_and_steps_and_robust_rules_are_as_they_were(tmp_path: Path) -> None:
    each = random(3)
    each[2] = {key: value * 9 for key, value in each[2].items()}
    updates = spooled(tmp_path, each)
    plain = {"training.optimizer": "sgd", "federation.release": "steps"}
    for federation in (
        from_flat(plain).federation,
        config(max_update_norm=0.0, aggregation__kind="median").federation,
    ):
        assert ByRule(federation).choose(updates) == (updates, set())
    bounded, _ = ByRule(config(max_update_norm=0.0).federation).choose(updates)
    middle = sorted(one.norm for one in updates)[1]
    assert [one.norm for one in bounded] == pytest.approx([min(one.norm, middle) for one in updates])
    assert ByRule(config(max_update_norm=0.0).federation).choose(updates[1:]) == (updates[1:], set())


@pytest.mark.parametrize("fault", ["outlier", "nan", "refuse"])
@pytest.mark.parametrize("rule", ["trimmed-mean", "multi-krum"])
def test_a_rule_that_lost_a_site_goes_on_with_the_strongest_that_is_left(
    tmp_path: Path, rule: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    sites: list[dict[str, object]] = [*4 * [{}], {"behaviour": fault}]
    agreed = config(rounds=1, aggregation__kind=rule, aggregation__hostile_sites=1, min_sites=5)
    final, (record,) = run(tmp_path / "run", sites, agreed)
    assert record["changed"] and "refused" in record["train"][4]
    assert record.get("aggregation") == ("trimmed-mean" if rule == "multi-krum" else None)
    assert ("multi-krum needs 5: combined by trimmed-mean" in caplog.text) == (rule == "multi-krum")
    honest = [standin.averaged(standin.initial(), 1, [i]) for i in range(4)]
    for key, value in final.items():
        stack = np.stack([one[key] for one in honest])
        assert (value >= stack.min(0) - 1e-5).all() and (value <= stack.max(0) + 1e-5).all()


def test_a_rule_falls_back_step_by_step() -> None:
    krum = robust("multi-krum", 1)
    assert [krum.for_updates(n).kind for n in (5, 4, 3, 2)] == [
        "multi-krum",
        "trimmed-mean",
        "trimmed-mean",
        "median",
    ]
    assert Mean().for_updates(1) == Mean()


@pytest.mark.parametrize("rule", ["trimmed-mean", "multi-krum"])
def test_a_run_withstands_the_hostile_sites_it_was_set_up_for(tmp_path: Path, rule: str) -> None:
    sites: list[dict[str, object]] = [*4 * [{}], {"behaviour": "hostile"}]
    agreed = config(rounds=2, aggregation__kind=rule, aggregation__hostile_sites=1, min_sites=5)
    final, rounds = run(tmp_path / "run", sites, agreed)
    assert all(one["changed"] for one in rounds)
    honest = [standin.averaged(standin.initial(), 2, [i]) for i in range(4)]
    for key, value in final.items():
        stack = np.stack([one[key] for one in honest])
        assert (value >= stack.min(0) - 1e-5).all() and (value <= stack.max(0) + 1e-5).all()


def test_too_few_sites_for_the_rule_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="min_sites of at least 5"):
        config(aggregation__kind="multi-krum", aggregation__hostile_sites=1)
    with pytest.raises(ConfigError, match="'mean', which has no key 'hostile_sites'"):
        config(aggregation__hostile_sites=1)


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_a_run_over_a_narrow_wire_ends_near_the_wide_one(tmp_path: Path, wire: str) -> None:
    final, rounds = run(tmp_path / "run", [{}, {}], config(rounds=3, wire=wire))
    wide = standin.averaged(standin.initial(), 3, [0, 1])
    same(final, wide, 0.02)
    assert any(np.abs(final[key] - wide[key]).max() > 0 for key in wide)
    assert all(line["bytes_up"] > 0 and line["bytes_down"] > 0 for line in rounds[0]["train"])


def test_the_servers_control_is_the_mean_of_the_sites_controls(tmp_path: Path) -> None:
    """Against algorithm 1 of Karimireddy et al., option II, with every site's control kept by hand."""
    sites, steps, rate = 3, [2, 5, 7], 0.1
    control: Arrays = {key: np.zeros_like(value) for key, value in LIKE.items()}
    own = [dict(control) for _ in range(sites)]
    for server_round in range(4):
        each = random(sites, server_round)
        taking_part = [0, 1, 2] if server_round != 2 else [0, 2]
        for i in taking_part:
            own[i] = {k: own[i][k] - control[k] - each[i][k] / (steps[i] * rate) for k in LIKE}
        folder = tmp_path / str(server_round)
        updates = [
            spooled(folder / str(i), [each[i]], metrics={"local-steps": float(steps[i])})[0]
            for i in taking_part
        ]
        control = next_control(control, updates, asked=sites, learning_rate=rate)
        same(
            control, {k: np.asarray(np.mean([one[k] for one in own], axis=0), np.float32) for k in LIKE}, 1e-5
        )


def test_site_level_noise_has_the_stated_size_and_clips_every_site(tmp_path: Path) -> None:
    federation = config(site_noise_multiplier=2.0, site_max_norm=0.5).federation
    huge = [{key: np.full_like(value, 1e4) for key, value in LIKE.items()}]
    updates = spooled(tmp_path, random(3) + huge)
    draws, norms = [], []
    for _ in range(400):
        level = SiteLevel(federation)
        found = level.combine(updates, asked=4)
        draws.append(np.concatenate([value.ravel() for value in found.values()]))
        norms.append(level.max_norm)
    clipped = [{k: one.tensor(k) * min(1.0, 0.5 / one.norm) for k in LIKE} for one in updates]
    mean = np.concatenate([np.mean([one[k] for one in clipped], axis=0).ravel() for k in LIKE])
    std = 2.0 / np.sqrt(0.9) * 0.5 / 4
    assert np.abs(np.mean(draws, axis=0) - mean).max() < 5 * std / 20
    assert np.std(draws, axis=0) == pytest.approx(std, rel=0.15)
    assert np.mean(norms) > 0.5  # all updates are larger than the norm, so it grows
    stated = level.statement(3)["site_level"]
    assert stated["unit"] == "site" and stated["epsilon"] > 0


def test_the_count_that_moves_the_norm_is_released_on_the_lattice_of_its_noise(tmp_path: Path) -> None:
    federation = config(site_noise_multiplier=1.7, site_max_norm=1.0).federation
    updates = spooled(tmp_path, random(3))
    std = 1.7 / np.sqrt(0.1) / 2
    counts = []
    for _ in range(300):
        level = SiteLevel(federation)
        level.combine(updates, asked=3)
        counts.append(-np.log(level.max_norm) / 0.2 * 3)  # the norm was 1: what it became tells the count
    steps = np.array(counts) / lattice_step(std)
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    below = sum((one.norm <= 1.0) - 0.5 for one in updates)
    assert np.mean(counts) == pytest.approx(below, abs=5 * std / np.sqrt(300))
    assert np.std(counts) == pytest.approx(std, rel=0.2)


def test_site_level_runs_state_their_epsilon_and_resume_with_their_norm(tmp_path: Path) -> None:
    agreed = config(rounds=3, site_noise_multiplier=1.0)
    _, rounds = run(tmp_path / "run", [{}, {}, {}], agreed)
    stated = [one["site_level"]["epsilon"] for one in rounds]
    assert stated == sorted(stated) and stated[0] > 0
    with pytest.raises(ConfigError, match="Found 'median'"):
        config(site_noise_multiplier=1.0, aggregation__kind="median")


def test_an_update_that_an_earlier_version_stored_is_not_asked_again(tmp_path: Path) -> None:
    update = spooled(tmp_path, random(1))[0]
    with safe_open(update.path, framework="numpy") as stored:
        about = json.loads(stored.metadata()["about"])
    tensors = {key: update.tensor(key) for key in LIKE}
    save_file(tensors, update.path, {"about": json.dumps(about | {"arrays": {}, "tables": None})})
    (again,) = UpdateStore(tmp_path, 1, LIKE).updates
    assert again == update
