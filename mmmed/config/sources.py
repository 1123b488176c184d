"""Read a RunConfig from TOML, ``--set`` assignments and Flower's flat run config; tell where each value came from.

Precedence, lowest first: defaults, TOML file, command line. The flat form (``section.key`` to scalar) is what
Flower carries: it allows no lists or tables, so those travel as JSON text.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from mmmed.config.schema import RunConfig, Scalar
from mmmed.errors import ConfigError

DEFAULT = "default"


@dataclass(frozen=True)
class ResolvedConfig:
    """A RunConfig and, for each ``section.key``, the source that set it."""

    config: RunConfig
    sources: Mapping[str, str]


def _fields() -> dict[str, list[str]]:
    return {
        name: list(field.annotation.model_fields)  # type: ignore[union-attr]
        for name, field in RunConfig.model_fields.items()
    }


def known_keys() -> list[str]:
    """Every ``section.key`` of the tree."""
    return [f"{section}.{key}" for section, keys in _fields().items() for key in keys]


def _unknown(key: str, source: str) -> ConfigError:
    keys = known_keys()
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
    if not near:  # the section may be wrong and the key right
        last = key.rsplit(".", 1)[-1]
        near = [k for k in keys if k.rsplit(".", 1)[-1] == last][:1]
    hint = f" Did you mean '{near[0]}'?" if near else " `mmmed config show` lists the valid keys."
    return ConfigError(f"{source}: unknown key '{key}'.{hint}")


def _flatten(tree: Mapping[str, Any], source: str) -> dict[str, Any]:
    fields = _fields()
    flat: dict[str, Any] = {}
    for section, values in tree.items():
        if section not in fields:
            raise _unknown(section, source)
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: '{section}' must be a table [{section}]. Found {values!r}")
        for key, value in values.items():
            if key not in fields[section]:
                raise _unknown(f"{section}.{key}", source)
            flat[f"{section}.{key}"] = value
    return flat


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Expected a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text. Expected a TOML file") from error
    try:
        return _flatten(tomllib.loads(text), str(path))
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
    if key not in known_keys():
        raise _unknown(key, option)
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key, value.strip()  # a bare word is text


def _validate(flat: Mapping[str, Any], sources: Mapping[str, str]) -> RunConfig:
    tree: dict[str, dict[str, Any]] = {}
    for dotted, value in flat.items():
        section, key = dotted.split(".", 1)
        tree.setdefault(section, {})[key] = value
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = [str(part) for part in problem["loc"]]
            key = ".".join(place[:2])
            found = "" if isinstance(problem["input"], Mapping) else f". Found {problem['input']!r}"
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{sources.get(key, 'configuration')}: {key}: {message}{found}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def resolve(
    toml: Path | None = None,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> ResolvedConfig:
    """Merge defaults, a TOML file, command-line options and ``--set`` assignments.

    Args:
        toml: configuration file, or None.
        assignments: texts ``section.key=value``; the value is TOML, or bare text.
        options: values of dedicated command-line options by ``section.key`` (None values are skipped).

    Raises:
        ConfigError: unknown key (the nearest valid one is named) or invalid value (its source is named).
    """
    flat: dict[str, Any] = {}
    sources = dict.fromkeys(known_keys(), DEFAULT)

    def put(values: Mapping[str, Any], source: str) -> None:
        flat.update(values)
        sources.update(dict.fromkeys(values, source))

    if toml is not None:
        put(_read_toml(toml), str(toml))
    put({key: value for key, value in (options or {}).items() if value is not None}, "command line")
    for text in assignments:
        key, value = parse_assignment(text)
        put({key: value}, "--set")
    return ResolvedConfig(_validate(flat, sources), sources)


def to_flat(config: RunConfig) -> dict[str, Scalar]:
    """The tree as Flower's run config: ``section.key`` to scalar; lists and tables as JSON text."""
    flat: dict[str, Scalar] = {}
    for section, values in config.model_dump(mode="json").items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = json.dumps(value) if isinstance(value, list | dict) else value
    return flat


def from_flat(flat: Mapping[str, Any], source: str = "run config") -> RunConfig:
    """Inverse of `to_flat`; keys that are absent take their default.

    Raises:
        ConfigError: unknown key or invalid value.
    """
    values: dict[str, Any] = {}
    known = set(known_keys())
    defaults = RunConfig().model_dump(mode="json")
    for dotted, value in flat.items():
        if dotted not in known:
            raise _unknown(dotted, source)
        section, key = dotted.split(".", 1)
        if isinstance(defaults[section][key], list | dict) and isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{source}: {dotted}: expected JSON text. Found {value!r}") from error
        values[dotted] = value
    return _validate(values, dict.fromkeys(values, source))


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
    except json.JSONDecodeError as error:
        raise ConfigError(f"run config: not JSON text: {error}") from error
    if not isinstance(flat, dict):
        raise ConfigError("run config: expected a JSON object of section.key to value")
    return flat
