"""A sweep over settings on a site's own patients, accounted as a whole: only its best trial is ever known.

A trial draws one of the candidates by chance, trains it at this site with DP-SGD on the training patients, and scores
it on the held-out patients by the task's main score as `privacy.metrics` reads it from noised counts. How many trials
there are is drawn beforehand, at random, and told to nobody. Released is the trial with the best score, its settings
and its score; of the others nothing is written, printed or kept.

What that costs is the theorem of Papernot and Steinke 2022 (arXiv 2110.03620; `privacy.accounting.rdp`). It bounds what
the *whole* output of a trial tells, its score included, so the score must be private as well: a training patient's
data enter a trial by DP-SGD alone, a held-out patient's by the noised counts alone, and each of the two groups is
charged for its own mechanism. A score without noise would be an exact function of the held-out patients, and choosing
by it a release of them that nobody accounts for.

Both groups are charged for the whole sweep, durably, before the first trial. A sweep that is killed stays charged,
cannot be continued, and has released nothing.
"""

from __future__ import annotations

import json
import secrets
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client.evaluation import private_results, release_of
from client.hospital import Hospital
from client.mechanism import local_schedule, patient_batches, private_draws, private_step
from client.model import as_read, device, open_model
from client.run_request import INSTALLED, run_request
from client.site import Site
from client.training import proximal_pull, public_seed
from client.trial import try_run
from mmmed.config import Candidate, RunConfig
from mmmed.data.loader import Records
from mmmed.errors import ConfigError
from mmmed.models import MultimodalModel, save_model
from mmmed.training import make_optimizer, train
from privacy.accounting import DpSgdEvent, SelectionEvent, calibrate_selection, epsilon
from privacy.accounting.stopping import draw_number_of_trials
from privacy.dpsgd import PrivateStep
from privacy.errors import NoiseError, PlanError
from privacy.ledger import Plan, evaluation_id
from privacy.metrics import Estimate, ScoreEstimate
from privacy.planning import check_delta
from privacy.policy import EVALUATION, TRAINING, TUNING
from privacy.report import sign_statement

_FREE = ("training", "model")  # sections of which every key may vary, but for the split's seed
_FREE_KEYS = ("privacy.max_grad_norm", "privacy.clipping", "federation.rounds")
_SEED = "training.seed"
FILE = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What a sweep will do, worked out before any record is used.

    Attributes:
        candidates: what a trial may draw.
        steps_per_round: of each candidate.
        training: what the training patients are charged; a mechanism for each candidate, in order.
        scoring: what the held-out patients are charged.
        sensitivity: of the counts from which a score is computed.
        score_error: standard error of a score from its noise, were half the patients of each class.
    """

    candidates: tuple[Candidate, ...]
    steps_per_round: tuple[int, ...]
    training: SelectionEvent
    scoring: SelectionEvent
    sensitivity: float
    score_error: float


@dataclass(frozen=True)
class Winner:
    """The best trial, and what the patients were charged for the whole sweep.

    Attributes:
        candidate: its settings.
        score: its score; None where every trial's was lost in its noise.
        trial_epsilon: what one trial of it would cost alone (PLD): a run with its settings wants this noise.
        epsilon, scoring_epsilon: of the sweep, for the patients trained on and for those held out.
    """

    candidate: Candidate
    score: Estimate | ScoreEstimate | None
    trial_epsilon: float
    epsilon: float
    scoring_epsilon: float


def open_site(folder: Path, candidates: Sequence[Candidate]) -> Site:
    """Open a hospital's folder for a sweep over `candidates`.

    Raises:
        PolicyError: its policy does not allow a candidate, or no tuning at all.
        ConfigError: a key is varied that a sweep on patients' data cannot vary, or a candidate has centring steps.
        ModelError, PrivacyError: a candidate cannot be trained, as made-up records show, or there is no patient.
    """
    for key in candidates[0].settings:
        if key == _SEED or not (key.split(".")[0] in _FREE or key in _FREE_KEYS):
            raise ConfigError(
                f"--vary {key}: a sweep at a site can vary training.* (but not {_SEED}, which splits the patients), "
                f"model.*, {', '.join(_FREE_KEYS)}"
            )
    base = candidates[0].config
    if not base.privacy.enabled:
        raise ConfigError("privacy.enabled is false: a sweep on patients' data must be private")
    if any(each.config.model.fusion.is_centring(1) for each in candidates):
        raise ConfigError(
            "model.fusion.centring_steps: a sweep at a site takes steps of the task alone, so what it found would be "
            "of another training. Set it to 0 for the sweep"
        )
    hospital = Hospital(folder)
    policy = hospital.judge(base, TUNING)
    try_run(base)
    site = hospital.open(base, policy)
    if not site.patients:
        raise PlanError("There is no patient to train on: look at data.where, the label and site.toml.")
    with site.ledger() as ledger:
        for candidate in candidates:
            site.policy.check(run_request(candidate.config, TUNING, INSTALLED), ledger.clock().latest)
    for candidate in candidates:
        try_run(candidate.config)
    return site


def plan_sweep(site: Site, candidates: Sequence[Candidate], mean: float, shape: float) -> Sweep:
    """Solve the noise so that the whole sweep keeps privacy.target_epsilon and privacy.metrics_epsilon.

    Args:
        site: the opened site; only its numbers of patients are used.
        candidates: what a trial may draw; `open_site` has checked them.
        mean, shape: of the number of trials; see `SelectionEvent`.

    Raises:
        PlanError: delta or a batch size does not suit the site, or the score would be lost in its noise.
        PolicyRefusal: too few patients, or too little noise, for the site's policy.
        AccountingError: no noise keeps the target.
    """
    privacy = candidates[0].config.privacy
    patients, held_out = site.data.train.patients, len(site.held_out)
    check_delta(privacy.delta, max(patients, held_out))
    plans = [local_schedule(each.config, patients, site.policy.patients) for each in candidates]
    training = calibrate_selection(
        privacy.target_epsilon,
        privacy.delta,
        [
            (rate, steps * each.config.federation.rounds)
            for (rate, steps), each in zip(plans, candidates, strict=True)
        ],
        mean,
        shape,
    )
    scoring = calibrate_selection(privacy.metrics_epsilon, privacy.delta, [(1.0, 1)], mean, shape)
    site.policy.check_plan(TRAINING, min(trial.noise_multiplier for trial in training.trials), patients)
    site.policy.check_plan(EVALUATION, scoring.trials[0].noise_multiplier, held_out)
    release = release_of(candidates[0].config)
    moved = release.sensitivity
    even = release.estimate(release.even(held_out), scoring.trials[0].noise_multiplier * moved)
    if even.noise_error is None:
        raise PlanError(
            f"The score of a trial would be lost in its noise (noise multiplier "
            f"{scoring.trials[0].noise_multiplier:.2f}): the site holds too few patients out of training. Raise "
            "privacy.metrics_epsilon, lower --trials, or hold out more patients (data.test_fraction)."
        )
    steps = tuple(steps for _, steps in plans)
    return Sweep(tuple(candidates), steps, training, scoring, moved, even.noise_error)


def run_sweep(site: Site, sweep: Sweep, out: Path) -> Winner:
    """Charge the whole sweep, run it, and write the winner, and nothing else, to `out`.

    ``out/model`` is the winner's model with its configuration, ``out/sweep.json`` its settings and score, and the
    site's signed statements of what both groups of patients were charged.

    Raises:
        BudgetExceeded, LedgerError, PolicyRefusal: the site's privacy does not permit it; nothing was run.
        ConfigError: `out` holds something, or cannot be written.
    """
    for each, event in zip(sweep.candidates, sweep.training.trials, strict=True):
        try_run(each.config)
        _step(open_model(each.config), each.config, event)  # so much noise can be added to so many parameters
    with _whole(out) as draft:
        plans, stated = _charge(site, sweep)
        number, model, score = _best(site, sweep)
        candidate = sweep.candidates[number]
        alone = epsilon([sweep.training.trials[number]], candidate.config.privacy.delta)
        save_model(draft / "model", model, _asking_for(candidate.config, alone))
        found = {
            "settings": dict(candidate.settings),
            "score": None if score is None else score.to_json(),
            "statements": stated,
        }
        (draft / FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return Winner(candidate, score, alone, plans[0].epsilon, plans[1].epsilon)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it, or goes. It is made first, so that what cannot be kept is not charged."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already. Name a new or empty folder for the winner")
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _charge(site: Site, sweep: Sweep) -> tuple[list[Plan], list[dict[str, Any]]]:
    """Charge both groups of patients for the whole sweep, or neither; the plans, and the site's statements on them."""
    name = f"sweep-{uuid.uuid4().hex}"
    delta = sweep.candidates[0].config.privacy.delta
    clip = max(each.config.privacy.max_grad_norm for each in sweep.candidates)
    trials = tuple(dict.fromkeys(sweep.training.trials))
    with site.ledger() as ledger:
        limits = site.policy.sublimits(TUNING, ledger.now())
        charges = (
            (site.identity, name, replace(sweep.training, trials=trials), clip),
            (site.held_out_identity, evaluation_id(name), sweep.scoring, sweep.sensitivity),
        )
        for dataset, _, event, _ in charges:
            ledger.check(dataset, event, delta, limits)
        plans = [
            ledger.plan(dataset, run, event, delta, norm, TUNING, limits)
            for dataset, run, event, norm in charges
        ]
        for plan in plans:
            ledger.reserve(plan, 1, 1, limits)  # never committed lower: from here on it counts whole
        return plans, [
            sign_statement(ledger, plan, site=site.name, key=site.key, metrics_shown=False) for plan in plans
        ]


def _best(site: Site, sweep: Sweep) -> tuple[int, MultimodalModel, Estimate | ScoreEstimate | None]:
    """Candidate, model and score of the best of a random number of trials. The first of equals is kept."""
    best: tuple[int, MultimodalModel, Estimate | ScoreEstimate | None] | None = None
    for _ in range(draw_number_of_trials(sweep.training.mean, sweep.training.shape)):
        number = secrets.randbelow(len(sweep.candidates))
        trial = (number, *_trial(site, sweep, number))
        if best is None or _rank(trial[2]) > _rank(best[2]):
            best = trial
    assert best is not None  # one trial or more is drawn
    return best


def _rank(score: Estimate | ScoreEstimate | None) -> float:
    return float("-inf") if score is None or score.goodness is None else score.goodness


def _trial(site: Site, sweep: Sweep, number: int) -> tuple[MultimodalModel, Estimate | ScoreEstimate | None]:
    """Train one candidate and score it. A model that broke (NaN) has no score."""
    config, event = sweep.candidates[number].config, sweep.training.trials[number]
    model, data = open_model(config).to(device()), as_read(site.data, config)
    try:
        for one in range(1, config.federation.rounds + 1):
            _train_round(site, config, model, data.train, event, one, sweep.steps_per_round[number])
        noise = sweep.scoring.trials[0].noise_multiplier
        tables = private_results(model, config, data.test, noise)
    except NoiseError:
        return model, None
    return model, release_of(config).estimate(tables, noise * sweep.sensitivity)


def _train_round(
    site: Site,
    config: RunConfig,
    model: MultimodalModel,
    records: Records,
    event: DpSgdEvent,
    number: int,
    steps: int,
) -> None:
    step = _step(model, config, event)
    draws = private_draws(records.patients, event.sampling_rate, steps)
    batches = patient_batches(records, config, public_seed(config, site, number, "augmentation"))
    pull = proximal_pull(model, config.training.learning_rate * config.training.proximal_mu)
    train(model, config, step, draws, batches, after_step=pull)


def _step(model: MultimodalModel, config: RunConfig, event: DpSgdEvent) -> PrivateStep:
    return private_step(
        model, make_optimizer(model, config.training), config, event.noise_multiplier, tried=True
    )


def _asking_for(config: RunConfig, target_epsilon: float) -> RunConfig:
    privacy = config.privacy.model_copy(update={"target_epsilon": target_epsilon})
    return config.model_copy(update={"privacy": privacy})
