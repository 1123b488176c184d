"""Settings to try: every combination of the values that a few keys may take."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmed.config.renamed import current
from mmmed.config.schema import RunConfig
from mmmed.config.sources import parse_assignment, resolve
from mmmed.errors import ConfigError


@dataclass(frozen=True)
class Candidate:
    """One combination.

    Attributes:
        settings: the varied keys, ``section.key``, and their values here.
        config: the whole configuration with them.
        renamed: keys that were given by a name of earlier versions, and their names of today.
    """

    settings: Mapping[str, Any]
    config: RunConfig
    renamed: Mapping[str, str]


def parse_vary(texts: Iterable[str], option: str = "--vary") -> dict[str, list[Any]]:
    """Read texts ``section.key=value,value,...``; values are TOML, or bare words.

    Args:
        texts: what was given.
        option: as whose value an error names it.

    Raises:
        ConfigError: a text is not of this form, a key is not known, or named twice.
    """
    varied: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        key, _ = parse_assignment(f"{key}=0" if listed.strip() else text, option)
        if key in varied:
            raise ConfigError(f"{option} {text}: {key} is varied twice: give all its values at once")
        varied[key] = listed_values(listed)
        if not varied[key] or len({repr(value) for value in varied[key]}) < len(varied[key]):
            raise ConfigError(f"{option} {text}: expected values that differ, such as {key}=1,2")
    return varied


def listed_values(text: str) -> list[Any]:
    """The values of a text ``value,value,...``, each TOML or a bare word."""
    try:
        return list(tomllib.loads(f"v = [{text}]")["v"])
    except tomllib.TOMLDecodeError:
        return [_value(word) for word in text.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def combinations(
    varied: Mapping[str, Sequence[Any]], toml: Path | None = None, assignments: Iterable[str] = ()
) -> list[Candidate]:
    """Every combination of the values, over the configuration of a file and of ``--set`` assignments.

    Raises:
        ConfigError: a key is also assigned, or a combination is not a valid configuration.
    """
    fixed = list(assignments)
    for text in fixed:
        key, _ = parse_assignment(text)
        if set(current(key)) & {name for one in varied for name in current(one)}:
            raise ConfigError(f"{key} is both set and varied: leave out one")
    found = []
    for values in itertools.product(*varied.values()):
        settings = dict(zip(varied, values, strict=True))
        resolved = resolve(toml, fixed, settings)
        found.append(Candidate(settings, resolved.config, resolved.renamed))
    return found
