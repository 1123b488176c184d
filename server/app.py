"""The Flower ServerApp, for ``flwr run`` and a SuperLink: the same `federate` as in a simulation.

The run folder is ``$MMMED_RUN_FOLDER`` (a run that it holds is continued), else ``runs/<time>`` below the working
directory.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mmmed.config import from_flat

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what Flower's run config describes."""
    from server.federate import federate  # torch and the models only once the run is known to be valid
    from server.run_folder import RunFolder

    config = from_flat(context.run_config)
    named = os.environ.get("MMMED_RUN_FOLDER")
    path = Path(named) if named else Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    with RunFolder.create_or_open(path, config) as folder:
        federate(grid, folder)
