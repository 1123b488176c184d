"""The Flower ClientApp: from a message to the site's answer, the same in simulation and deployment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.error_feedback import pack_update
from client.evaluation import results, results_due
from client.gate import open_site, shows_everything, site_name, state_dir
from client.refusal_log import record_refusal
from client.release import evaluation_reply, one_code, refusal_code, refusal_reply, training_reply
from client.site import Site
from client.site_folder import StateFolder
from client.training import Parameters, local_steps, train_round
from mmmed.federation.protocol import MODEL, Request
from mmmed.federation.strategies.base import AtSite, SiteRound
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
        incoming = unpack(request.packed(MODEL))
        kept = StateFolder(site.state).carried(request.run_id)
        strategy = _strategy(request, kept, incoming)
        parameters, spending = train_round(
            site, config, request.run_id, request.round, incoming, strategy.correct
        )
        with one_code():
            update = pack_update(
                parameters,
                incoming,
                config.federation.wire,
                residual=kept / "rounded",
                server_round=request.round,
            )
            told = strategy.finish(unpack(update), local_steps(site, config, spending))
            return training_reply(message, site.name, update, spending, told)

    return _or_refuse(message, context, answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on held-out records; `client.release` decides which results leave."""

    def answer() -> Message:
        request = Request.read(message.content)
        node = context.node_config
        if not (shows_everything(node) or results_due(request.config, request.round)):
            return evaluation_reply(message, site_name(node, request.config), None, None)
        site = _open(context, request, EVALUATION)
        arrays = unpack(request.packed(MODEL))
        found = results(site, request.config, request.run_id, request.round, arrays)
        return evaluation_reply(message, site.name, site.policy, found, request.config.task.target().told)

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


def _strategy(request: Request, folder: Path, incoming: Parameters) -> AtSite:
    """The site's half of the run's strategy, with the tensors that it wants of the request."""
    section = request.config.federation.strategy
    half = section.halves().site
    extras = {name: unpack(request.packed(name)) for name in half.wants}
    return half(section, SiteRound(request.config, request.round, folder, incoming, extras))
