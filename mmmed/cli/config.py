"""``mmmed config ...``: the run configuration."""

from __future__ import annotations

import typer

from mmmed.cli.options import Assignments, ConfigFile, read_config

app = typer.Typer(help="The run configuration.", no_args_is_help=True)


@app.command("show")
def show(config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Print the whole configuration, and where each value comes from; only keys that the chosen kinds read."""
    from rich.console import Console
    from rich.table import Column, Table

    from mmmed.config.keys import describe

    resolved = read_config(config, assignments)
    table = Table(Column("key", no_wrap=True), "value", "from", "meaning", box=None, pad_edge=False)
    for key, value, meaning in describe(resolved.config):
        table.add_row(key, value, resolved.sources[key], meaning)
    Console().print(table)
