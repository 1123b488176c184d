"""Read a RunConfig from TOML, ``--set`` assignments and Flower's flat run config; tell where each value came from.

Precedence, lowest first: defaults, TOML file, command line. The flat form (``section.key`` to scalar) is what
Flower carries: it allows no lists or tables, so those travel as JSON text.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mmmed.config.keys import flatten, holds_many, known_keys, nest, parts
from mmmed.config.renamed import RENAMED, renew
from mmmed.config.schema import RunConfig, Scalar
from mmmed.errors import ConfigError
from mmmed.modalities import MODALITIES

DEFAULT = "default"
_OF_VALUES = "default of a table alone"


@dataclass(frozen=True)
class ResolvedConfig:
    """A RunConfig, and how it came about.

    Attributes:
        config: the configuration.
        sources: for each key that applies, the source that set it.
        renamed: keys that were given by a name of earlier versions, and their names of today.
    """

    config: RunConfig
    sources: Mapping[str, str]
    renamed: Mapping[str, str]


_RESAMPLING = re.compile(r"resampl|oversampl|undersampl|balance")

# What others call a key, by the last part of its name; and what there is no key for.
_ELSEWHERE = {
    name: keys
    for keys, names in (
        (["task.label"], "label_column target"),
        (["task.classes"], "num_classes"),
        (["data.waveform"], "ecg eeg signal"),
        (["data.audio"], "sound"),
        (["data.text"], "note report"),
        (["data.volume"], "ct mri scan"),
        (["data.video"], "cine clip frames"),
        (["data.numbers", "data.categories"], "tabular table_columns"),
        (["model.image", "model.text"], "encoder backbone"),
        (["training.learning_rate"], "lr"),
        (["training.local_epochs"], "epochs"),
        (["training.proximal_mu"], "mu fedprox"),
        (["privacy.target_epsilon"], "epsilon eps"),
        (["privacy.max_grad_norm"], "clip clipping_norm max_norm"),
        (["federation.rounds"], "num_rounds"),
        (["federation.min_sites"], "min_clients"),
        (["federation.aggregation.kind"], "aggregator"),
    )
    for name in names.split()
}
_NOWHERE = {
    "noise_multiplier": "the noise follows from privacy.target_epsilon, privacy.delta and the steps",
}


def _unknown(key: str, source: str) -> ConfigError:
    if _RESAMPLING.search(key):
        return ConfigError(
            f"{source}: unknown key '{key}': patients are not resampled by label, since under differential privacy the "
            "chance to draw a patient must be public and must not follow from labels. Weigh the loss with "
            "task.weights or task.focal"
        )
    keys, (section, _, last) = list(known_keys()), key.rpartition(".")
    if last in _NOWHERE:
        return ConfigError(f"{source}: unknown key '{key}': {_NOWHERE[last]}")
    same = [
        one for one in keys if one.rpartition(".")[2] == last
    ]  # the section may be wrong and the key right
    kind = [f"{section}.kind"] if last == "type" and f"{section}.kind" in keys else []
    near = kind or _ELSEWHERE.get(last, [])
    near = near or difflib.get_close_matches(key, keys, n=1, cutoff=0.75) or same[:1]
    own = [one.removeprefix(f"{section}.") for one in keys if section and one.startswith(f"{section}.")]
    if near:
        hint = f"Did you mean {' or '.join(map(repr, near))}?"
    elif own:
        hint = f"[{section}] has: {', '.join(own)}"
    else:
        hint = "`mmmed config show` lists the valid keys"
    return ConfigError(f"{source}: unknown key '{key}'. {hint}")


class _Merge:
    """Values from several sources by dotted key; a later one wins."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.renamed: dict[str, str] = {}

    def put(self, tree: Mapping[str, Any], source: str) -> None:
        """Take what a source gives: a tree, or values by dotted key.

        Raises:
            ConfigError: a key is unknown, or a section is no table.
        """
        given = flatten(tree)
        self.renamed |= {key: " and ".join(RENAMED[key]) for key in given if key in RENAMED}
        values, keys = renew(given, self.values, source), known_keys()
        for key, value in values.items():
            if key in RunConfig.model_fields and not isinstance(value, Mapping):
                raise ConfigError(f"{source}: '{key}' must be a table [{key}]. Found {value!r}")
            if key not in keys:
                raise _unknown(key, source)
        for part, kinds in parts().items():
            if f"{part}.kind" in values:
                own = kinds.of(values[f"{part}.kind"]).model_fields
                self._forget(part, own)
        self.values |= values
        self.sources |= dict.fromkeys(values, source)

    def _forget(self, part: str, own: Container[str]) -> None:
        """Forget the keys of a part that were for another kind than a later source chooses."""
        for key in [key for key in self.values if key.startswith(f"{part}.")]:
            if key.removeprefix(f"{part}.") not in own:
                del self.values[key], self.sources[key]

    def resolved(self) -> ResolvedConfig:
        """Validate.

        Raises:
            ConfigError: a value is invalid, or a key is not of the chosen kind.
        """
        try:
            config = RunConfig.model_validate(nest(self.values))
        except ValidationError as error:
            problems = (self._told(problem) for problem in error.errors())
            raise ConfigError("\n".join(dict.fromkeys(problems))) from error
        sources = {key: self.sources.get(key, DEFAULT) for key in known_keys(self.values)}
        return ResolvedConfig(config, sources, self.renamed)

    def _told(self, problem: ErrorDetails) -> str:
        """What is wrong in one line: the source, the key, what was expected and what was found."""
        place = [str(part) for part in problem["loc"]]
        names = [".".join(place[:length]) for length in range(len(place), 0, -1)]
        key = next((name for name in names if name in self.values), ".".join(place[:2]))
        below = (source for one, source in self.sources.items() if one.startswith(f"{key}."))
        source = self.sources.get(key) or ", ".join(dict.fromkeys(below)) or "configuration"
        part, _, last = key.rpartition(".")
        if problem["type"] == "extra_forbidden" and part in parts():
            kind = parts()[part].of(self.values.get(f"{part}.kind"))
            own = ", ".join(name for name in kind.model_fields if name != "kind") or "none"
            name = kind.model_fields["kind"].default
            return f"{source}: {key}: {part}.kind is {name!r}, which has no key {last!r}. Its keys: {own}"
        found = "" if isinstance(problem["input"], Mapping) else f". Found {problem['input']!r}"
        message = problem["msg"].removeprefix("Value error, ")
        return ": ".join(filter(None, (source, key, f"{message}{found}")))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Expected a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text. Expected a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def parse_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """Key and value of a text ``section.key=value``; the value is TOML, or bare text.

    Raises:
        ConfigError: the text is not of this form, or the key is not known.
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(
            f"{option} {text}: expected section.key=value, such as {option} privacy.target_epsilon=4"
        )
    if key not in known_keys() and key not in RENAMED:
        raise _unknown(key, option)
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key, value.strip()  # a bare word is text


def resolve(
    toml: Path | None = None,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    origin: str = "command line",
) -> ResolvedConfig:
    """Merge defaults, a TOML file, command-line options and ``--set`` assignments.

    A later source that chooses another kind of a part drops what earlier sources said for the kind before. The fusion
    of a run that learns from a table alone is linear by default.

    Args:
        toml: configuration file, or None.
        assignments: texts ``section.key=value``; the value is TOML, or bare text.
        options: values of dedicated command-line options by ``section.key``, or a tree of them (None values are
            skipped).
        origin: what errors call the source of `options`.

    Raises:
        ConfigError: unknown key (the nearest valid one is named), invalid value (its source is named), or an encoder
            of a modality without columns.
    """
    merged = _Merge()
    if toml is not None:
        merged.put(_read_toml(toml), str(toml))
    merged.put({key: value for key, value in (options or {}).items() if value is not None}, origin)
    merged.put(dict(parse_assignment(text) for text in assignments), "--set")
    resolved = _suited(merged)
    _check_encoders(resolved)
    return resolved


def _suited(merged: _Merge) -> ResolvedConfig:
    """What was given, with a linear fusion where only values of a table are learnt from and nothing is said of it.

    Attention has tens of thousands of parameters that need noise, for a dozen of values (docs/results.md). A later
    source that turns privacy off leaves masked steps no noise to share: plain ones give the same sum.
    """
    release, private = "federation.release", "privacy.enabled"
    plain = merged.values.get(release) == "secure-steps" and merged.values.get(private) is False
    if plain and merged.sources[release] != merged.sources[private]:
        merged.put({release: "steps"}, f"{merged.sources[private]}: without privacy")
    resolved = merged.resolved()
    if any(key.startswith("model.fusion.") for key in merged.values):
        return resolved
    if not all(MODALITIES[name].joins_fusion for name in resolved.config.data.modalities):
        return resolved
    merged.put({"model.fusion.kind": "linear"}, _OF_VALUES)
    return merged.resolved()


def _check_encoders(resolved: ResolvedConfig) -> None:
    """
    Raises:
        ConfigError: an encoder is named for a modality of which nobody named a column, or said that there is none.
    """
    for name, modality in MODALITIES.items():
        source = resolved.sources.get(f"model.{name}", DEFAULT)
        columns = [f"data.{key}" for key in modality.column_keys]
        said = any(resolved.sources.get(key, DEFAULT) != DEFAULT for key in columns)
        if source != DEFAULT and name not in resolved.config.data.modalities and not said:
            raise ConfigError(
                f"{source}: model.{name} is the encoder of {modality.plural}, but the run reads none: "
                f"no column is named by {' or '.join(columns)}. Name one, or leave model.{name} out"
            )


def to_flat(config: RunConfig) -> dict[str, Scalar]:
    """The tree as Flower's run config: dotted key to scalar; lists and tables as JSON text."""
    return {
        key: json.dumps(value) if isinstance(value, list | dict) else value
        for key, value in flatten(config.model_dump(mode="json")).items()
    }


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Scalar | None, Scalar | None]]:
    """The keys in which two configurations differ, in the flat form: (old, new); None where a key does not apply."""
    before, after = to_flat(old), to_flat(new)
    pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after}}
    return {key: (one, other) for key, (one, other) in pairs.items() if one != other}


def from_flat(flat: Mapping[str, Any], source: str = "run config") -> RunConfig:
    """Inverse of `to_flat`; keys that are absent take their default.

    Raises:
        ConfigError: unknown key or invalid value.
    """
    keys, values = known_keys(), {}
    for key, value in flat.items():
        if key in keys and holds_many(keys[key]) and isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{source}: {key}: expected JSON text. Found {value!r}") from error
        values[key] = value
    merged = _Merge()
    merged.put(values, source)
    return merged.resolved().config


def to_toml(config: RunConfig) -> str:
    """The whole tree as TOML that `resolve` reads back to an equal tree."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def to_json(config: RunConfig) -> str:
    """The flat form as one JSON text: how a run configuration travels from the server to a site."""
    return json.dumps(to_flat(config), sort_keys=True)


def flat_from_json(text: str) -> dict[str, Any]:
    """The flat form back from `to_json`, not yet validated.

    Raises:
        ConfigError: not a JSON object.
    """
    try:
        flat = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"run config: not JSON text: {error}") from error
    if not isinstance(flat, dict):
        raise ConfigError("run config: expected a JSON object of section.key to value")
    return flat
