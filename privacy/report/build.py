"""The full report as JSON: what was stated, and everything that follows from it.

The statements of runs, evaluations and sweeps (signed by the sites), and `run`, `audits` and `attack` (stated by
whoever made the report, signed by no site) are the inputs; all the rest is computed from them by `build_report`, which
is how `verify_report` finds an edit. What of the inputs is bound to nothing that a site signed is listed as
`not_checked`. The JSON Schema is `schema.json` in this package.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from privacy.attack import AttackResult
from privacy.audit.result import AuditResult
from privacy.errors import ReportError
from privacy.ledger.links import canonical
from privacy.planning import delta_is_large
from privacy.report import texts
from privacy.report.earlier import V3, as_before
from privacy.report.evaluations import Pooled, evaluation_row, read_evaluations, results
from privacy.report.numbers import charged, colluding, course, joint, mechanism, number, utility
from privacy.report.progress import open_ends, rounds_done
from privacy.report.rounding import percent
from privacy.report.statement import Shared, Statement, read_statement
from privacy.report.sweeps import read_sweeps, sweep_row
from privacy.report.unchecked import not_checked

SCHEMA = "mmmed-privacy-report/5"
_LEAST_ERROR = 2e-4  # relative; of the error that is told: below it two machines do not agree what it is
_BOUND_TOLERANCE = 1e-3  # relative; between an attack's bound and the report's, computed on two machines
_CLAIM_TOLERANCE = 1e-4  # relative; by which accounting may differ between two machines


@dataclass(frozen=True)
class RunFacts:
    """What the server states about a run.

    Attributes:
        id: the run.
        private: whether the run's configuration asks for differential privacy.
        target_epsilon: the epsilon that the run asks each site to keep.
        rounds: rounds that the run asks for.
        answered: by site, (first, last) runs of the rounds whose update the server received, ascending.
        generated: when the report was made, RFC 3339.
        tuning: "none", "public", "accounted" or "unknown": whether settings were chosen by looking at earlier runs on
            these patients, on public or generated data alone, or by sweeps that the sites signed for.
        software: versions at the server.
        utility: (round, mean AUROC that the sites showed), where they may show it: generated or public data.
        subject: what was trained and on what, in words, by what it is called.
        pooled: the sum of the noised counts that sites released of their held-out patients, if any did.
        done: rounds that are finished; None in a report of an earlier schema, which does not say.
    """

    id: str
    private: bool
    target_epsilon: float
    rounds: int
    answered: Mapping[str, Sequence[tuple[int, int]]]
    generated: str
    tuning: str
    software: Mapping[str, str]
    utility: Sequence[tuple[int, float]] = ()
    subject: Mapping[str, str] = field(default_factory=dict)
    pooled: Pooled | None = None
    done: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        answered = {site: [list(run) for run in runs] for site, runs in sorted(self.answered.items())}
        utility = [list(point) for point in self.utility]
        plain = {"software": dict(self.software), "subject": dict(self.subject)}
        pooled = None if self.pooled is None else self.pooled.to_json()
        return {**vars(self), **plain, "answered": answered, "utility": utility, "pooled": pooled}

    @staticmethod
    def from_json(value: Any) -> RunFacts:
        """Read what `to_json` wrote. Raises ReportError for anything else."""
        try:
            pooled = None if value["pooled"] is None else Pooled.from_json(value["pooled"])
            facts = RunFacts(**{**value, "pooled": pooled})
            words_only = (facts.id, facts.generated, *facts.software.values(), *facts.subject.values())
            answered = {
                site: tuple((first, last) for first, last in runs) for site, runs in facts.answered.items()
            }
            valid = (
                all(isinstance(text, str) for text in words_only)
                and isinstance(facts.private, bool)
                and math.isfinite(facts.target_epsilon)
                and facts.target_epsilon > 0
                and isinstance(facts.rounds, int)
                and (facts.done is None or (type(facts.done) is int and 0 <= facts.done <= facts.rounds))
                and facts.tuning in texts.TUNING
                and all(0 < first <= last < 10**6 for runs in answered.values() for first, last in runs)
                and all(number > 0 and 0 <= value <= 1 for number, value in facts.utility)
            )
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ReportError(f"The report's part 'run' is not readable: {error!r}.") from None
        if not valid:
            raise ReportError("The report's part 'run' holds a value out of range.")
        utility = tuple((int(number), float(value)) for number, value in facts.utility)
        return RunFacts(**{**vars(facts), "answered": answered, "utility": utility})


def build_report(
    statements: Sequence[Mapping[str, Any]],
    run: RunFacts,
    evaluations: Sequence[Mapping[str, Any]] = (),
    audits: Sequence[Mapping[str, Any]] = (),
    attack: Mapping[str, Any] | None = None,
    sweeps: Sequence[Mapping[str, Any]] = (),
    *,
    schema: str = SCHEMA,
) -> dict[str, Any]:
    """The report of a run.

    Args:
        statements: the newest statement of each site, as the sites signed them.
        run: what the server states.
        evaluations: the statements of sites that released noised counts of their held-out patients.
        audits: results of `mmmed privacy audit`.
        attack: the result of `mmmed privacy attack` on the run's model. It tells how many patients there are, so
            only a report on data that are shown anyway takes it.
        sweeps: the statements of sites whose patients the settings were found on, for tuning "accounted".
        schema: as which version: the present one, or one of `privacy.report.earlier`, to verify a report of it.

    Returns:
        A JSON object of that schema. A site whose part is missing or does not add up is
        reported as such, and the status is then "incomplete"; it is "unfinished" until every site signed for the end.

    Raises:
        ReportError: a statement is not signed, is of another run, or two are of one site or key; an audit or attack
            is not one, or is of another run; `run` does not say how many rounds are done.
        AccountingError: two accountants disagree.
    """
    stated = [read_statement(value) for value in statements]
    _check_distinct(stated, run)
    plans = [(each.mechanism, each.delta) for each in stated]
    distinct = list(dict.fromkeys(plans))
    accounting = [mechanism(event, delta) for event, delta in distinct]
    if schema != V3:
        accounting = [_with_least_error(each) for each in accounting]
    sites = [_site(each, run, distinct.index(plan)) for each, plan in zip(stated, plans, strict=True)]
    missing = sorted(set(run.answered) - {each.site for each in stated}) if run.private else []
    risk = _risk(accounting)
    tested = read_evaluations(evaluations, run.id)
    delta = max((each.delta for each in [*stated, *tested]), default=None)
    events, extra = [each.mechanism for each in stated], [each.mechanism for each in tested]
    shared = _how_shared(stated)
    lines = joint(events, delta, extra, one_sum=shared is not None) if delta is not None and events else []
    derived = [each.site for each in stated if each.asked is None or each.asked.derived]
    by_policy = bool(stated) and all(each.asked is not None and each.asked.stated for each in stated)
    done = rounds_done(stated, _done(run, schema))
    opened = open_ends(stated, private=run.private, rounds=run.rounds, done=done)
    status = _status(run, sites, missing, opened)
    audited = [_audit(value, stated) for value in audits]
    tuned = [sweep_row(each) for each in read_sweeps(sweeps)]
    if bool(tuned) != (run.tuning == "accounted"):
        raise ReportError("A report lists sweeps if, and only if, its tuning is said to be accounted.")
    body = {
        "schema": schema,
        "run": run.to_json(),
        "statements": [dict(value) for value in statements],
        "evaluation_statements": [dict(value) for value in evaluations],
        "sweep_statements": [dict(value) for value in sweeps],
        "not_checked": not_checked(stated),
        "summary": {
            "status": status,
            "meaning": texts.STATUS[status],
            "rounds_done": done,
            "open": opened,
            "sentence": _sentence(status, risk),
            "condition": _condition(shared, derived, by_policy) if stated else None,
            "epsilon": lines[0]["epsilon"] if lines else None,
            "delta": delta,
        },
        "definition": {
            "guarantee": "(epsilon, delta)-differential privacy",
            "unit": texts.UNIT,
            "adjacency": texts.ADJACENCY,
            "delta": texts.DELTA_BY_POLICY if by_policy else texts.DELTA_WHY,
            "mechanism": texts.MECHANISM_SHARED if shared else texts.MECHANISM,
            "claim": texts.CLAIM,
        },
        "risk": risk,
        "joint": lines,
        "sites": sites,
        "sites_without_statement": missing,
        "evaluations": [evaluation_row(each) for each in tested],
        "results": None if run.pooled is None else results(run.pooled, tested),
        "accounting": accounting,
        "audits": audited,
        "attack": None if attack is None else _attack(attack, stated, run, risk),
        "utility": utility(run.utility, sites, _lost(stated, done) if shared else 0),
        "data_access": texts.data_access(
            [each.site for each in stated if each.metrics_shown], [each.site for each in tested], run.tuning
        ),
        "not_covered": list(texts.not_covered(by_policy)),
        "tuning": {"method": run.tuning, "epsilon": _tuning_cost(run.tuning, tuned), "sweeps": tuned},
        "threats": [
            dict(zip(("who", "sees", "bounded", "how"), row, strict=True))
            for row in texts.threats(shared is not None)
        ],
        "assumptions": list(texts.ASSUMPTIONS),
        "checklist": [
            dict(zip(("item", "answer", "where"), row, strict=True))
            for row in texts.checklist(audited, shared is not None)
        ],
    }  # fmt: skip
    if shared is not None:
        plan = stated[0]
        body["shared"] = {
            "sites": shared.sites,
            "honest": shared.honest,
            "least_cohort": shared.least_cohort,
            "colluders": shared.colluders,
            "by_colluders": colluding(plan.mechanism, plan.delta, shared),
        }
    if schema != SCHEMA:
        body = as_before(body, stated, schema)
    return body | {"digest": digest(body)}


def _how_shared(stated: Sequence[Statement]) -> Shared | None:
    """How the sites share the noise of one sum, None where each adds all of it.

    Raises:
        ReportError: they do not say the same of it: a sum has one mechanism.
    """
    if not any(each.shared for each in stated):
        return None
    said = {
        (each.shared and replace(each.shared, step=0), each.event, each.delta, each.max_grad_norm)
        for each in stated
    }
    if len(said) > 1:
        raise ReportError("The sites share the noise of one sum, and state different plans for it.")
    return stated[0].shared


def _condition(shared: Shared | None, derived: Sequence[str], by_policy: bool) -> str:
    said = texts.condition(derived, by_policy)
    if shared is None:
        return said
    return f"{texts.sharing(shared.sites, shared.honest, shared.least_cohort)} {said}"


def _lost(stated: Sequence[Statement], done: int) -> int:
    """Steps that were asked again: a site's charges are numbered by attempts, of which there are so many more."""
    return max(0, max((each.charged[-1][1] for each in stated if each.charged), default=0) - done)


def _done(run: RunFacts, schema: str) -> int:
    """Rounds that the coordinator says are done; reports of before spoke as if all were."""
    if run.done is not None:
        return run.done
    if schema == SCHEMA:
        raise ReportError("The report's part 'run' does not say how many rounds are done.")
    return run.rounds


def _tuning_cost(tuning: str, sweeps: Sequence[Mapping[str, Any]]) -> float | str | None:
    """The dearest sweep's epsilon; 0 where no patient's data were looked at; None where nobody says."""
    if tuning == "unknown":
        return None
    return max((row["epsilon"] for row in sweeps), key=float, default=0)


def _with_least_error(row: Mapping[str, Any]) -> dict[str, Any]:
    error, claimed = (float(row[name]) for name in ("discretisation_error", "epsilon"))
    return {**row, "discretisation_error": number(max(error, _LEAST_ERROR * claimed))}


def _audit(value: Mapping[str, Any], stated: Sequence[Statement]) -> dict[str, Any]:
    """An audit, and the sites whose mechanism is the one that it audited."""
    result = AuditResult.from_json(value)
    return {"sites": [each.site for each in stated if each.mechanism == result.claim], "result": dict(value)}


def _attack(
    value: Mapping[str, Any], stated: Sequence[Statement], run: RunFacts, risk: Mapping[str, Any] | None
) -> dict[str, Any]:
    result = AttackResult.from_json(value)
    if not all(each.metrics_shown for each in stated):
        raise ReportError(
            "An attack's result tells how many patients a site has: a report takes it only where all sites show "
            "their metrics, on generated or public data."
        )
    bounds = dict(risk["true_positive_rate"]) if risk else {}
    for rate in result.rates:
        expected = bounds.get(rate.at, 1.0) if run.private else 1.0
        if not math.isclose(rate.bound, expected, rel_tol=_BOUND_TOLERANCE):
            raise ReportError(
                "The attack is on another run: it names another bound than this run's mechanism has."
            )
    return dict(value)


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of a report without its digest, in canonical JSON."""
    return hashlib.sha256(
        canonical({name: value for name, value in body.items() if name != "digest"})
    ).hexdigest()


def _check_distinct(stated: Sequence[Statement], run: RunFacts) -> None:
    if stated and not run.private:
        raise ReportError("The run is said to be without privacy, but its sites state otherwise.")
    for what, values in (("site", [s.site for s in stated]), ("key", [s.key for s in stated])):
        if len(set(values)) != len(values):
            raise ReportError(f"Two statements are of the same {what}: each site states once, with its own.")
    for each in stated:
        if each.run_id != run.id:
            raise ReportError(f"The statement of site {each.site} is of run {each.run_id}, not of {run.id}.")


def _site(stated: Statement, run: RunFacts, index: int) -> dict[str, Any]:
    event, delta = stated.mechanism, stated.delta
    plan = charged(event, event.steps, delta)
    return {
        "site": stated.site,
        "rule": stated.rule,
        "accounting": index,
        "noise_multiplier": event.noise_multiplier,
        "sampling_rate": event.sampling_rate,
        "max_grad_norm": stated.max_grad_norm,
        "steps_planned": event.steps,
        "steps_charged": stated.steps,
        "delta": delta,
        "epsilon_planned": number(plan),
        "epsilon_charged": number(charged(event, stated.steps, delta)),
        "course": course(event, stated.charged, run.rounds, delta),
        "size": None
        if stated.asked is None
        else {"patients": stated.asked.patients, "stated": stated.asked.stated},
        "warnings": _warnings(stated),
        "problems": _problems(stated, plan, run),
    }


def _warnings(stated: Statement) -> list[str]:
    """What does not invalidate the site's part and should be known."""
    patients = None if stated.asked is None else stated.asked.patients
    if patients is None or not delta_is_large(stated.delta, patients):
        return []
    return [
        f"its delta, {stated.delta:g}, is above a tenth of 1 / its number of patients: {texts.LARGE_DELTA}"
    ]


def _problems(stated: Statement, plan: float, run: RunFacts) -> list[str]:
    """Why the site's part does not add up, in words."""
    found = []
    if stated.epsilon < plan * (1 - _CLAIM_TOLERANCE):
        found.append(f"it claims epsilon {stated.epsilon:.6g}, but its plan costs {plan:.6g}")
    if plan > run.target_epsilon * (1 + _CLAIM_TOLERANCE):
        found.append(f"its plan costs epsilon {plan:.6g}, above the run's target {run.target_epsilon:.6g}")
    if (asked := stated.asked) is not None:
        for name, signed, told in (
            ("target epsilon", asked.target_epsilon, run.target_epsilon),
            ("rounds", asked.rounds, run.rounds),
        ):
            if signed != told:
                found.append(f"it was asked for {name} {signed:g}, but the report says {told:g}")
    if stated.steps > stated.mechanism.steps:
        found.append(f"it was charged {stated.steps} steps, above its plan's {stated.mechanism.steps}")
    paid = {number for first, last, _ in stated.charged for number in range(first, last + 1)}
    received = {n for first, last in run.answered.get(stated.site, ()) for n in range(first, last + 1)}
    if stated.shared is not None:  # charges are numbered by attempts, of which there are more than rounds
        paid |= received if stated.steps >= len(received) else set()
    if unpaid := sorted(received - paid):
        found.append(
            f"{len(unpaid)} updates were received but not charged in its statement, the first in round {unpaid[0]}"
        )
    return found


def _status(
    run: RunFacts, sites: Sequence[Mapping[str, Any]], missing: Sequence[str], opened: Sequence[str]
) -> str:
    if not run.private:
        return "none"
    if not sites and not missing:
        return "empty"
    if missing or any(site["problems"] for site in sites):
        return "incomplete"
    return "unfinished" if opened else "complete"


def _sentence(status: str, risk: Mapping[str, Any] | None) -> str:
    if risk is None:
        return texts.STATUS[status]
    rates = dict(risk["true_positive_rate"])
    return (
        ("For the sites whose statement is valid: " if status == "incomplete" else "")
        + "Somebody who sees everything that left a site in this run, and falsely accuses 1 % of those who took no "
        f"part, recognises at most {percent(rates[0.01])} of those who did; with 10 % false accusations at most "
        f"{percent(rates[0.1])}."
    )


def _risk(accounting: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The worst over the plans, pointwise: no site's patients run a higher risk."""
    if not accounting:
        return None

    def worst(name: str) -> list[list[float]]:
        return [
            [at, max(values)]
            for at, values in zip(
                [pair[0] for pair in accounting[0][name]],
                zip(*([pair[1] for pair in each[name]] for each in accounting), strict=True),
                strict=True,
            )
        ]

    return {
        "true_positive_rate": worst("true_positive_rate"),
        "advantage": max(each["advantage"] for each in accounting),
        "posterior": worst("posterior"),
    }
