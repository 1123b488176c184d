from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmed.config import RunConfig, from_flat, resolve, to_flat, to_toml
from mmmed.config.keys import known_keys
from mmmed.config.sources import flat_from_json, to_json
from mmmed.errors import ConfigError

changed = st.builds(
    lambda eps, rounds, classes, where, augment, numbers: RunConfig.model_validate(
        {
            "task": {"classes": classes},
            "data": {"where": where, "numbers": numbers, "volume_window": next(iter(numbers.values()), ())},
            "training": {"augment": augment},
            "privacy": {"target_epsilon": eps},
            "federation": {"rounds": rounds},
        }
    ),
    st.floats(1e-6, 1e6),
    st.integers(1, 10_000),
    st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True).map(tuple),
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(st.integers(-5, 5), st.text(max_size=5), st.tuples(st.text(max_size=3), st.integers(0, 9))),
        max_size=3,
    ),
    st.booleans(),
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "finding"),
        st.tuples(st.integers(-1000, 0).map(float), st.floats(1, 1e6)),
        max_size=3,
    ),
)


@given(changed)
def test_the_tree_survives_every_form_it_travels_in(config: RunConfig) -> None:
    assert from_flat(to_flat(config)) == config
    assert from_flat(flat_from_json(to_json(config))) == config
    assert RunConfig.model_validate(tomllib.loads(to_toml(config))) == config


def test_the_flat_form_is_what_flower_can_carry() -> None:
    assert set(to_flat(RunConfig())) == set(known_keys({}))
    assert all(isinstance(value, bool | int | float | str) for value in to_flat(RunConfig()).values())


def test_later_sources_win_and_are_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[privacy]\ntarget_epsilon = 2.0\ndelta = 1e-4\n[federation]\nrounds = 9\n")
    resolved = resolve(file, ["privacy.target_epsilon=4"], {"federation.rounds": 5, "training.seed": None})
    assert resolved.config.privacy.target_epsilon == 4
    assert resolved.config.privacy.delta == 1e-4
    assert resolved.config.federation.rounds == 5
    assert resolved.sources["privacy.target_epsilon"] == "--set"
    assert resolved.sources["privacy.delta"] == str(file)
    assert resolved.sources["federation.rounds"] == "command line"
    assert resolved.sources["training.seed"] == "default"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("model.image=resnet18", "resnet18"),
        ('model.image="resnet18"', "resnet18"),
    ],
)
def test_a_bare_word_is_text(assignment: str, expected: str) -> None:
    assert resolve(assignments=[assignment]).config.model.image == expected


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("privacy.epsilon=3", ["privacy.epsilon", "privacy.target_epsilon"]),
        ("target_epsilon=3", ["privacy.target_epsilon"]),
        ("federaton.rounds=3", ["federation.rounds"]),
        ("privacy.target_epsilon=0", ["privacy.target_epsilon", "greater than 0", "0"]),
        ("privacy.target_epsilon=-1", ["privacy.target_epsilon"]),
        ("privacy.target_epsilon=inf", ["privacy.target_epsilon", "finite"]),
        ("privacy.delta=1", ["privacy.delta", "less than 1"]),
        ("model.image=resnet50", ["model.image", "resnet50", "resnet18"]),
        ("model.fusion.heads=5", ["model.fusion", "width", "64", "5"]),
        ("task.classes=['a']", ["classes", "two"]),
        ("data.volume_window=[400, -1000]", ["volume_window", "[low, high]", "-1000"]),
        ("data.volume_window=[400]", ["volume_window", "[low, high]"]),
        ("data.numbers={age=[90, 0]}", ["numbers.age", "[low, high]"]),
        ("data.numbers={age=[0, inf]}", ["numbers.age", "[low, high]"]),
        ("data.numbers={age=[0]}", ["data.numbers"]),
        ("data.categories={sex=['F']}", ["categories.sex", "two or more"]),
        ("data.numbers={finding=[0, 1]}", ["'finding'", "task", "input"]),
        ("data.text=finding", ["'finding'", "task", "input"]),
        ("data.image=''", []),
        ("rounds", ["section.key=value"]),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(assignment: str, words: list[str]) -> None:
    if not words:
        resolve(assignments=[assignment])  # text alone is enough to learn from
        with pytest.raises(ConfigError, match="at least one"):
            resolve(assignments=[assignment, "data.text=''"])
        return
    with pytest.raises(ConfigError) as caught:
        resolve(assignments=[assignment])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_key_in_a_file_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nbatchsize = 3\n")
    with pytest.raises(
        ConfigError, match=r"run\.toml: unknown key 'training\.batchsize'.*training\.batch_size"
    ):
        resolve(file)


@pytest.mark.parametrize("content", [b"[task", b"\xff\xfe\x00", b"task = 3"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml"):
        resolve(file)
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        resolve(tmp_path / "absent.toml")


@pytest.mark.parametrize("text", ["[1]", "{", '{"a.b": 1}', '{"task.classes": "[1"}'])
def test_a_run_config_from_the_wire_is_checked(text: str) -> None:
    with pytest.raises(ConfigError):
        from_flat(flat_from_json(text))


def test_the_tree_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().privacy.target_epsilon = 3
