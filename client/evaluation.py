"""Results on held-out patients, computed in the way that the policy and the run agree on.

The policy's rule decides; a run may ask for less, never for more. What is private is charged to the ledger before
a record is read. What is rounded is not private: it is told once a run, and the ledger keeps that it was told.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from client.answer_cache import AnswerCache
from client.model import as_read, device, open_model
from client.release import PrivateHistograms, Results, Rounded, Shown, one_code
from client.site import Site
from client.site_folder import StateFolder
from client.training import Parameters, evaluate_round, load_parameters
from mmmed.config import RunConfig
from mmmed.data.loader import Records
from mmmed.inference.predict import predict
from mmmed.models import MultimodalModel
from mmmed.tasks.base import Target
from privacy.accounting import calibrate_noise_multiplier
from privacy.errors import PlanError, PolicyRefusal
from privacy.ledger import evaluation_id
from privacy.metrics import ReleaseKind, evaluation_event, release_kind
from privacy.planning import check_delta
from privacy.policy import EVALUATION, SHOWN

_MIN_OF_GROUP = 10  # patients, for a rounded result
_TABLES = "tables"


def results_due(config: RunConfig, server_round: int) -> bool:
    """Whether a site with a policy is to tell results: once, in the last round, if the run wants any."""
    return config.privacy.metrics != "none" and server_round >= config.federation.rounds


def results(site: Site, config: RunConfig, run_id: str, server_round: int, incoming: Parameters) -> Results:
    """The results of the `incoming` parameters that may leave. The policy has allowed the request.

    Args:
        site: whose held-out patients are predicted.
        config: the run's configuration.
        run_id: the run, under which the ledger charges its only private release or notes that results are told.
        server_round: number of the round, from 1.
        incoming: trainable parameters by name, as the run's model has them.

    Raises:
        BudgetExceeded, PlanError, LedgerError, PolicyRefusal: the site's privacy does not permit it.
        ConfigError: the incoming parameters are not those of the run's model.
        RoundFailed: anything that happened after the charge, or after the ledger noted that results are told.
    """
    if all(site.policy.metric_rule(name) == SHOWN for name in config.task.target().told):
        return Shown(evaluate_round(site, config, incoming))
    if config.privacy.metrics == "rounded":
        return _rounded(site, config, run_id, incoming)
    return _private(site, config, run_id, server_round, incoming)


def release_of(config: RunConfig) -> ReleaseKind:
    """What is released of the task's results under privacy.

    Raises:
        PlanError: the task has no private release.
    """
    if config.task.release is None:
        raise PlanError(f"Task {config.task.kind!r} has no release of results under privacy.")
    return release_kind(config.task.release.kind, config.task.release.size)


def private_results(
    model: MultimodalModel, config: RunConfig, records: Records, noise_multiplier: float
) -> np.ndarray:
    """The noised sums of the model's results on `records`. Whoever calls has charged them.

    Raises:
        NoiseError: the noise cannot be drawn, or a prediction is out of range.
    """
    target = config.task.target()
    predictions = np.nan_to_num(predict(model, target, records))  # what is no number is one patient's alone
    score, label = target.evidence(predictions, records.labels)
    return release_of(config).private(score, label, records.patient, noise_multiplier)


def _private(
    site: Site, config: RunConfig, run_id: str, server_round: int, incoming: Parameters
) -> PrivateHistograms:
    """The same request gets the same answer again; another one finds the run's only release spent."""
    model, data = open_model(config), as_read(site.data, config)
    load_parameters(model, incoming).to(device())
    name = evaluation_id(run_id)
    kept = AnswerCache(StateFolder(site.state).released, name, server_round, incoming)
    if (before := kept.read()) is not None and before[1] is not None:
        return PrivateHistograms(before[0][_TABLES].numpy(), before[1])
    delta, patients = config.privacy.delta, len(site.held_out)
    event = evaluation_event(calibrate_noise_multiplier(config.privacy.metrics_epsilon, delta, 1.0, 1))
    site.policy.check_plan(EVALUATION, event.noise_multiplier, patients)
    if not patients:
        raise PlanError("The site holds no patient out of training: there is nobody to test on.")
    check_delta(site.policy.largest_delta, site.policy.patients or patients)
    clip = release_of(config).sensitivity
    with site.ledger() as ledger:
        limits = site.policy.sublimits(EVALUATION, ledger.now())
        plan = ledger.plan(site.held_out_identity, name, event, delta, clip, EVALUATION, limits)
        reservation = ledger.reserve(plan, server_round, 1, limits)
        with one_code():
            tables = private_results(model, config, data.test, plan.mechanism.noise_multiplier)
            reservation.commit(1)
            spending = site.spending(ledger, plan, 1, metrics_shown=False)
            kept.write({_TABLES: torch.from_numpy(tables)}, spending)
    return PrivateHistograms(tables, spending)


def _rounded(site: Site, config: RunConfig, run_id: str, incoming: Parameters) -> Rounded:
    model, data, target = open_model(config), as_read(site.data, config), config.task.target()
    load_parameters(model, incoming).to(device())
    site.policy.check_plan(EVALUATION, math.inf, len(site.held_out))
    with site.ledger() as ledger:
        ledger.disclose(run_id, target.told)  # whatever comes now tells of the labels, also that nothing does
    with one_code():
        return _rounded_of(model, target, data.test)


def _rounded_of(model: MultimodalModel, target: Target, records: Records) -> Rounded:
    members = target.members(records.labels)
    for number in range(len(target.groups)):
        if len(np.unique(records.patient[members[:, number]])) < _MIN_OF_GROUP:
            raise PolicyRefusal(
                "metrics", f"fewer than {_MIN_OF_GROUP} patients of a kind of label: nothing is told."
            )
    found = target.scores(predict(model, target, records), records.labels)
    return Rounded({name: found[name] for name in target.told})
