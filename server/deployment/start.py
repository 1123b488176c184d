"""Put a federation on the air: the SuperLink, the process that starts runs, and nginx, kept running."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from mmmed.errors import DeployError
from mmmed.files import exclusive
from mmmed.pki.certificates import days_left, read_certificate
from mmmed.processes import Service, Supervisor
from server.deployment.control import Control
from server.deployment.folder import Folder
from server.deployment.nginx import write_configuration
from server.deployment.sites import read_sites, revoke
from server.roster import write_admitted

log = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds after its start for which the SuperLink may be silent
_LEAVING = 15.0  # seconds for which a port may be taken by what an earlier coordinator left


def start(folder: Folder) -> None:
    """Run the federation until SIGTERM or Ctrl-C.

    Raises:
        DeployError: it runs already, a port is taken, a certificate has ended, or nginx is missing.
    """
    settings = folder.settings
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise DeployError("nginx is not installed. On Debian: apt install nginx-light")
    with _alone(folder):
        for name in ("server", "link"):
            if days_left(read_certificate(folder.certificate(name))) <= 0:
                raise DeployError(
                    f"{folder.certificate(name)}: has expired. Renew it with `mmmed server renew`"
                )
        folder.nginx_pid.unlink(missing_ok=True)
        _check_free("127.0.0.1", settings.link_port)
        _check_free(settings.listen, settings.port)
        write_configuration(folder)
        _check_configuration(folder, nginx)
        environment = _environment(folder)
        programs = _programs()
        link = [
            str(programs / "flower-superlink"),
            *("--host", "127.0.0.1", "--port", str(settings.link_port)),
            *("--ssl-ca-certfile", str(folder.ca_certificate)),
            *("--ssl-certfile", str(folder.certificate("link")), "--ssl-keyfile", str(folder.key("link"))),
            *("--database", str(folder.database), "--isolation", "process", "--enable-supernode-auth"),
            *(
                "--superexec-auth-secret-file",
                str(folder.secret),
                "--disable-runtime-dependency-installation",
            ),
        ]
        executor = [
            str(programs / "flower-superexec"),
            *("--runtime-api-address", f"127.0.0.1:{settings.link_port}"),
            *("--root-certificates", str(folder.ca_certificate)),
            *("--superexec-auth-secret-file", str(folder.secret)),
        ]
        services = [
            Service("superlink", link, environment, lambda: _follow(folder)),
            Service("superexec", executor, environment),
            Service("nginx", nginx_command(folder, nginx, "-g", "daemon off;"), environment),
        ]
        Supervisor(services, folder.log).run()


def nginx_command(folder: Folder, nginx: str, *arguments: str) -> list[str]:
    """nginx with the federation's configuration; it needs no rights but to listen on the port."""
    return [
        nginx,
        "-p",
        str(folder.nginx),
        "-c",
        str(folder.nginx / "nginx.conf"),
        "-e",
        "stderr",
        *arguments,
    ]


def apply_sites(folder: Folder) -> bool:
    """Make nginx and the SuperLink follow sites.json now; returns whether they are running.

    Raises:
        DeployError: the SuperLink refuses.
    """
    if not _reload_nginx(folder):
        return False
    with Control(folder) as control:
        _synchronise(folder, control)
    return True


def _reload_nginx(folder: Folder) -> bool:
    """Let nginx follow sites.json; returns whether the federation runs. If not, it does so when it is started."""
    write_configuration(folder)
    if not _runs(folder):  # whatever process has the number in an old nginx.pid, it is none of ours
        return False
    with suppress(OSError, ValueError):  # nginx itself is just being started again
        os.kill(int(folder.nginx_pid.read_text()), signal.SIGHUP)
    return True


def _runs(folder: Folder) -> bool:
    try:
        with _alone(folder):
            return False
    except DeployError:
        return True


def _synchronise(folder: Folder, control: Control) -> None:
    """Register and unregister nodes until they are the sites that may connect. What is stricter wins.

    After a restore from a backup the list may name a site that was revoked later: the SuperLink refuses its key,
    and it is struck off the list. The other way round, a node that the list lacks is unregistered.
    """
    nodes = {node.public_key: node.id for node in control.nodes()}
    allowed = {site.public_key: site for site in read_sites(folder) if not site.revoked}
    for key, node in nodes.items():
        if key not in allowed:
            control.unregister(node)
    for key, site in allowed.items():
        if key not in nodes and not control.register(key, site.name):
            log.warning("%s was revoked before, so it stays out", site.name)
            revoke(folder, site.name)
            _reload_nginx(folder)
    # with it the server app knows a site by its key, whatever name it answers under
    write_admitted(
        folder.nodes,
        {node.id: allowed[node.public_key].name for node in control.nodes() if node.public_key in allowed},
    )


def _follow(folder: Folder) -> None:
    """After each start of the SuperLink, as soon as it answers, give it the list of sites."""

    def wait_and_apply() -> None:
        late = time.monotonic() + _PATIENCE
        while True:
            try:
                with Control(folder) as control:
                    _synchronise(folder, control)
            except DeployError:
                if time.monotonic() > late:
                    log.error("the SuperLink does not answer yet; see %s", folder.log / "superlink.log")
                    late = math.inf
                time.sleep(0.5)
            else:
                settings = folder.settings
                sys.stderr.write(f"ready: sites may connect to {settings.address}:{settings.port}\n")
                return

    threading.Thread(target=wait_and_apply, daemon=True).start()


def _environment(folder: Folder) -> dict[str, str]:
    environment = folder.environment()
    environment["PATH"] = f"{_programs()}:{environment.get('PATH', '')}"  # the executor starts more of them
    return environment


def _programs() -> Path:
    """Where Flower's programs are; a system's own Python has them elsewhere than itself."""
    return Path(sysconfig.get_path("scripts"))


def _alone(folder: Folder) -> AbstractContextManager[None]:
    return exclusive(folder.lock, lambda: DeployError(f"{folder.path}: this federation is running already"))


def _check_free(address: str, port: int) -> None:
    """Wait until nothing listens there: what a coordinator that was killed has left takes seconds to end."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    deadline, told = time.monotonic() + _LEAVING, False
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise DeployError(
                        f"{address}:{port}: cannot listen here ({error.strerror}). Free the port, or change it in "
                        "server.toml"
                    ) from error
        if not told:
            log.warning("%s:%d is taken: waiting up to %.0f s for it", address, port, _LEAVING)
            told = True
        time.sleep(0.2)


def _check_configuration(folder: Folder, nginx: str) -> None:
    done = subprocess.run(
        nginx_command(folder, nginx, "-t"), capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0:
        raise DeployError(f"nginx refuses {folder.nginx / 'nginx.conf'}:\n{done.stderr.strip()}")
