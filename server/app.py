"""The Flower ServerApp, for ``flwr run`` and a SuperLink: the same `federate` as in a simulation.

A deployed coordinator names a run's folder, below ``$MMMED_RUNS``, in the run itself. Otherwise it is
``$MMMED_RUN_FOLDER``, else ``runs/<time>`` below the working directory. A run that the folder holds is continued.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mmmed.errors import RunError
from server.app_config import RUN_FOLDER, read_run_config
from server.roster import NODES, Roster

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configuration that Flower's run config holds; the entry of the server's app."""
    admitted = os.environ.get(NODES)
    roster = Roster(Path(admitted) if admitted else None)
    # torch and the models only once the run is known to be valid
    from server.check import answers_file, ask_sites
    from server.run import federate, first_model
    from server.run_folder import RunFolder

    settings = dict(context.run_config)
    name = str(settings.pop(RUN_FOLDER, ""))
    config = read_run_config(settings)
    if (answers := answers_file(name)) is not None:
        ask_sites(grid, config, roster, answers)
        return
    path = _run_folder(name)
    model = first_model(config, path)  # before the folder: what cannot be built leaves nothing behind
    with RunFolder.create_or_open(path, config) as folder:
        federate(grid, folder, model, roster=roster)
        check_that_something_was_learnt(folder.rounds())


def check_that_something_was_learnt(rounds: list[dict[str, Any]]) -> None:
    """Raise RunError if no round changed the model: such a run did not complete."""
    if rounds and not any(record["changed"] for record in rounds):
        last = [f"{line['site']} {line['refused']}" for line in rounds[-1]["train"] if "refused" in line]
        raise RunError(
            f"no round changed the model: too few sites gave an update. In the last: {', '.join(last) or 'no answer'}. "
            "`mmmed server log` says what each code means. Start a new run when that is mended"
        )


def _run_folder(name: str) -> Path:
    if not name:
        named = os.environ.get("MMMED_RUN_FOLDER")
        return Path(named) if named else Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    if Path(name).name != name or "MMMED_RUNS" not in os.environ:
        raise RunError(
            f"run folder {name!r}: expected a name below $MMMED_RUNS, as `mmmed server run` gives it"
        )
    return Path(os.environ["MMMED_RUNS"]) / name
