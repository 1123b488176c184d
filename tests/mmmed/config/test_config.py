from __future__ import annotations

import copy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mmmed.models
from mmmed.cli import app
from mmmed.config import RunConfig, from_flat, resolve, to_flat, to_toml
from mmmed.config.keys import known_keys
from mmmed.config.renamed import RENAMED
from mmmed.config.sources import _ELSEWHERE, flat_from_json, to_json
from mmmed.errors import ConfigError
from mmmed.federation.aggregation import MultiKrum, TrimmedMean
from mmmed.federation.strategies import FedAdam
from mmmed.modalities.image import ImageData
from mmmed.modalities.text import TextData, TextModel
from mmmed.models.fusion import Attention, Linear

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
        ("model.image=resnet34", ["model.image", "resnet34", "resnet18"]),
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


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("task.type", r"Did you mean 'task\.kind'\?"),
        ("federation.strategy.type", r"Did you mean 'federation\.strategy\.kind'\?"),
        ("data.ecg", r"'data\.waveform'"),
        ("data.cine", r"'data\.video'"),
        ("model.encoder", r"'model\.image' or 'model\.text'"),
        ("training.lr", r"'training\.learning_rate'"),
        ("privacy.noise_multiplier", r"follows from privacy\.target_epsilon"),
        ("training.rounds", r"Did you mean 'federation\.rounds'\?"),
        ("training.xyzzy", r"\[training\] has: batch_size, "),
        ("xyzzy", "mmmed config show"),
    ],
)
def test_an_unknown_key_leads_to_the_right_one_and_never_astray(key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key '{key}'.*{hint}"):
        resolve(assignments=[f"{key}=1"])


def test_a_run_of_masked_steps_can_be_had_without_privacy(tmp_path: Path) -> None:
    file, steps = tmp_path / "run.toml", '[federation]\nrelease = "secure-steps"\nhonest = 1\n'
    file.write_text(f'{steps}[training]\noptimizer = "sgd"\nlearning_rate = 1.0\n')
    assert resolve(file).config.federation.release == "secure-steps"
    for asked in ({"options": {"privacy.enabled": False}}, {"assignments": ["privacy.enabled=false"]}):
        plain = resolve(file, **asked)  # type: ignore[arg-type]
        assert plain.config.federation.release == "steps"
        assert plain.sources["federation.release"].endswith("without privacy")
    file.write_text(f"{file.read_text()}[privacy]\nenabled = false\n")
    with pytest.raises(ConfigError, match='"steps" gives the same sum'):
        resolve(file)


def test_every_key_that_others_call_otherwise_is_one_of_ours() -> None:
    assert {key for keys in _ELSEWHERE.values() for key in keys} <= known_keys().keys()
    with pytest.raises(ConfigError, match=r"no 'fedprox'.*training\.proximal_mu"):
        resolve(assignments=["federation.strategy.kind=fedprox"])


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


OLD = """
[model]
fusion = "linear"
fusion_dim = 32
fusion_heads = 2
dropout = 0.1
[federation]
strategy = "fedadam"
server_learning_rate = 0.0
aggregation = "trimmed-mean"
hostile_sites = 1
min_sites = 4
"""


def test_keys_of_an_earlier_version_are_read_and_their_names_of_today_told(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(OLD)
    resolved = resolve(file)
    assert resolved.config.model.fusion == Linear()  # the keys of attention said nothing then either
    assert resolved.config.model.text_dropout == 0.1
    assert resolved.config.federation.strategy == FedAdam()  # 0 meant: the strategy's own
    assert resolved.config.federation.aggregation == TrimmedMean(hostile_sites=1)
    assert resolved.renamed["model.fusion"] == "model.fusion.kind"
    assert resolved.renamed["model.dropout"] == "model.text_dropout and model.fusion.dropout"
    assert set(resolved.renamed) <= set(RENAMED) and len(resolved.renamed) == 8
    assert resolved.sources["model.fusion.kind"] == str(file)
    flat = {
        f"{section}.{key}": value
        for section, keys in tomllib.loads(OLD).items()
        for key, value in keys.items()
    }
    assert from_flat(flat) == resolved.config
    assert from_flat(flat | {"model.fusion": "attention"}).model.fusion == Attention(
        width=32, heads=2, dropout=0.1
    )
    assert not resolve(None, ["model.fusion.width=16"]).renamed


def test_what_an_earlier_version_refused_is_not_passed_over() -> None:
    with pytest.raises(ConfigError, match="'mean', which has no key 'hostile_sites'"):
        resolve(None, ["federation.hostile_sites=1"])


def test_old_and_new_names_that_disagree_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[model]\nfusion_dim = 32\nfusion.width = 64\n")
    with pytest.raises(ConfigError, match=r"run\.toml: model\.fusion_dim = 32 and model\.fusion\.width = 64"):
        resolve(file)
    file.write_text("[model]\nfusion_dim = 32\n")  # that of a later source wins, as ever
    assert resolve(file, ["model.fusion.width=64"]).config.model.fusion == Attention(width=64)
    file.write_text("[model.fusion]\nwidth = 64\n")
    assert resolve(file, ["model.fusion_dim=32"]).config.model.fusion == Attention(width=32)


def test_every_key_of_an_earlier_version_has_a_name_of_today() -> None:
    assert {new for names in RENAMED.values() for new in names} <= set(known_keys())
    assert not set(RENAMED) & set(known_keys())


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["model.fusion.kind=linear", "model.fusion.heads=2"], ["'linear'", "'heads'", "keys: centring_steps"]),
        (["federation.strategy.momentum=0.5"], ["'fedavg'", "'momentum'", "Its keys: server_learning_rate"]),
        (["model.fusion.kind=linaer"], ["model.fusion.kind", "'attention' or 'linear'", "'linaer'"]),
        (["model.fusion=3"], ["model.fusion.kind", "3"]),
        (["model.fusion.hads=2"], ["model.fusion.hads", "model.fusion.heads"]),
        (["federation.aggregation={kind='multi-krum', hostile_sites=1}"], ["hostile_sites = 1", "at least 5", "2"]),
        (["federation.strategy.kind=scaffold"], ["'scaffold'", "training.optimizer", "'adam'"]),
        (["federation.strategy.kind=scaffold", "federation.site_noise_multiplier=1"], ["site_noise", "'scaffold'"]),
    ],
)  # fmt: skip
def test_a_key_must_be_of_the_chosen_kind(assignments: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, assignments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_another_kind_drops_what_an_earlier_source_said_for_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[model.fusion]\nwidth = 32\n[federation.aggregation]\nkind = "trimmed-mean"\nhostile_sites = 1\n'
        "[federation]\nmin_sites = 5\n"
    )
    resolved = resolve(file, ["model.fusion.kind=linear", "federation.aggregation.kind=multi-krum"])
    assert resolved.config.model.fusion == Linear()
    assert resolved.config.federation.aggregation == MultiKrum(hostile_sites=1)  # a key of both
    assert "model.fusion.width" not in resolved.sources


def test_show_prints_what_applies_and_says_how_old_keys_are_written_now() -> None:
    shown = CliRunner().invoke(app, ["config", "show", "--set", "model.fusion=linear"])
    assert shown.exit_code == 0
    assert "model.fusion.kind" in shown.stdout and "model.fusion.width" not in shown.stdout
    assert shown.stderr == "note: keys of an earlier version: model.fusion is now model.fusion.kind\n"
    assert CliRunner().invoke(app, ["config", "show"]).stderr == ""


@given(changed)
def test_equal_trees_have_one_hash_and_one_digest(config: RunConfig) -> None:
    again = from_flat(to_flat(config))
    assert hash(again) == hash(config) and again.digest == config.digest
    seed = config.training.model_copy(update={"seed": 7})
    assert config.model_copy(update={"training": seed}).digest != config.digest
    assert copy.deepcopy(config) == config


def test_the_mappings_in_the_tree_are_frozen_in_copies_as_well() -> None:
    data = RunConfig().data.model_copy(update={"where": {"a": 1}})
    assert isinstance(hash(data), int)
    for change in (lambda: data.where.update(b=2), lambda: data.where.__setitem__("a", 2), data.where.clear):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()


def test_a_composed_section_is_each_of_its_parts_and_no_other() -> None:
    config = RunConfig()
    assert config.data.of(TextData) is config.data and config.model.of(TextModel) is config.model
    assert config.model_copy(update={"data": copy.deepcopy(config.data)}).data.of(ImageData).image_size == 64
    with pytest.raises(TypeError, match=r"ModelConfig is composed of .*TextModel.* Found TextData"):
        config.model.of(TextData)


def test_the_configuration_needs_no_torch() -> None:
    """Whatever a command reads of a configuration, it does not pay for importing torch."""
    script = """
import sys, types
package = types.ModuleType("mmmed"); package.__path__ = [sys.argv[1]]; sys.modules["mmmed"] = package
from mmmed.config import from_flat, resolve, to_flat
from mmmed.config.keys import describe
describe(from_flat(to_flat(resolve(None, ["model.fusion.kind=linear"]).config)))
print(sorted({"torch", "numpy", "flwr"} & set(sys.modules)))
"""
    folder = str(Path(mmmed.__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_the_models_package_names_is_there() -> None:
    assert all(getattr(mmmed.models, name) is not None for name in mmmed.models.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        mmmed.models.no_such  # noqa: B018


def test_an_engine_whose_bound_can_be_broken_by_chosen_parameters_is_not_offered() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.engine: .*'bookkeeping' or 'hooks'.*'ghost'"):
        resolve(None, ["privacy.engine=ghost"])


VALUES = ["data.image=", "data.text=", "data.numbers={age=[0, 90]}"]


def test_a_table_alone_has_a_linear_fusion_unless_one_is_named(tmp_path: Path) -> None:
    resolved = resolve(None, VALUES)
    assert resolved.config.model.fusion == Linear()
    assert resolved.sources["model.fusion.kind"] == "default of a table alone"
    assert resolve(None, VALUES[1:]).config.model.fusion == Attention()  # with images
    assert resolve(None, [*VALUES, "model.fusion.kind=attention"]).config.model.fusion == Attention()
    assert resolve(None, [*VALUES, "model.fusion.width=16"]).config.model.fusion == Attention(width=16)
    file = tmp_path / "run.toml"
    file.write_text("[model]\nfusion_dim = 32\n")  # of an earlier version, which had attention here
    assert resolve(file, VALUES).config.model.fusion == Attention(width=32)


def test_what_was_begun_with_attention_keeps_it(tmp_path: Path) -> None:
    begun = resolve(None, [*VALUES, "model.fusion.kind=attention"]).config
    file = tmp_path / "config.toml"
    file.write_text(to_toml(begun))
    assert resolve(file).config == begun == from_flat(to_flat(begun))
    assert resolve(file).config.digest == begun.digest
