"""What a run's model card says, after the templates of Hugging Face and of CHAI's applied model card.

Everything is read from the run's folder: the configuration, the scores, and the privacy report, which is verified
first. What is not in there is said not to be recorded. What no software knows (what a model is for, who answers for it)
is a `Fill`: a marked place for people, which is never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmed.config import RunConfig, resolve
from mmmed.data.source import GENERATED
from mmmed.errors import RunError
from mmmed.models.names import in_words
from privacy.metrics import main_score
from privacy.report import verify_report
from privacy.report.rounding import shown
from privacy.report.unchecked import marks
from server.model_card.blocks import Block, Card, Cell, Fill, Items, Table, Text
from server.model_card.impact import NOT_RECORDED, groups, impact
from server.run_folder import finished_rounds, run_id_at

_SCORES, _COST = "evaluation.json", "cost.json"
_SIGNED = "signed by the sites or computed from what they signed"
_WORD = "the coordinator's own word"


def make_card(run: Path, subgroups: Path | None = None) -> Card:
    """The model card of a finished run.

    Args:
        run: the run folder, which is only read.
        subgroups: file with scores of groups, as ``mmmed evaluate --by ... --json`` writes it.

    Raises:
        RunError: it is no run folder, has no final model or no privacy report yet, or the report does not hold.
    """
    found = _Run.read(run)
    told = _json(subgroups) if subgroups else None
    if subgroups and told is None:
        raise RunError(f"{subgroups}: no such file")
    return Card(
        title=f"Model card: {found.name}",
        facts=_facts(found),
        sections=[
            ("Model", [*_model(found)]),
            ("Intended use", [*_intended()]),
            ("Warnings and limits", [*_limits(found, told is not None)]),
            ("Training data", [*_data(found)]),
            ("Training", [*_training(found)]),
            ("Results", [*_results(found, [*groups(told, subgroups)])]),
            ("Privacy", [*_privacy(found)]),
            ("Environmental impact", [*impact(found.cost, found.rounds, found.environment)]),
            ("Governance", [*_governance()]),
            ("How to use it", [*_how(found)]),
            ("Where the numbers are from", [*_sources(found)]),
        ],
    )


@dataclass(frozen=True)
class _Run:
    """What a run's folder says."""

    name: str
    config: RunConfig
    environment: Mapping[str, Any]
    report: Mapping[str, Any]
    scores: Mapping[str, Any] | None
    rounds: Sequence[Mapping[str, Any]]
    cost: Mapping[str, Any] | None

    @staticmethod
    def read(path: Path) -> _Run:
        if not (path / "config.toml").is_file():
            raise RunError(
                f"{path}: holds no run (config.toml is missing). Expected the folder of a finished run"
            )
        run_id_at(path)
        if not (path / "model" / "model.safetensors").is_file():
            raise RunError(f"{path}: the run has no final model yet, so there is nothing to make a card of")
        report = _json(path / "report" / "privacy.json")
        if report is None:
            raise RunError(f"{path}: has no privacy report. Make it with `mmmed privacy report {path}`")
        if findings := verify_report(report):
            raise RunError(
                f"{path / 'report' / 'privacy.json'}: does not hold, so no card repeats it: {findings[0]}"
            )
        return _Run(
            path.resolve().name,
            resolve(path / "config.toml").config,
            _json(path / "environment.json") or {},
            report,
            _json(path / _SCORES),
            finished_rounds(path),
            _json(path / _COST),
        )


def _json(path: Path) -> Any:
    """A file's JSON value; None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}). Make it again, or remove it") from error


def _facts(run: _Run) -> dict[str, Any]:
    """The front matter; a list of results only where the run has scores of its own."""
    facts: dict[str, Any] = {
        "license": "unknown",
        "library_name": "mmmed",
        "tags": [
            "medical",
            "multimodal",
            "federated-learning",
            *(["differential-privacy"] if run.report["summary"]["epsilon"] is not None else []),
            *run.config.data.modalities,
        ],
    }
    measured = [
        {"type": name, "name": f"{name}, {how.replace('_', ' ')}", "value": value["value"]}
        for name, how, value in _intervals(run)
        if how != "site_only" and value["value"] is not None  # which is no score of the model
    ]
    if measured:
        result = {
            "task": {"type": run.config.task.kind},
            "dataset": {"type": "private", "name": "held-out patients of the sites that took part"},
            "metrics": measured,
        }
        facts["model-index"] = [{"name": run.name, "results": [result]}]
    return facts


def _model(run: _Run) -> Iterator[Block]:
    subject, config = run.report["run"]["subject"], run.config
    yield Table(
        ("", ""),
        [
            ("Name", Fill("name and version of the model")),
            ("Run", str(run.report["run"]["id"])),
            ("Developer", Fill("who made it and answers for it, and how to reach them")),
            ("Release stage and date", Fill("research, pilot or in use; since when")),
            (
                "Regulatory status",
                Fill("such as not a medical device, research use only; or the approval"),
            ),
            ("License", Fill("license of the model; put it into the front matter, too")),
            ("Predicts", _said(subject, "predicts")),
            ("Reads", ", ".join(config.data.modalities)),
            ("Architecture", in_words(config)),
            ("Trained part", config.model.trainable),
            ("Trained", f"{run.environment.get('created', NOT_RECORDED)} (start)"),
            ("Software", _versions(run.environment.get("versions", {}))),
        ],
    )


def _intended() -> Iterator[Block]:
    yield Table(
        ("", ""),
        [
            (
                "Intended use and workflow",
                Fill("the decision it helps with, and where in the work it stands"),
            ),
            ("Primary users", Fill("who reads its output, with what training")),
            ("Target patients", Fill("age, setting, equipment, who is left out")),
            ("Out of scope", Fill("uses and settings that it must not be used for")),
            ("Action on its output", Fill("what a user does on a high, a low and a doubtful output")),
        ],
    )


def _limits(run: _Run, grouped: bool) -> Iterator[Block]:
    known = [
        "No score here is from clinical use: they are of held-out patients of the sites that it was trained at.",
        "A record may lack a modality; which ones the records had is not told, since sites do not tell it.",
    ]
    if not grouped:
        known.append(
            "How it does in subgroups (sex, age, scanner) is not known: no subgroup result was released."
        )
    if run.report["summary"]["epsilon"] is not None:
        known.append(
            "It was trained with noise: what few patients have, it has learnt less well than what many have."
        )
    yield Items(known)
    yield Table(
        ("", ""),
        [
            ("Known risks", Fill("how it fails, and whom that harms")),
            ("Known biases", Fill("and what was done against them")),
            ("Clinical risk level", Fill("and by which rule")),
        ],
    )


def _data(run: _Run) -> Iterator[Block]:
    report, config = run.report, run.config
    if config.data.source in GENERATED:
        yield Text("The patients were made up by mmmed: nobody is in the data.")
    sites = sorted({*report["run"]["answered"], *(site["site"] for site in report["sites"])})
    rows: list[tuple[str, Cell]] = [
        ("Sites", f"{len(sites)}: {', '.join(sites)}" if sites else NOT_RECORDED),
        ("Columns read", _said(report["run"]["subject"], "reads the columns")),
        ("Origin and consent", Fill("years, departments, equipment, legal basis")),
        ("Who the patients are", Fill("as each site describes them: age, sex, where they come from")),
        ("How labels were made", Fill("by whom, by what standard, how often two agree")),
    ]
    sizes = {
        site["site"]: size for site in report["sites"] if (size := site.get("size")) and size["patients"]
    }
    if sizes:
        words = (
            f"{name}: {size['patients']} ({'its policy states' if size['stated'] else 'the power of two at or below'})"
            for name, size in sizes.items()
        )
        rows.insert(1, ("Patients to train on", "; ".join(words)))
    else:
        rows.insert(1, ("Patients to train on", "not told by the sites"))
    results = report.get("results")
    if results and results.get("patients") is not None:
        told = (
            f"about {results['patients']:.0f}, with noise of standard error {results['patients_error']:.0f}"
        )
        rows.insert(2, ("Patients held out", told))
    yield Table(("", ""), rows)


def _training(run: _Run) -> Iterator[Block]:
    config, training = run.config, run.config.training
    yield Table(
        ("", ""),
        [
            ("Rounds", f"{run.report['run']['rounds']} asked for, {_done(run)} done"),
            ("Release", config.federation.release),
            ("Strategy", config.federation.strategy.kind),
            ("Aggregation", config.federation.aggregation.kind),
            ("Optimiser", f"{training.optimizer}, learning rate {training.learning_rate:g}"),
            ("Patients of a step, expected", f"{training.batch_size}"),
            ("Records of a patient in a step", f"{training.records_per_patient} at most"),
            ("Augmentation", "yes" if training.augment else "no"),
            ("Settings chosen on earlier runs", str(run.report["tuning"]["method"])),
        ],
    )


def _done(run: _Run) -> int:
    return int(run.report["summary"].get("rounds_done", len(run.rounds)))


def _intervals(run: _Run) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(score, how, interval) of what was computed where all sites' data are at hand: a simulation."""
    for name, told in (run.scores or {}).items():
        for how in ("within_site", "pooled", "site_only"):
            if how in told:
                yield name, how, told[how]


def _results(run: _Run, in_groups: Sequence[Block]) -> Iterator[Block]:
    rows = [(f"{name}, {how.replace('_', ' ')}", _interval(value)) for name, how, value in _intervals(run)]
    if rows:
        yield Text("On held-out patients, with 95 % intervals of the patient-cluster bootstrap.")
        yield Table(("score", "value and interval"), rows)
        yield Text(
            "Knowing the site alone gives the score called site only; the score within site cannot gain from that."
        )
    for name, told in (run.scores or {}).items():
        if told.get("sites"):
            yield Table(("site", name), [(site, _value(value)) for site, value in told["sites"].items()])
    released = run.report.get("results")
    if released is not None:
        told = main_score(released)
        yield Text("Released by the sites with noise, their patients' privacy charged for it:")
        if told is None:
            yield Text(f"no score: {released['refused']}.")
        else:
            listed = released.get("scores") or [
                dict(zip(("title", "value", "low", "high"), told, strict=True))
            ]
            yield Table(("score", "value and interval"), [(one["title"], _interval(one)) for one in listed])
    last = run.rounds[-1]["evaluate"] if run.rounds else []
    stated = [(line["site"], name, value) for line in last for name, value in line.get("metrics", {}).items()]
    if stated and not rows:
        yield Text("Stated by the sites after the last round, without noise:")
        yield Table(("site", "score", "value"), [(site, name, _value(value)) for site, name, value in stated])
    if not rows and released is None and not stated:
        yield Text("No result was released.")
    yield from in_groups
    yield Table(
        ("", ""),
        [
            ("Usefulness in the workflow", Fill("goal, measure, result, how it was tested")),
            ("Fairness", Fill("goal, measure, result, how it was tested")),
            ("Safety and reliability", Fill("goal, measure, result, how it was tested")),
            ("External validation", Fill("where, on whom, by whom")),
        ],
    )


def _privacy(run: _Run) -> Iterator[Block]:
    report = run.report
    summary, definition = report["summary"], report["definition"]
    yield Text(summary["meaning"])
    if summary["sentence"] != summary["meaning"]:
        yield Text(summary["sentence"])
    yield from _listed("What is open", summary.get("open", ()))
    if summary["epsilon"] is not None:
        rows: list[tuple[str, Cell]] = [
            ("Epsilon", _epsilon(summary["epsilon"])),
            ("Delta", f"{summary['delta']:g}"),
            ("Unit", definition["unit"]),
            ("Adjacency", definition["adjacency"]),
            ("Mechanism", definition["mechanism"]),
            ("What is claimed", definition["claim"]),
        ]
        if summary.get("condition"):
            rows.append(("Condition", summary["condition"]))
        yield Table(("", ""), rows)
        yield Table(
            ("site", "epsilon of the plan", "charged", "delta", "noise multiplier", "sampling rate", "steps"),
            [_site(site) for site in report["sites"]],
        )
        wrong = [
            f"{s['site']}: {one}" for s in report["sites"] for one in (*s["problems"], *s.get("warnings", ()))
        ]
        yield from _listed("What does not add up, or should be known", wrong)
        if report["sites_without_statement"]:
            yield Text(f"Without a statement: {', '.join(report['sites_without_statement'])}.")
    if (shared := report.get("shared")) is not None:
        yield Text("The sites share the noise. If others of a sum work together with the coordinator:")
        yield Table(
            ("colluding sites", "epsilon of a patient of another site"),
            [(f"{count}", _epsilon(epsilon)) for count, epsilon in shared["by_colluders"]],
        )
    elif summary["epsilon"] is not None:
        yield Table(
            ("colluding sites", "epsilon of a patient of another site"),
            [("any number", f"{_epsilon(summary['epsilon'])}: each site adds all of its noise itself")],
        )
    if len(report["joint"]) > 1:
        yield Table(
            ("a patient who is in so many sites", "epsilon"),
            [(f"{line['sites']}", _epsilon(line["epsilon"])) for line in report["joint"]],
        )
    if report["evaluations"]:
        yield Table(
            ("held-out patients of", "epsilon of the released results", "delta"),
            [(e["site"], _epsilon(e["epsilon"]), f"{e['delta']:g}") for e in report["evaluations"]],
        )
    if summary["epsilon"] is not None:
        yield from _listed("Assumptions", report["assumptions"])
        yield from _listed("Not covered", report["not_covered"])


def _site(site: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(site["site"]),
        _epsilon(site["epsilon_planned"]),
        _epsilon(site["epsilon_charged"]),
        f"{site['delta']:g}",
        f"{site['noise_multiplier']:g}",
        f"{site['sampling_rate']:g}",
        f"{site['steps_charged']} of {site['steps_planned']}",
    )


def _governance() -> Iterator[Block]:
    yield Table(
        ("", ""),
        [
            ("Funding", Fill("of the development")),
            ("Who was consulted", Fill("clinicians, patients, others")),
            ("Patient consent or disclosure", Fill("whether it is needed for use, and how it is got")),
            ("Monitoring and maintenance", Fill("who looks at it, how often, and when it is taken back")),
            ("References", Fill("papers, trials, peer review")),
        ],
    )


def _how(run: _Run) -> Iterator[Block]:
    yield Text(f"mmmed predict {run.name} NAME=VALUE, or in Python mmmed.load_model(path).predict(...).")


def _sources(run: _Run) -> Iterator[Block]:
    yield Text(
        f"Numbers on privacy are from report/privacy.json, which was verified when this card was made: {_SIGNED}, but "
        f"for what follows, {_WORD}."
    )
    yield Items(sorted(marks(run.report)))
    where = _SCORES if run.scores else "the privacy report and the log of rounds"
    yield Text(f"Scores are from {where}. All else is from the run's configuration and environment.")


def _listed(title: str, items: Sequence[str]) -> Iterator[Block]:
    if items:
        yield Text(f"{title}:")
        yield Items(list(items))


def _said(subject: Mapping[str, str], key: str) -> str:
    return subject.get(key, NOT_RECORDED)


def _versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version) or NOT_RECORDED


def _epsilon(value: float | str) -> str:
    return value if isinstance(value, str) else shown(value)


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(one: Mapping[str, Any]) -> str:
    if one["value"] is None or one.get("low") is None:
        return _value(one["value"])
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
