"""The Flower ClientApp: from a message to the site's answer, the same in simulation and deployment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.log import record_refusal
from client.node import open_site, shows_everything, site_name, state_dir
from client.release import evaluation_reply, one_code, refusal_code, refusal_reply, training_reply
from client.results import results, results_due
from client.rounds import Parameters, local_steps, train_round
from client.scaffold import Scaffold
from client.site import Site
from client.update import pack_update
from mmmed.config import RunConfig, from_flat
from mmmed.config.sources import flat_from_json
from mmmed.errors import ConfigError
from mmmed.wire import unpack
from privacy.ledger import Receipt
from privacy.policy import EVALUATION, TRAINING

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round privately, or refuse with a code."""

    def answer() -> Message:
        request = _read(message)
        site, config = _open(context, request, TRAINING), request.config
        arrays = _tensors(message, "model")
        carried = site.state / "carried" / hashlib.sha256(request.run_id.encode()).hexdigest()[:32]
        scaffold, drift = None, None
        if config.federation.strategy.kind == "scaffold":
            scaffold = Scaffold(carried / "control", request.round, _tensors(message, "control"))
            drift = scaffold.drift
        parameters, spending = train_round(site, config, request.run_id, request.round, arrays, drift)
        with one_code():
            update = pack_update(
                parameters,
                arrays,
                config.federation.wire,
                carried=carried / "rounded",
                server_round=request.round,
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
        request = _read(message)
        node = context.node_config
        if not (shows_everything(node) or results_due(request.config, request.round)):
            return evaluation_reply(message, site_name(node, request.text), None, None)
        site = _open(context, request, EVALUATION)
        arrays = _tensors(message, "model")
        found = results(site, request.config, request.run_id, request.round, arrays)
        return evaluation_reply(message, site.name, site.policy, found)

    return _or_refuse(message, context, answer)


def _or_refuse(message: Message, context: Context, answer: Callable[[], Message]) -> Message:
    try:
        return answer()
    except Exception as error:  # its text may hold a name: it goes to the site's log, and only a code leaves
        code = refusal_code(error)
        record_refusal(state_dir(context.node_config), code, error)
        return refusal_reply(message, code)


@dataclass(frozen=True)
class _Request:
    """What the server asks, without its tensors."""

    run_id: str
    round: int
    text: str
    config: RunConfig
    receipt: str
    frozen: Mapping[str, str]


def _read(message: Message) -> _Request:
    try:
        fields = message.content.config_records["config"]
        run_id, server_round = str(fields["run-id"]), int(str(fields["server-round"]))
        text, receipt = str(fields["run-config"]), str(fields.get("ledger-receipt", ""))
        frozen = {str(part): str(digest) for part, digest in json.loads(str(fields["frozen-parts"])).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"request lacks its run, round, configuration or frozen parts: {error}") from error
    return _Request(run_id, server_round, text, from_flat(flat_from_json(text)), receipt, frozen)


def _open(context: Context, request: _Request, purpose: str) -> Site:
    """The site, if its policy allows the request and its frozen weights are the server's.

    Its ledger must be the one that the server has seen last.
    """
    site = open_site(context.node_config, request.text, purpose, request.frozen)
    if request.receipt:
        with site.ledger() as ledger:
            ledger.check_receipt(Receipt.from_json(request.receipt))
    return site


def _tensors(message: Message, name: str) -> Parameters:
    """Tensors of the request, read only once the policy has allowed it."""
    try:
        payload = message.content.array_records["arrays"][name].data
    except KeyError as error:
        raise ConfigError(f"request lacks its tensors {name!r}") from error
    return unpack(payload)
