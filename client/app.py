"""The Flower ClientApp: from a message to the site's answer, the same in simulation and deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.log import record_refusal
from client.node import open_site, shows_everything, site_name, state_dir
from client.release import evaluation_reply, one_code, refusal_code, refusal_reply, training_reply
from client.results import results, results_due
from client.rounds import local_steps, train_round
from client.scaffold import Scaffold
from client.site import Site
from client.update import pack_update
from mmmed.federation.protocol import MODEL, Request
from mmmed.wire import unpack
from privacy.ledger import Receipt
from privacy.policy import EVALUATION, TRAINING

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round privately, or refuse with a code."""

    def answer() -> Message:
        request = Request.read(message.content)
        site, config = _open(context, request, TRAINING), request.config
        arrays = unpack(request.packed(MODEL))
        carried = site.state / "carried" / hashlib.sha256(request.run_id.encode()).hexdigest()[:32]
        scaffold, drift = None, None
        if config.federation.strategy.kind == "scaffold":
            scaffold = Scaffold(carried / "control", request.round, unpack(request.packed("control")))
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
            told = {} if steps is None else {"local-steps": float(steps)}
            return training_reply(message, site.name, update, spending, told)

    return _or_refuse(message, context, answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on held-out records; what is told of it is for `client.release` to decide."""

    def answer() -> Message:
        request = Request.read(message.content)
        node = context.node_config
        if not (shows_everything(node) or results_due(request.config, request.round)):
            return evaluation_reply(message, site_name(node, request.config), None, None)
        site = _open(context, request, EVALUATION)
        arrays = unpack(request.packed(MODEL))
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


def _open(context: Context, request: Request, purpose: str) -> Site:
    """The site, if its policy allows the request and its frozen weights are the server's.

    Its ledger must be the one that the server has seen last.
    """
    site = open_site(context.node_config, request.config, purpose, request.frozen)
    if request.receipt:
        with site.ledger() as ledger:
            ledger.check_receipt(Receipt.from_json(request.receipt))
    return site
