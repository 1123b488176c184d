"""Write the reference pages of the documentation from the code: ``python docs/make/reference.py``.

The pages are checked in, so that links to them hold wherever the files are read; a test compares them with the code.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import annotated_types
import click
import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

from mmmed.config import RunConfig
from mmmed.section import Composed, Kinds, Section, kinds_of

HERE = Path(__file__).resolve().parent.parent
_TYPES = {str: "text", bool: "true or false", int: "whole number", float: "number"}
_BOUNDS = {
    annotated_types.Ge: ">=",
    annotated_types.Gt: ">",
    annotated_types.Le: "<=",
    annotated_types.Lt: "<",
}


def pages() -> dict[str, str]:
    """Every page by its path below ``docs``."""
    return {f"reference/{name}.md": made() for name, made in _PAGES.items()}


def write() -> None:
    """Write every page."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def configuration() -> str:
    """The keys of a run, section by section, and those of each kind of a part."""
    lines = [
        *_opening("Configuration", "the schema (`mmmed/config/schema.py` and the registries)"),
        "A run is one TOML file. Every key has a default, so a file names what differs; `--set SECTION.KEY=VALUE` sets "
        "one key on the command line. `mmmed config show --config FILE` prints every key that applies, its value and "
        "where that comes from. A key that is not listed here is refused.",
    ]
    for name, field in RunConfig.model_fields.items():
        kinds = kinds_of(field)
        lines += _of_kinds(name, kinds) if kinds else _of_section(name, field.annotation)
    return _page(lines)


def scenario() -> str:
    """The keys of a scenario, and the scenarios that come with mmmed."""
    from simulations.scenarios import Malicious, Missing, Scenario, about, scenario_files

    lines = [
        *_opening("Scenarios", "`simulations/scenarios`"),
        "A scenario is a TOML file of its own: `mmmed simulate --scenario NAME` or `--scenario FILE.toml`; `--set "
        "scenario.KEY=VALUE` sets a key over it. How they act: [simulation.md](../simulation.md#scenarios).",
        "",
        "| name | what it shows |",
        "|---|---|",
        *(f"| `{name}` | {_cell(about(path)[1])} |" for name, path in scenario_files().items()),
        "",
        "## Keys",
        "",
        *_table(Scenario),
        "",
        "### `[[missing]]`",
        "",
        f"{_words(Missing)}",
        "",
        *_table(Missing),
        "",
        "### `[[malicious]]`",
        "",
        f"{_words(Malicious)}",
        "",
        *_table(Malicious),
    ]
    return _page(lines)


def commands() -> str:
    """Every command with its arguments and options, as `--help` says them."""
    from mmmed.cli import app

    listed = list(_walk(typer.main.get_command(app), "mmmed"))
    lines = [
        *_opening("Commands", "the command itself"),
        "`mmmed COMMAND --help` says the same. What you can mend is told in one sentence, with exit code 2; a check "
        "that fails (`audit`, `verify`, `doctor`, `check`, ...) ends with 1. `mmmed --version` prints the version. "
        "`mmmed --install-completion` teaches your shell to complete commands and options.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(
            f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(one.get_short_help_str(200))} |"
            for name, one in listed
        ),
    ]
    for name, one in listed:
        told = get_docs_for_click(obj=one, ctx=typer.Context(one), name=name, indent=1)
        told = told.partition("**Commands**")[0]  # each stands by itself
        told = told.replace("**Usage**:\n\n", "").replace("&#x27;", "'").replace("&quot;", '"')
        lines += ["", told.replace(str(Path.home()), "~").rstrip()]
    return _page(lines)


def policy() -> str:
    """The policy file as `mmmed privacy policy init` writes it."""
    template = (HERE.parent / "privacy/policy/template.toml").read_text(encoding="utf-8")
    lines = [
        *_opening("Policy", "`privacy/policy/template.toml`"),
        "What `mmmed privacy policy init` writes, to be edited and signed; every key and what it limits. How it is "
        "used: [policy.md](../policy.md).",
        "",
        "```toml",
        template.replace("{site}", "north").replace("{expires}", "2027-12-31").rstrip(),
        "```",
    ]
    return _page(lines)


def report() -> str:
    """The fields of a privacy report, from its JSON schema."""
    schema = json.loads((HERE.parent / "privacy/report/schema.json").read_text(encoding="utf-8"))
    lines = [
        *_opening(
            "Fields of a privacy report",
            "`privacy/report/schema.json`, by which `mmmed privacy verify` reads",
        ),
        "What they mean together, and how to check them: [privacy-report.md](../privacy-report.md).",
        "",
        f"`{schema['$id']}`. {_cell(schema['description'])}",
        "",
        *_fields(schema),
    ]
    for name, part in schema["$defs"].items():
        lines += ["", f"## {name}", ""]
        if "description" in part:
            lines += [_cell(part["description"]), ""]
        rows = _fields(part)
        lines += rows if rows else [f"{_kind(part)}."]
    return _page(lines)


_PAGES = {"config": configuration, "scenario": scenario, "cli": commands, "policy": policy, "report": report}


def _walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something and is not hidden, by its whole name."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    if command.callback and command.invoke_without_command:
        yield name, command
    for part, one in command.commands.items():
        if not one.hidden:
            yield from _walk(one, f"{name} {part}")


def _opening(title: str, source: str) -> list[str]:
    return [f"# {title}", "", f"<!-- Written by docs/make/reference.py from {source}: edit that. -->", ""]


def _page(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def _of_section(name: str, section: Any) -> Iterator[str]:
    whole = section.whole() if issubclass(section, Composed) else section
    yield from ("", f"## `[{name}]`", "", _words(whole), "")
    yield from _table(whole)
    for key, field in whole.model_fields.items():
        if (kinds := kinds_of(field)) is not None:
            yield from _of_kinds(f"{name}.{key}", kinds)


def _of_kinds(name: str, kinds: Kinds) -> Iterator[str]:
    mark = "#" * (2 + name.count("."))
    default, *_ = kinds.sections
    yield from ("", f"{mark} `[{name}]`", "", f"Comes in kinds, by `kind`; `{default}` by default.")
    for kind, section in kinds.sections.items():
        yield from ("", f'{mark}# `{name}.kind = "{kind}"`', "", _words(section), "")
        if len(section.model_fields) > 1:
            yield from _table(section)
        else:
            yield "No further keys."


def _words(section: type) -> str:
    return _cell(re.sub(r"``?", "`", " ".join((section.__doc__ or "").split())))


def _table(section: type[Section]) -> Iterator[str]:
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for key, field in section.model_fields.items():
        names_its_kind = key == "kind" and len(get_args(field.annotation)) == 1
        if names_its_kind or kinds_of(field):
            continue
        yield f"| `{key}` | {_type_of(field)} | {_default(field)} | {_cell(field.description or '')} |"


def _type_of(field: FieldInfo) -> str:
    return ", ".join([_type(field.annotation), *_limits(field.metadata)])


def _type(of: Any) -> str:
    if of in _TYPES:
        return _TYPES[of]
    origin, inner = get_origin(of), get_args(of)
    if origin is typing.Annotated:
        return ", ".join([_type(inner[0]), *_limits(inner[1:])])
    if origin is typing.Literal:
        return " or ".join(f"`{_toml(value)}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in inner)
    if origin is tuple:
        return (
            f"list of {_type(inner[0])}" if inner[-1] is ... else f"list of {len(inner)}: {_type(inner[0])}"
        )
    if origin is dict:
        return f"table of {_type(inner[1])}"
    return f"section {of.__name__}"


def _limits(metadata: typing.Iterable[Any]) -> list[str]:
    found = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            found += _limits(one.metadata)
        for kind, sign in _BOUNDS.items():
            if isinstance(one, kind):
                found.append(f"{sign} {_number(getattr(one, kind.__name__.lower()))}")
        if isinstance(one, annotated_types.MultipleOf):
            found.append(f"in steps of {one.multiple_of}")
        if isinstance(one, annotated_types.MaxLen):
            found.append(f"at most {one.max_length}")
    return found


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    value = field.default
    return f"`{_cell(_toml(value))}`"


def _toml(value: Any) -> str:
    if isinstance(value, Section):
        return f"kind = {_toml(value.kind)}" if hasattr(value, "kind") else "{ ... }"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _fields(part: dict[str, Any], prefix: str = "") -> list[str]:
    rows = list(_rows(part, prefix))
    return ["| field | type | meaning |", "|---|---|---|", *rows] if rows else []


def _rows(part: dict[str, Any], prefix: str) -> Iterator[str]:
    """Fields of an object and of the objects within it; those that other definitions hold stand there."""
    for one in (part, *part.get("oneOf", ()), *part.get("anyOf", ())):
        needed = set(one.get("required", ()))
        for name, field in one.get("properties", {}).items():
            may = "" if name in needed else " (may be absent)"
            meaning = _cell(field.get("description", ""))
            yield f"| `{prefix}{name}` | {_kind(field)}{may} | {meaning} |"
            yield from _rows(field, f"{prefix}{name}.")
            items = field.get("items")
            if isinstance(items, dict):
                yield from _rows(items, f"{prefix}{name}[].")
            further = field.get("additionalProperties")
            if isinstance(further, dict):
                yield from _rows(further, f"{prefix}{name}.NAME.")


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    for several in ("oneOf", "anyOf"):
        if several in field:
            return " or ".join(dict.fromkeys(_kind(one) for one in field[several]))
    kind = field.get("type", "any")
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    if kind == "array":
        if "prefixItems" in field:
            return "list of " + ", ".join(_kind(one) for one in field["prefixItems"])
        return f"list of {_kind(field['items'])}" if isinstance(field.get("items"), dict) else "list"
    signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    limits = [f"{_cell(sign)} {_number(field[name])}" for name, sign in signs if name in field]
    if "pattern" in field:
        limits.append(f"like `{_cell(field['pattern'])}`")
    return ", ".join([kind, *limits])


if __name__ == "__main__":
    write()
