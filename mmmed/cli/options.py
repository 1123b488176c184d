"""Options that several commands of ``mmmed`` share, and the files that they name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmmed.config import ResolvedConfig

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file of the run configuration.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="Set one key: section.key=value. May be repeated.")
]
DataFolder = Annotated[
    str | None,
    typer.Option("--data", help='Folder with the table of studies, or "demo".', show_default=False),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")]

LogFolder = Annotated[
    Path | None,
    typer.Option(
        "--log", metavar="FOLDER", help="Log each prediction here, for `mmmed watch`; it stays here."
    ),
]


def read_config(
    config: Path | None, assignments: Sequence[str] | None, options: Mapping[str, Any] | None = None
) -> ResolvedConfig:
    """`mmmed.config.resolve`; says on stderr how keys of an earlier version are written now."""
    from mmmed.config import resolve

    resolved = resolve(config, assignments or (), options)
    tell_renamed(resolved.renamed)
    return resolved


def tell_renamed(renamed: Mapping[str, str]) -> None:
    """One line on stderr about keys that have other names now, if there are any."""
    if renamed:
        names = ", ".join(f"{old} is now {new}" for old, new in renamed.items())
        sys.stderr.write(f"note: keys of an earlier version: {names}\n")


def read_json(path: Path) -> Any:
    """A file's JSON value. Raises ReportError if it holds none."""
    from privacy.errors import ReportError

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path}: not JSON text: {error}") from error
