"""A federation's figures for the coordinator's monitoring: which sites are there, and how far its newest runs are."""

from __future__ import annotations

from datetime import UTC, datetime

from mmmed.dashboard.metrics import Gauge
from mmmed.errors import DeployError
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.runs import states
from server.deployment.sites import read_sites

_NEWEST = 10  # runs


def federation_gauges(folder: Folder) -> list[Gauge]:
    """The figures as they are now; without a SuperLink that answers, those that need none."""
    sites = [site for site in read_sites(folder) if not site.revoked]
    now = datetime.now(UTC)
    gauges = [
        Gauge(
            "mmmed_site_certificate_seconds",
            "Seconds until an admitted site's certificate ends.",
            [
                ({"site": site.name}, (datetime.fromisoformat(site.expires) - now).total_seconds())
                for site in sites
            ],
        )
    ]
    try:
        with Control(folder) as control:
            online = {node.public_key for node in control.nodes() if node.online}
            runs = states(folder, control)[-_NEWEST:]
    except DeployError:
        return [Gauge("mmmed_superlink_up", "1 if the SuperLink answers.", [({}, 0)]), *gauges]
    return [
        Gauge("mmmed_superlink_up", "1 if the SuperLink answers.", [({}, 1)]),
        *gauges,
        Gauge(
            "mmmed_site_online",
            "1 if an admitted site is connected.",
            [({"site": site.name}, float(site.public_key in online)) for site in sites],
        ),
        Gauge(
            "mmmed_run_rounds_finished",
            f"Finished rounds of each of the newest {_NEWEST} runs, by its state.",
            [({"run": run.name, "state": run.status}, run.done) for run in runs],
        ),
        Gauge(
            "mmmed_run_rounds", "Rounds of the run in all.", [({"run": run.name}, run.rounds) for run in runs]
        ),
    ]
