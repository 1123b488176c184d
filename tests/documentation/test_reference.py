"""The reference pages say what the code says, and every key of a run is explained."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from mmmed.config.keys import known_keys

DOCS = Path(__file__).parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("reference", DOCS / "make" / "reference.py")
assert _SPEC is not None and _SPEC.loader is not None
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)


def test_the_pages_are_those_that_the_code_makes() -> None:
    stale = [name for name, text in reference.pages().items() if (DOCS / name).read_text("utf-8") != text]
    assert not stale, f"run `python docs/make/reference.py`: {', '.join(stale)} differ"


def test_every_key_has_a_meaning() -> None:
    assert not [key for key, field in known_keys().items() if not (field.description or key.endswith("kind"))]


def test_every_key_is_listed_under_its_section() -> None:
    page = (DOCS / "reference" / "config.md").read_text("utf-8")
    for key in known_keys():
        section, _, name = key.rpartition(".")
        if name == "kind":
            assert f'`{key} = "' in page
            continue
        parts = re.split(r"^#+ ", page, flags=re.M)
        rows = [one for one in parts if one.startswith((f"`[{section}]`", f"`{section}.kind = "))]
        assert any(f"| `{name}` |" in one for one in rows), key


def test_every_command_that_is_not_hidden_is_listed() -> None:
    import click
    import typer

    from mmmed.cli import app

    def named(command: click.Command, name: str) -> set[str]:
        if not isinstance(command, click.Group):
            return {name}
        return {
            found
            for part, one in command.commands.items()
            if not one.hidden
            for found in named(one, f"{name} {part}")
        }

    page = (DOCS / "reference" / "cli.md").read_text("utf-8")
    assert named(typer.main.get_command(app), "mmmed") <= set(re.findall(r"^## `(.*)`", page, flags=re.M))
