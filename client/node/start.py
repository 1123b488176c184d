"""Put a site on the air: its node and its runner, kept running."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from client.node.connection import refusals
from client.node.folder import NodeFolder, alone
from mmmed.processes import Service, Supervisor

CUT_OFF = "runner: an answer was cut off"  # the node waits for the rest of it for ever: it is started anew


def start(folder: NodeFolder, kit: Path | None) -> None:
    """Join with `kit`, if one is given, and take part until SIGTERM or Ctrl-C.

    Raises:
        DeployError: the site has not joined, the kit does not fit, or the site runs already.
    """
    if kit is not None:
        folder.join(kit)
    joined = folder.kit()
    with alone(folder):
        address = f"127.0.0.1:{_free_port()}"
        environment = folder.environment()
        node = [
            *(sys.executable, "-m", "client.node.supernode", str(folder.certificate), str(folder.key)),
            *("--superlink", f"{joined.address}:{joined.port}", "--root-certificates", str(folder.server_ca)),
            *("--auth-supernode-private-key", str(_flower_key(folder))),
            *("--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--isolation", "process"),
            *("--superexec-auth-secret-file", str(folder.secret)),
        ]
        runner = [sys.executable, "-m", "client.node.runner", str(folder.site), address]

        def heard(line: str) -> None:
            if "SuperNode ID" in line:
                sys.stderr.write(f"connected as {joined.site} to {joined.address}:{joined.port}\n")

        def heard_runner(line: str) -> None:
            if line == CUT_OFF:
                supervisor.restart("node")

        services = [
            Service("node", node, environment, heard=heard, why=lambda: _refused(folder)),
            Service("runner", runner, environment, heard=heard_runner),
        ]
        supervisor = Supervisor(services, folder.log)
        threading.Thread(target=lambda: sys.stderr.write(_refused(folder)), daemon=True).start()
        supervisor.run()


def _refused(folder: NodeFolder) -> str:
    """Why the coordinator does not let this site in, a line each; "" where it does, or does not answer."""
    found = refusals(folder, folder.kit())
    lines = "".join(f"{one.what}: {one.found}. To mend it: {one.mend}\n" for one in found)
    return lines and f"{lines}`mmmed site doctor` makes all checks\n"


def _flower_key(folder: NodeFolder) -> Path:
    """The site's key in the form that Flower reads."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from mmmed.pki.certificates import load_key, write_secret

    path = folder.path / "node.ssh"
    path.unlink(missing_ok=True)
    key = load_key(folder.key)
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
