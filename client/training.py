"""One round at a site: charge, train, keep what was released, in that order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch

from client.answer_cache import AnswerCache
from client.mechanism import local_schedule, patient_batches, private_draws, private_step
from client.model import as_read, device, open_model, reused_model
from client.progress import Progress
from client.release import Spending, one_code
from client.site import Site
from client.site_folder import StateFolder
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.data.loader import Records
from mmmed.errors import ConfigError
from mmmed.inference.predict import predict
from mmmed.models import MultimodalModel, trainable_state
from mmmed.training import PlainStep, Step, make_optimizer, train
from privacy.accounting import DpSgdEvent
from privacy.errors import PlanError
from privacy.ledger import Ledger, Plan, Reservation
from privacy.planning import TrainingPlan, plan_training
from privacy.policy import TRAINING
from privacy.report import Asked

Parameters = Mapping[str, torch.Tensor]


def train_round(
    site: Site,
    config: RunConfig,
    run_id: str,
    server_round: int,
    incoming: Parameters,
    correct: Callable[[Parameters], None] | None = None,
) -> tuple[Parameters, Spending | None]:
    """Train from the `incoming` parameters; return the parameters and the spending that may be released.

    A request that was answered before, for the same round and parameters, gets the same answer again, so that
    a resumed run spends no budget on rounds that this site had finished.

    Args:
        site: whose patients are trained on.
        config: the run's configuration.
        run_id: under which the ledger charges the steps.
        server_round: number of the round, from 1.
        incoming: trainable parameters by name, as the run's model has them.
        correct: moves the parameters in place after every step (`AtSite.correct`), reads no record; None for nothing.

    Returns:
        The trainable parameters after the round, and what was charged; None for the latter without privacy.

    Raises:
        BudgetExceeded, PlanError, LedgerError, PolicyRefusal: the site's privacy does not permit it.
        ModelError, UnsupportedModel: the model cannot be trained privately.
        ConfigError: the incoming parameters are not those of the run's model.
        RoundFailed: anything that happened after the charge.
    """
    private = config.privacy.enabled
    model, data = open_model(config) if private else reused_model(config), as_read(site.data, config)
    load_parameters(model, incoming).to(device())
    if not private:  # asked again, it is computed again: that costs no budget and gives the same
        _Round(site, config, run_id, server_round, model, data.train, correct).plain()
        with one_code():
            return {name: value.clone() for name, value in trainable_state(model).items()}, None
    released = AnswerCache(StateFolder(site.state).released, run_id, server_round, incoming)
    if (before := released.read()) is not None:
        return before
    spending = _Round(site, config, run_id, server_round, model, data.train, correct).private()
    with one_code():
        parameters = trainable_state(model)
        released.write(parameters, spending)
    return parameters, spending


def evaluate_round(site: Site, config: RunConfig, incoming: Parameters) -> dict[str, float]:
    """The task's scores of the `incoming` parameters on the site's held-out records, if it has any."""
    if len(site.data.test) == 0:
        return {}
    model, data = reused_model(config), as_read(site.data, config)
    load_parameters(model, incoming).to(device())
    target = config.task.target()
    return target.scores(predict(model, target, data.test), data.test.labels)


def load_parameters(model: MultimodalModel, incoming: Parameters) -> MultimodalModel:
    """Put the incoming trainable parameters into the model.

    Raises:
        ConfigError: names or shapes differ from the model's, or a value is not finite.
    """
    own = trainable_state(model)
    if incoming.keys() != own.keys():
        different = sorted(incoming.keys() ^ own.keys())
        raise ConfigError(f"parameters do not match the model: {different[:3]} ({len(different)} differ)")
    for name, value in incoming.items():
        if value.shape != own[name].shape:
            raise ConfigError(
                f"parameter {name}: expected shape {tuple(own[name].shape)}. Found {tuple(value.shape)}"
            )
        if (
            not math.isfinite(value.sum()) and not torch.isfinite(value).all()
        ):  # a sum takes a tenth of the time
            raise ConfigError(f"parameter {name}: holds a value that is not finite")
        own[name].copy_(value)
    return model


def local_plan(site: Site, config: RunConfig) -> TrainingPlan:
    """The mechanism of the whole run at this site, calibrated without reading a record.

    Raises:
        PlanError: delta or batch size does not suit the site, or no noise reaches the target.
    """
    return plan_training(
        patients=site.data.train.patients,
        batch_size=config.training.batch_size,
        local_epochs=config.training.local_epochs,
        rounds=config.planned_rounds,
        target_epsilon=config.privacy.target_epsilon,
        delta=config.privacy.delta,
        largest_delta=site.policy.largest_delta,
        stated=site.policy.patients,
        rate=config.step_rate,
    )


def local_steps(site: Site, config: RunConfig, spending: Spending | None) -> int:
    """Steps of a round: those charged, or for a run without privacy those of the schedule."""
    if spending is not None:
        return spending.steps
    return local_schedule(config, site.data.train.patients, site.policy.patients)[1]


class _Round:
    """The work of one round, private or plain."""

    def __init__(
        self,
        site: Site,
        config: RunConfig,
        run_id: str,
        server_round: int,
        model: MultimodalModel,
        records: Records,
        correct: Callable[[Parameters], None] | None,
    ) -> None:
        self._site, self._config, self._run_id, self._round = site, config, run_id, server_round
        self._model, self._records, self._correct = model, records, correct

    def private(self) -> Spending:
        """DP-SGD: tried on made-up records, then charged to the ledger, then taken on the site's own."""
        site, config = self._site, self._config
        try_run(config)
        with site.ledger() as ledger:
            known = ledger.find_plan(self._run_id)
            # A patient who leaves during a run changes nothing that shows: its numbers are those of its plan.
            patients = site.data.train.patients if known is None else ledger.planned_patients(known)
            rate, steps = local_schedule(config, patients, site.policy.patients)
            event = (
                local_plan(site, config).event
                if known is None
                else self._unchanged(ledger, known, rate, steps)
            )
            site.policy.check_plan(  # of a known plan as well: it may have become stricter
                TRAINING, event.noise_multiplier, patients
            )
            optimizer = make_optimizer(self._model, config.training)
            step = private_step(self._model, optimizer, config, event.noise_multiplier, tried=True)
            limits = site.policy.sublimits(TRAINING, ledger.now())
            plan = known or ledger.plan(
                site.identity,
                self._run_id,
                event,
                config.privacy.delta,
                max_grad_norm=config.privacy.max_grad_norm,
                purpose=TRAINING,
                sublimits=limits,
            )
            reservation = ledger.reserve(plan, self._round, steps, limits)
            with one_code():
                return self._charged(ledger, plan, step, reservation)

    def _charged(self, ledger: Ledger, plan: Plan, step: Step, reservation: Reservation) -> Spending:
        """The steps that were charged, and what may be told of them."""
        present = self._site.data.train.patients
        draws = _Counted(private_draws(present, plan.mechanism.sampling_rate, reservation.steps))
        try:
            self._train(step, draws, reservation.steps)
        finally:  # an interrupted round has used the draws it took, and no more
            reservation.commit(draws.taken)
        asked = Asked.of(
            self._config.privacy.target_epsilon,
            self._config.federation.rounds,
            ledger.planned_patients(plan) if self._config.step_rate is None else None,
            self._site.policy.patients,
        )
        return self._site.spending(
            ledger, plan, reservation.steps, metrics_shown=self._site.shows_metrics(self._config), asked=asked
        )

    def plain(self) -> None:
        """Ordinary training on shuffled batches of patients."""
        optimizer, rate = make_optimizer(self._model, self._config.training), self._config.step_rate
        steps = local_steps(self._site, self._config, None)
        with one_code(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed("dropout"))
            if rate is None:
                self._train(PlainStep(optimizer), self._shuffled(steps), steps)
            else:  # as the private step: whoever is drawn, and a public divisor
                step = PlainStep(optimizer, divisor=self._config.training.batch_size)
                self._train(step, [self._sampled(rate)], steps)

    def _unchanged(self, ledger: Ledger, plan: Plan, rate: float, steps: int) -> DpSgdEvent:
        """The mechanism of the run's plan, if it is what the run still asks for."""
        privacy = self._config.privacy
        if plan.shared:
            raise PlanError(
                f"Run {self._run_id} was planned as one of masked sums, in which sites share the noise: what the site "
                "signs of it would be wrong for a step with noise of its own. Start a new run."
            )
        if not ledger.covers(plan, self._site.identity):
            raise PlanError(
                f"Run {self._run_id} was planned for other patients than the data set holds now: whoever came "
                "would not be charged. Start a new run, or put back the data set of then."
            )
        asked = (
            rate,
            steps * self._config.federation.rounds,
            privacy.delta,
            privacy.max_grad_norm,
        )
        signed = (plan.mechanism.sampling_rate, plan.mechanism.steps, plan.delta, plan.max_grad_norm)
        if not np.allclose(asked, signed, rtol=1e-6, atol=0) or plan.epsilon > privacy.target_epsilon:
            raise PlanError(
                f"Run {self._run_id} asks for another mechanism than the one this site planned for it: rate, steps, "
                f"delta, clip are {asked}, planned {signed}. Start a new run."
            )
        return plan.mechanism

    def _train(self, step: Step, draws: Iterable[np.ndarray], steps: int) -> None:
        training = self._config.training
        batches = patient_batches(self._records, self._config, self._seed("augmentation"))
        done = 0
        pull = proximal_pull(self._model, training.learning_rate * training.proximal_mu)
        parameters = trainable_state(self._model)

        def after_step() -> None:
            nonlocal done
            done += 1
            pull()
            if self._correct is not None:
                with torch.no_grad():
                    self._correct(parameters)
            Progress(self._run_id, self._round, done, steps).write(self._site.state)

        centring = self._config.model.fusion.is_centring(self._round)
        train(self._model, self._config, step, draws, batches, centring=centring, after_step=after_step)

    def _shuffled(self, steps: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self._seed("order"))
        patients, size = self._site.data.train.patients, self._config.training.batch_size
        order = np.empty(0, dtype=np.int64)
        for _ in range(steps):
            if len(order) < min(size, patients):
                order = np.concatenate([order, rng.permutation(patients)])
            yield order[:size]
            order = order[size:]

    def _sampled(self, rate: float) -> np.ndarray:
        lots = np.random.default_rng(self._seed("order")).random(self._site.data.train.patients)
        return np.flatnonzero(lots < rate)

    def _seed(self, purpose: str) -> int:
        return public_seed(self._config, self._site, self._round, purpose)


def public_seed(config: RunConfig, site: Site, server_round: int, purpose: str) -> int:
    """A public seed, the same in every engine: the first 32 bits of a SHA-256 of all four.

    Args:
        config: gives the run's seed, `training.seed`.
        site: gives the name.
        server_round: number of the round.
        purpose: what is drawn, such as "augmentation"; each purpose has a seed of its own.

    Returns:
        A whole number in [0, 2^32).
    """
    text = f"{config.training.seed}\x00{site.name}\x00{server_round}\x00{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


class _Counted:
    """An iterable of draws that knows how many were taken."""

    def __init__(self, draws: Iterable[np.ndarray]) -> None:
        self._draws = draws
        self.taken = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for draw in self._draws:
            self.taken += 1
            yield draw


def proximal_pull(model: MultimodalModel, strength: float) -> Callable[[], None]:
    """FedProx (arXiv 1812.06127) as a decoupled step towards the round's start: it reads no data."""
    if strength == 0:
        return lambda: None
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def pull() -> None:
        for parameter, origin in zip(parameters, start, strict=True):
            parameter.lerp_(origin, min(1.0, strength))

    return pull
