"""Whose name is whose: a site answers under one name, and under nobody else's.

Where sites are admitted by their keys, the coordinator writes down which node has which key: its name is that of the
certificate. Elsewhere (a simulation, a SuperLink of one's own) a name is the node's that first answered under it, as
long as that node is connected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mmmed.files import write_atomic

NODES = "MMMED_NODES"  # environment variable of the server app: the file that `write_admitted` keeps


class Roster:
    """The names of a run's nodes.

    Args:
        admitted: the file of `write_admitted`; None where nobody admits sites.
    """

    def __init__(self, admitted: Path | None = None) -> None:
        self._admitted = admitted
        self._names: dict[int, str] = {}  # node id -> the name that it answered under
        self._nodes: dict[str, int] = {}  # the reverse

    def name(self, node: int) -> str | None:
        """The name of a node, as far as it is known."""
        return self._names.get(node) or self._admitted_names().get(node)

    def nodes(self) -> Mapping[int, str]:
        """The nodes that have answered, with their names."""
        return dict(self._names)

    def takes(self, node: int, name: str, connected: Callable[[], Collection[int]]) -> bool:
        """Whether an answer of a node under a name is taken; if so, the name is the node's from now on.

        Args:
            node: who answers.
            name: the name that it gives.
            connected: gives the nodes that are there; asked only where the name is another's.
        """
        held = self._nodes.get(name, node)
        if self._admitted is not None:
            if self._admitted_names().get(node) != name:
                return False
        elif self._names.get(node, name) != name or (held != node and held in connected()):
            return False
        self._names.pop(held, None)
        self._nodes.pop(self._names.get(node, name), None)
        self._names[node], self._nodes[name] = name, node
        return True

    def _admitted_names(self) -> dict[int, str]:
        """Read each time: a site may be admitted while the run goes on."""
        if self._admitted is None:
            return {}
        try:
            return {
                int(node): str(name) for node, name in json.loads(self._admitted.read_text("utf-8")).items()
            }
        except (OSError, ValueError, AttributeError):
            return {}


def write_admitted(file: Path, names: Mapping[int, str]) -> None:
    """Write down the name of each node that was admitted; the file appears whole or not at all."""
    write_atomic(file, json.dumps({str(node): name for node, name in sorted(names.items())}, indent=2) + "\n")
