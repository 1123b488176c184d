"""The whole audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from privacy.accounting import epsilon, shown
from privacy.audit import bounds, per_step
from privacy.audit.canaries import play
from privacy.audit.long_run import every_step_clips, every_step_is_noised, long_runs
from privacy.audit.neighbours import neighbour_check
from privacy.audit.noise import law_checks, sample_noise, size_checks
from privacy.audit.refusals import refusal_check
from privacy.audit.releases import steady
from privacy.audit.result import AuditResult, Bound, Check, certain
from privacy.audit.sampler import sampler_checks
from privacy.audit.sensitivity import canary_check, differential_checks
from privacy.audit.stand_in import stand_in
from privacy.audit.static import model_check, static_checks
from privacy.audit.subject import Subject
from privacy.audit.traces import trace_check
from privacy.audit.whole_score import whole_score_bound, whole_score_p_value
from privacy.clipping.validate import trainable
from privacy.errors import PrivacyError


@dataclass(frozen=True)
class _Effort:
    canaries: int
    steps: int  # of the canary game, at most
    noise_values: int
    seconds: float  # of CPU time for each long run of the site's own model


_QUICK = _Effort(canaries=500, steps=200, noise_values=30_000, seconds=2.0)
_FULL = _Effort(canaries=2000, steps=1000, noise_values=400_000, seconds=60.0)


def audit(subject: Subject, quick: bool = False) -> AuditResult:
    """Audit the subject's code and settings on its synthetic records.

    Args:
        subject: what is audited. A step that refuses its own model or batches is a violation too.
        quick: fewer canaries and steps, hence weaker bounds; every check is still made.
    """
    findings = [finding for part in parts(subject, quick) for finding in part()]
    return AuditResult(
        claim=subject.claim,
        delta=subject.delta,
        parameters=sum(parameter.numel() for parameter in trainable(subject.make_model()).values()),
        quick=quick,
        canaries=_effort(quick).canaries,
        checks=tuple(finding for finding in findings if isinstance(finding, Check)),
        bounds=tuple(finding for finding in findings if isinstance(finding, Bound)),
    )


@dataclass(frozen=True)
class Part:
    """Some checks of an audit that are made together.

    Attributes:
        codes: of the checks and bounds that it finds. One that the step refuses finds S4 alone.
    """

    codes: frozenset[str]
    find: Callable[[], Sequence[Check | Bound]]

    def __call__(self) -> Sequence[Check | Bound]:
        try:
            return self.find()
        except PrivacyError as error:
            return [certain("S4", "the step accepts the model and its batches", f"refused: {error}", False)]


def parts(subject: Subject, quick: bool) -> list[Part]:
    """All parts of an audit, in the order of its table."""
    effort, still = _effort(quick), _steady(subject)
    makers: list[tuple[str, Callable[[], Sequence[Check | Bound]]]] = [
        ("S1", lambda: [model_check(subject.make_model())]),
        ("S5 S6 S7", lambda: static_checks(subject)),
        ("C4 C5 S3", lambda: sampler_checks(subject)),
        ("C7 S2", lambda: differential_checks(still)),
        ("C11", lambda: [neighbour_check(still)]),
        ("C10", lambda: [every_step_clips(subject, effort.seconds)]),
        ("S9", lambda: [refusal_check(subject)]),
        ("S8", lambda: [trace_check(still)]),
        ("C1 C2 C6 C8 C9", lambda: _noise(subject, still, effort)),
        ("C3 E1 E2 E3 E4", lambda: _game(subject, effort)),
    ]
    return [Part(frozenset(codes.split()), find) for codes, find in makers]


def _effort(quick: bool) -> _Effort:
    return _QUICK if quick else _FULL


def _steady(subject: Subject) -> Subject:
    """Of a step that refuses everything, the subject as it is: the checks say so."""
    try:
        return steady(subject)
    except PrivacyError:
        return subject


def _noise(subject: Subject, still: Subject, effort: _Effort) -> list[Check]:
    """C1, C2, C6, C8 and C9."""
    sample = sample_noise(still, effort.noise_values)
    runs = long_runs(subject, effort.seconds)
    return [
        *size_checks(sample),
        *law_checks(sample, [run.bare for run in runs]),
        every_step_is_noised(runs),
    ]


def _game(subject: Subject, effort: _Effort) -> list[Check | Bound]:
    """C3 and E1 to E4, from one canary game."""
    claim, delta, canaries = subject.claim, subject.delta, effort.canaries
    played = replace(claim, steps=min(effort.steps, claim.steps))
    sides_e1 = bounds.guesses_planned(canaries, played, partial(bounds.one_run_bound, delta=delta))
    sides_e2 = bounds.guesses_planned(canaries, played, bounds.gaussian_bound)
    game = play(stand_in(subject), canaries, played.steps)
    one_run, curve = (bounds.correct_guesses(game, claim, sides) for sides in (sides_e1, sides_e2))
    drawn, absent = per_step.step_observations(game)
    claimed, claimed_played = epsilon([claim], delta), epsilon([played], delta)
    above = "the lower bound on epsilon is not above the claim"
    lower = (
        Bound(
            "E1",
            "one run, (epsilon, delta)",
            bounds.one_run_bound(one_run, delta),
            claimed_played,
            played.steps,
        ),
        Bound(
            "E2", "one run, f-DP", bounds.trade_off_bound(curve, played, delta), claimed_played, played.steps
        ),
        Bound(
            "E3",
            "single steps, composed",
            per_step.step_bound(drawn, absent, claim, delta),
            claimed,
            claim.steps,
        ),
        Bound("E4", "one run, whole scores", whole_score_bound(game, delta), claimed_played, played.steps),
    )
    p_values = (
        bounds.one_run_p_value(one_run, claimed_played, delta),
        bounds.trade_off_p_value(curve, played),
        per_step.step_p_value(drawn, absent, claim),
        whole_score_p_value(game, played),
    )
    checks = [
        Check(bound.code, above, f"{bound.epsilon:.2f}, claimed {shown(bound.claimed_epsilon)}", p_value)
        for bound, p_value in zip(lower, p_values, strict=True)
    ]
    return [canary_check(game, claim.noise_multiplier), *checks, *lower]
