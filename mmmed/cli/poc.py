"""``mmmed poc``: a whole federation on this machine, for a first look."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.options import Assignments, ConfigFile, DataFolder, read_config
from mmmed.text import shown

if TYPE_CHECKING:
    from simulations.poc import Poc


def poc(
    sites: Annotated[int, typer.Option(min=1, help="How many hospitals; the generated data have four.")] = 3,
    config: ConfigFile = None,
    data: DataFolder = None,
    assignments: Assignments = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for all of it.", show_default="poc/<date and time>")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="After the run stay on the air until Ctrl-C.")] = False,
) -> None:
    """Put a coordinator and hospitals on the air on this machine, run once, and stop them: real keys, TLS, policies.

    Everything lies in one folder, whose NEXT.txt says how to go on by hand. Exit 1 if the run did not complete.
    """
    from mmmed.cli.status import show_log
    from privacy.accounting import shown as rounded_up
    from server.deployment.folder import Folder
    from simulations.poc import NEXT, Poc

    resolved = read_config(config, assignments, {"data.source": data}).config
    federation = Poc(out or Path("poc") / datetime.now().strftime("%Y%m%d-%H%M%S"), resolved, sites)
    print(f"{federation.home}: a coordinator and {sites} sites, with keys, certificates and policies")
    with _ended(federation):
        print("starting all of them", flush=True)
        federation.start()
        print(f"on the air at 127.0.0.1:{federation.federation.coordinator.port}; dashboards:")
        for name, where in federation.show().items():
            print(f"  {shown(name):16} {where}")
        print(f"  token            {federation.token}")
        run = federation.run()
        print(f"run {run.name}", flush=True)
        show_log(Folder(run.coordinator.folder), run.name, follow=True)
        completed = run.state().status == "finished:completed"
        if completed:
            for site, epsilon in run.reported().items():
                print(
                    f"  {shown(site):16} epsilon {rounded_up(epsilon)} of {resolved.privacy.target_epsilon:g}"
                )
            print(f"privacy report: {run.folder / 'report' / 'privacy.html'}")
        else:
            for hospital in federation.federation.sites:
                for line in hospital.refusals()[-1:]:
                    print(f"  {shown(hospital.name):16} {shown(line, 500)}")
        if keep:
            print("on the air until Ctrl-C", flush=True)
            _wait()
    print(f"all stopped. To go on by hand ({federation.home / NEXT}):\n")
    print(federation.by_hand(), end="")
    if not completed:
        raise typer.Exit(1)


@contextmanager
def _ended(federation: Poc) -> Iterator[None]:
    """End the federation's processes whatever happens: an error, Ctrl-C, SIGTERM, a terminal that is closed."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in ending}
    try:
        yield
    finally:
        for number in ending:  # a second Ctrl-C must not leave half of them
            signal.signal(number, signal.SIG_IGN)
        sys.stderr.write("stopping\n")
        federation.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        return
