"""Options that several commands of ``mmmed`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
