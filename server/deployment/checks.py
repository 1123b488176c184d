"""Put a question to the connected sites: what would they refuse of a run?"""

from __future__ import annotations

import time
import uuid

from mmmed.config import RunConfig
from mmmed.config.sources import to_json
from mmmed.errors import DeployError
from server.app_config import RUN_CONFIG, RUN_FOLDER
from server.check import SiteAnswer, question, read_answers
from server.deployment.bundle import app_bundle
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.runs import as_sent
from server.deployment.sites import read_sites
from server.run import first_model

_START = 180.0  # seconds that the server's process may take beside what the sites take
_LOOK = 0.5  # seconds between two looks at it


def ask(folder: Folder, config: RunConfig, seconds: float) -> tuple[list[SiteAnswer], list[str]]:
    """Ask every site that is connected; returns the answers, and the names of the sites that are not connected.

    Args:
        folder: the federation.
        config: the run's.
        seconds: to wait for an answer.

    Raises:
        DeployError: the SuperLink does not answer, or the question ended without an answer.
        ModelError: the model cannot be built here.
    """
    with Control(folder) as control:
        online = {node.public_key for node in control.nodes() if node.online}
        first_model(config)
        limited = config.federation.model_copy(update={"round_timeout": seconds})
        sent = as_sent(config.model_copy(update={"federation": limited}))
        answers = _put(folder, control, sent, time.monotonic() + seconds + _START)
    told = {one.site for one in answers}
    sites = [site for site in read_sites(folder) if not site.revoked]
    return answers, [site.name for site in sites if site.public_key not in online and site.name not in told]


def _put(folder: Folder, control: Control, config: RunConfig, deadline: float) -> list[SiteAnswer]:
    folder.checks.mkdir(mode=0o700, exist_ok=True)
    name = uuid.uuid4().hex
    file = folder.checks / f"{name}.json"
    run = control.start(app_bundle(), {RUN_CONFIG: to_json(config), RUN_FOLDER: question(name)})
    try:
        while (state := control.runs().get(run)) is not None and state.active:
            if time.monotonic() > deadline:
                raise DeployError(f"the question did not end in time. See {folder.log / 'superexec.log'}")
            time.sleep(_LOOK)
        if (answers := read_answers(file)) is None:
            why = f": {state.details}" if state is not None and state.details else ""
            raise DeployError(f"the question was not put{why}. See {folder.log / 'superexec.log'}")
        return answers
    finally:
        file.unlink(missing_ok=True)
        if (state := control.runs().get(run)) is not None and state.active:
            control.stop(run)
