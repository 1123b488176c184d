"""One step of the federation at a site, under masks: the server learns the sum over sites and no site's part.

`privacy.secure_sum` has the protocol and its order: charge, note, draw, mask, keep, send. Here it meets the site:
terms, which `client.gate` judged by the site's policy, are compared with the run's configuration, an attempt is charged
to the site's ledger, and the draw is a private step's clipped sum, to which `privacy.secure_sum` adds this site's share
of the noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from client.mechanism import patient_batches, private_draws, private_step
from client.model import as_read, device, open_model
from client.progress import Progress
from client.release import RoundFailed, Spending, one_code
from client.site import Site
from client.site_folder import StateFolder
from client.training import load_parameters, public_seed
from mmmed.config import RunConfig
from mmmed.errors import ConfigError
from mmmed.federation.protocol import MODEL, Request, SumRequest
from mmmed.models import trainable_state
from mmmed.training import make_optimizer, train
from mmmed.wire import unpack
from privacy.accounting import claimed_epsilon, shown
from privacy.dpsgd import PrivateStep, sensitivity
from privacy.errors import PlanError
from privacy.ledger import Ledger, Plan, Sublimit
from privacy.ledger.admission import charged_event
from privacy.planning import check_delta
from privacy.policy import TRAINING
from privacy.report import Asked, Shared
from privacy.secure_sum import Request as StepRequest
from privacy.secure_sum import Site as Member
from privacy.secure_sum import Terms
from privacy.secure_sum.keys import read_introductions, write_introductions
from privacy.secure_sum.state import State


def introduction(site: Site, request: Request) -> bytes:
    """The site's key of the run under its signature, once its policy and its budget allow the terms; b"" before them.

    Raises:
        PolicyRefusal, BudgetExceeded, PlanError, LedgerError: the site's privacy does not permit the run.
        SecureSumRefusal: the terms are not what they should be, or the run has ended here.
        ConfigError: the request is not one of masked sums.
    """
    asked = _asked(request)
    if not asked.terms:
        return b""
    with _member(site, request.config, request.run_id, asked) as (member, _, _):
        return write_introductions([member.introduce()])


def masked_step(site: Site, request: Request) -> tuple[bytes, Spending]:
    """This site's masked words for one attempt at one step, and what was charged. Asked again, the same words.

    Raises:
        VoidStep: the attempt was begun before and its answer is lost.
        PolicyRefusal, BudgetExceeded, PlanError, LedgerError: the site's privacy does not permit it.
        SecureSumRefusal: the request may not be answered. Nothing was charged.
        ModelError, UnsupportedModel, ConfigError: the model or its parameters are not what they should be.
        RoundFailed: anything that happened after the charge.
    """
    asked, config, packed = _asked(request), request.config, request.packed(MODEL)
    step = StepRequest(request.round, asked.attempt, asked.cohort, hashlib.sha256(packed).digest())
    incoming = unpack(packed)
    load_parameters(open_model(config), incoming)  # found out before the charge
    with _member(site, config, request.run_id, asked) as (member, account, ledger):
        member.meet(read_introductions(asked.keys))
        try:
            words = member.answer(
                step, lambda: _clipped_sum(site, config, request.round, incoming, account.plan)
            )
            Progress(request.run_id, request.round, 1, 1).write(site.state)
            spending = _spending(site, request, member.terms, ledger, account.plan)
        except Exception as error:
            if account.charged:
                raise RoundFailed(f"{type(error).__name__}: {error}") from error
            raise
        return words, spending


def close_run(state: Path, run_id: str) -> None:
    """End a run of masked sums at the site of this state folder: its secret key and last answer are deleted."""
    for folder in StateFolder(state).secure_sum(run_id).glob("*"):
        kept = State(folder)
        with kept.lock():
            kept.close()


def _asked(request: Request) -> SumRequest:
    if request.sum is None or request.config.federation.release != "secure-steps":
        raise ConfigError("request: the part on masked sums is missing, or the run has none")
    return request.sum


class _Account:
    """The run in the site's ledger: an attempt's number is the round that it is charged under."""

    def __init__(self, ledger: Ledger, plan: Plan, limits: tuple[Sublimit, ...]) -> None:
        self._ledger, self.plan, self._limits = ledger, plan, limits
        self.charged = False

    def last(self) -> int:
        return max((last for _, last, _ in self._ledger.charged_rounds(self.plan.run_id)), default=0)

    def charge(self, attempt: int) -> None:
        self._ledger.reserve(self.plan, attempt, 1, self._limits).commit(1)
        self.charged = True


@contextmanager
def _member(
    site: Site, config: RunConfig, run_id: str, asked: SumRequest
) -> Iterator[tuple[Member, _Account, Ledger]]:
    """The site as a member of the run, planned in its ledger if its policy and its budget allow the terms."""
    terms = _agreed(site, config, run_id, asked.terms)
    with site.ledger() as ledger:
        known = ledger.find_plan(terms.run)
        # (of a run that goes on its own number, so that a patient who leaves does not show)
        patients = site.data.train.patients if known is None else ledger.planned_patients(known)
        check_delta(max(config.privacy.delta, site.policy.largest_delta), site.policy.patients or patients)
        limits = site.policy.sublimits(TRAINING, ledger.now())
        site.policy.check_plan(TRAINING, terms.event.noise_multiplier, patients)
        plan = _plan(site, config, ledger, terms, limits)
        account = _Account(ledger, plan, limits)
        folder = StateFolder(site.state).secure_sum(run_id) / terms.digest.hex()
        yield Member(folder, site.name, site.key, terms, account), account, ledger


def _agreed(site: Site, config: RunConfig, run_id: str, content: bytes) -> Terms:
    """The terms, if they are those that the run's configuration asks for, with this site under its own key."""
    terms, federation = Terms.parse(content), config.federation
    shapes = {name: value.shape for name, value in trainable_state(open_model(config)).items()}
    expected = Terms.planned(
        run_id,
        dict(terms.roster) | {site.name: site.public_key},  # the others are the policy's to judge
        shapes,
        clip=sensitivity(config.privacy.max_grad_norm),
        noise_multiplier=terms.noise_multiplier,  # judged by the epsilon that it gives
        sampling_rate=federation.sampling_rate,
        steps=federation.rounds,
        repeats=federation.repeats,
        honest=federation.honest,
        least_cohort=federation.min_sites,
    )
    if terms != expected:
        differ = [key for key, value in vars(expected).items() if value != vars(terms)[key]]
        raise PlanError(f"The terms are not those of the run's configuration: {', '.join(differ)} differ.")
    return terms


def _plan(site: Site, config: RunConfig, ledger: Ledger, terms: Terms, limits: tuple[Sublimit, ...]) -> Plan:
    """The run's plan, signed at its first request; the ledger refuses another one under the same name."""
    privacy, known = config.privacy, ledger.find_plan(terms.run)
    epsilon = known.epsilon if known else claimed_epsilon([charged_event(terms.event)], privacy.delta)
    if not epsilon <= privacy.target_epsilon:
        raise PlanError(
            f"The terms' noise multiplier {terms.noise_multiplier:g} gives epsilon {shown(epsilon)}, more than "
            f"privacy.target_epsilon = {privacy.target_epsilon:g}."
        )
    return ledger.plan(
        site.identity,
        terms.run,
        terms.event,
        privacy.delta,
        max_grad_norm=privacy.max_grad_norm,
        purpose=TRAINING,
        sublimits=limits,
        shared=terms.digest.hex(),  # what the site signs of the run is of these terms alone
    )


def _clipped_sum(
    site: Site, config: RunConfig, number: int, incoming: dict[str, torch.Tensor], plan: Plan
) -> np.ndarray:
    """The sum of clipped gradients over a fresh draw of the site's patients, float64 [d], without noise."""
    with one_code():
        model = load_parameters(open_model(config), incoming).to(device())
        records = as_read(site.data, config).train
        private = private_step(
            model,
            make_optimizer(model, config.training),
            config,
            plan.mechanism.noise_multiplier,
            tried=True,
        )
        step = _SumAlone(private)
        draws = private_draws(records.patients, plan.mechanism.sampling_rate, 1)
        batches = patient_batches(records, config, public_seed(config, site, number, "augmentation"))
        train(model, config, step, draws, batches, centring=config.model.fusion.is_centring(number))
        parts = [step.total[name].detach().double().cpu().flatten() for name in trainable_state(model)]
        return torch.cat(parts).numpy()


class _SumAlone:
    """A private step that keeps its clipped sum in place of moving the model. See `mmmed.training.loop.Step`."""

    def __init__(self, private: PrivateStep) -> None:
        self._private = private
        self.total: dict[str, torch.Tensor] = {}

    def accumulate(
        self, record_losses: Callable[[], torch.Tensor], units: torch.Tensor, copies: int = 0
    ) -> None:
        self._private.accumulate(record_losses, units, copies)

    def finish(self) -> None:
        self.total = self._private.finish_without_noise()

    def try_on(self, losses: Callable[[torch.Tensor], torch.Tensor], units: torch.Tensor) -> None:
        self._private.try_on(losses, units)


def _spending(site: Site, request: Request, terms: Terms, ledger: Ledger, plan: Plan) -> Spending:
    config = request.config
    return site.spending(
        ledger,
        plan,
        1,
        metrics_shown=site.shows_metrics(config),
        asked=Asked.of(config.privacy.target_epsilon, terms.steps, None, site.policy.patients),
        shared=Shared(len(terms.roster), terms.honest, terms.least_cohort, request.round),
    )
