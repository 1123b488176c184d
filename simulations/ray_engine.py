"""The same apps on Flower's own simulation engine, which runs each site's work in a Ray actor.

It costs more than `simulations.grid` (see ``python -m simulations.bench common``), and is the way beyond one
machine. Needs the ``ray`` extra.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from mmmed.config.schema import Scalar
from mmmed.errors import RunError
from simulations.execution import load_client_app

T = TypeVar("T")


def run_on_ray(
    serve: Callable[[Grid], T],
    client_app: str,
    node_configs: Sequence[Mapping[str, Scalar]],
    *,
    actors: int | None = None,
) -> T:
    """Call ``serve`` with a grid of Ray actors and return its result.

    Args:
        serve: the server's part, run in a thread of this process.
        client_app: the ClientApp as ``module:attribute``.
        node_configs: one a node, as for `InProcessGrid`.
        actors: sites that work at the same time, one thread each; by default one a processor.

    Raises:
        RunError: the ClientApp cannot be loaded; and whatever ``serve`` raises.
    """
    load_client_app(client_app)  # fail here rather than in every actor
    stop = threading.Event()
    results: list[T] = []
    failures: list[Exception] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            results.append(serve(_stoppable(grid, stop)))
        except Exception as error:
            failures.append(error)

    try:
        _simulate(server_app, _SiteApp(client_app, node_configs), len(node_configs), actors)
    finally:
        stop.set()  # after Ctrl-C nobody answers any more: the server's thread must not wait
    if failures:
        raise failures[0]
    if not results:
        raise RunError("Flower's simulation engine ended before the run did")
    return results[0]


class _SiteApp(ClientApp):
    """The named ClientApp, on a node that has more configuration than Flower's engine can give it."""

    def __init__(self, reference: str, node_configs: Sequence[Mapping[str, Scalar]]) -> None:
        super().__init__()
        self._reference = reference
        self._node_configs = [dict(own) for own in node_configs]

    def __call__(self, message: Message, context: Context) -> Message:
        context.node_config.update(self._node_configs[int(context.node_config["partition-id"])])
        return load_client_app(self._reference)(message, context)


def _simulate(server_app: ServerApp, client_app: ClientApp, sites: int, actors: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray  # an optional dependency
    from flwr.simulation import run_simulation

    paths = dict.fromkeys(os.path.abspath(path) for path in (*sys.path, os.getcwd()))  # noqa: PTH100, PTH109
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # Flower's account of every step; failures reach the caller as they are
    ray.init(
        num_cpus=actors,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )
    try:
        backend: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        run_simulation(server_app, client_app, sites, backend_config=backend)
    finally:
        ray.shutdown()
        logger.setLevel(level)


def _stoppable(grid: Grid, stop: threading.Event) -> Grid:
    """The grid, except that it raises RunError instead of waiting once ``stop`` is set."""
    pull = grid.pull_messages

    def pull_messages(message_ids: Iterable[str]) -> Iterable[Message]:
        if stop.is_set():
            raise RunError("the run was interrupted. Resume it to continue")
        return pull(message_ids)

    grid.pull_messages = pull_messages  # type: ignore[method-assign]
    return grid
