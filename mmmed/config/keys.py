"""The keys of the tree by their dotted names, such as ``model.fusion.width``; which there are depends on the kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from mmmed.config.schema import RunConfig
from mmmed.section import Composed, Kinds, Section, kinds_of


def known_keys(values: Mapping[str, Any] | None = None) -> dict[str, FieldInfo]:
    """Every key and its field, in the tree's order.

    Args:
        values: by key; the kinds that are named here are chosen, and a part whose kind is not named is of its default.
            None gives the keys of all kinds.
    """
    return {key: field for key, field, below in _walk(RunConfig, "", values) if below is None}


def parts() -> dict[str, Kinds]:
    """The registries by the dotted name of the part, such as ``model.fusion``."""
    found = ((key, kinds_of(field)) for key, field, _ in _walk(RunConfig, "", None))
    return {key: kinds for key, kinds in found if kinds is not None}


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of sections as one mapping from dotted keys; names in the tree may be dotted already.

    What should be a section and is no table, and what is unknown, stays as it is under its dotted name.
    """
    sections = {key for key, _, below in _walk(RunConfig, "", None) if below is not None}

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            key = prefix + name
            if isinstance(value, Mapping) and key in sections:
                yield from walk(value, f"{key}.")
            else:
                yield key, value

    return dict(walk(tree, ""))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables from a mapping with dotted keys; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for dotted, value in flat.items():
        *sections, key = dotted.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return tree


def holds_many(field: FieldInfo) -> bool:
    """Whether the field holds a list or a table."""
    return get_origin(field.annotation) in (tuple, list, dict)


def describe(config: RunConfig) -> list[tuple[str, str, str]]:
    """(key, value, meaning) of every key that applies, in the tree's order."""
    values, registries = flatten(config.model_dump(mode="json")), parts()
    rows = []
    for key, field in known_keys(values).items():
        meaning, (part, _, last) = field.description or "", key.rpartition(".")
        if last == "kind" and part in registries:
            kinds = registries[part].sections
            meaning = f"{' | '.join(kinds)}: {(kinds[values[key]].__doc__ or '').splitlines()[0]}"
        rows.append((key, repr(values[key]), meaning))
    return rows


def _walk(
    section: type[Section], prefix: str, values: Mapping[str, Any] | None
) -> Iterator[tuple[str, FieldInfo, list[type[Section]] | None]]:
    """Every field below a section with its dotted name and, if it is a section, which sections it may be."""
    for name, field in section.model_fields.items():
        key = prefix + name
        below = _sections(key, field, values)
        yield key, field, below
        for one in below or ():
            yield from _walk(one, f"{key}.", values)


def _sections(key: str, field: FieldInfo, values: Mapping[str, Any] | None) -> list[type[Section]] | None:
    if (kinds := kinds_of(field)) is not None:
        if values is None:
            return list(kinds.sections.values())
        return [kinds.of(values.get(f"{key}.kind"))]
    section = field.annotation
    if isinstance(section, type) and issubclass(section, Composed):
        return [section.whole()]
    return [section] if isinstance(section, type) and issubclass(section, Section) else None
