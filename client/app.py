"""The Flower ClientApp: from a message to the site's answer, the same in simulation and deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.log import record_refusal
from client.node import open_site, state_dir
from client.release import evaluation_reply, refusal_code, refusal_reply, training_reply
from client.rounds import Parameters, evaluate_round, local_steps, train_round
from client.scaffold import Scaffold
from client.site import Site
from client.update import pack_update
from mmmed.config import RunConfig, from_flat
from mmmed.config.sources import flat_from_json
from mmmed.errors import ConfigError
from mmmed.wire import unpack
from privacy.policy import EVALUATION, TRAINING

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round privately, or refuse with a code."""

    def answer() -> Message:
        site, config, arrays = _read(message, context, TRAINING)
        request = message.content.config_records["config"]
        run_id, server_round = str(request["run-id"]), int(str(request["server-round"]))
        carried = site.state / "carried" / hashlib.sha256(run_id.encode()).hexdigest()[:32]
        scaffold, drift = None, None
        if config.federation.strategy == "scaffold":
            scaffold = Scaffold(carried / "control", server_round, _tensors(message, "control"))
            drift = scaffold.drift
        parameters, spending = train_round(site, config, run_id, server_round, arrays, drift)
        update = pack_update(
            parameters, arrays, config.federation.wire, carried=carried / "rounded", server_round=server_round
        )
        steps = None
        if scaffold is not None:
            steps = local_steps(site, config, spending)
            scaffold.finish(unpack(update), steps, config.training.learning_rate)
        return training_reply(message, site.name, update, spending, steps)

    return _or_refuse(message, context, answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on held-out records; what is told of it is for `client.release` to decide."""

    def answer() -> Message:
        site, config, arrays = _read(message, context, EVALUATION)
        metrics = evaluate_round(site, config, arrays) if site.simulated else {}
        return evaluation_reply(message, site.name, metrics, simulated=site.simulated)

    return _or_refuse(message, context, answer)


def _or_refuse(message: Message, context: Context, answer: Callable[[], Message]) -> Message:
    try:
        return answer()
    except Exception as error:  # its text may hold a name: it goes to the site's log, and only a code leaves
        code = refusal_code(error)
        record_refusal(state_dir(context.node_config), code, error)
        return refusal_reply(message, code)


def _read(message: Message, context: Context, purpose: str) -> tuple[Site, RunConfig, Parameters]:
    try:
        text = str(message.content.config_records["config"]["run-config"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"request lacks its run configuration: {error}") from error
    site = open_site(
        context.node_config, text, purpose
    )  # judges the request before anything else of it is read
    return site, from_flat(flat_from_json(text)), _tensors(message, "model")


def _tensors(message: Message, name: str) -> Parameters:
    try:
        payload = message.content.array_records["arrays"][name].data
    except KeyError as error:
        raise ConfigError(f"request lacks its tensors {name!r}") from error
    return unpack(payload)
