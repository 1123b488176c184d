"""The Flower ClientApp: from a message to the site's answer, the same in simulation and deployment."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from client.evaluation import results, results_due
from client.exchange import Exchange
from client.foresight import foreseen
from client.gate import open_site, place_of
from client.refusal_log import record_refusal
from client.release import (
    AwaitsApproval,
    check_reply,
    evaluation_reply,
    join_reply,
    one_code,
    refusal_code,
    refusal_reply,
    training_reply,
)
from client.secure_steps import close_run, introduction, masked_step
from client.site_folder import StateFolder
from client.training import local_steps, train_round
from mmmed.federation.protocol import CHECK, CHECK_MESSAGE, MODEL, Request
from mmmed.wire import unpack
from privacy.policy import EVALUATION, TRAINING


def or_refuse(message: Message, context: Context, answer: ClientAppCallable) -> Message:
    """The Flower mod around all: the answer, or for whatever it raises a refusal with a code."""
    try:
        if message.metadata.message_type == CHECK_MESSAGE:  # no record is read: it waits for no withdrawal
            return answer(message, context)
        with place_of(context.node_config).in_use():
            return answer(message, context)
    except Exception as error:  # its text may hold a name: it goes to the site's log, and only a code leaves
        code = refusal_code(error)
        record_refusal(place_of(context.node_config).state, code, error)
        return refusal_reply(message, code)


app = ClientApp(mods=[or_refuse])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round privately."""
    request = Request.read(message.content)
    site, config = open_site(place_of(context.node_config), request, TRAINING), request.config
    if config.federation.release == "secure-steps":
        return training_reply(message, site.name, *masked_step(site, request), {})
    exchange = Exchange.read(request, StateFolder(site.state).carried(request.run_id))
    parameters, spending = train_round(
        site, config, request.run_id, request.round, exchange.incoming, exchange.correct
    )
    with one_code():
        update, told = exchange.finish(parameters, local_steps(site, config, spending))
        return training_reply(message, site.name, update, spending, told)


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say who this site is to a run of masked sums, and show its key of the run."""
    request = Request.read(message.content)
    site = open_site(place_of(context.node_config), request, TRAINING)
    return join_reply(message, site.name, site.public_key, introduction(site, request))


@app.query(CHECK)
def check(message: Message, context: Context) -> Message:
    """Say whether this site would refuse a run. Nothing is charged or kept, and no record is read."""
    request, place = Request.read(message.content), place_of(context.node_config)
    error, purpose = foreseen(place, request)
    if error is not None and not isinstance(error, AwaitsApproval):
        record_refusal(place.state, refusal_code(error), error)
    return check_reply(message, place.name(request.config), error, purpose)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on held-out records; `client.release` decides which results leave."""
    request, place = Request.read(message.content), place_of(context.node_config)
    config = request.config
    if request.round >= config.federation.rounds:  # whether or not results leave
        close_run(place.state, request.run_id)
    if not (place.shows_everything or results_due(config, request.round)):
        return evaluation_reply(message, place.name(config), None, None)
    site = open_site(place, request, EVALUATION)
    arrays = unpack(request.packed(MODEL))
    found = results(site, config, request.run_id, request.round, arrays)
    return evaluation_reply(message, site.name, site.policy, found, config.task.target().told)
