"""The rules of a site's policy, and whether a run keeps them.

A policy is a TOML file. Everything is stated: a key that is missing or unknown refuses the file, a model,
metric or purpose that is not named is not allowed.

    version = 1
    site = "north"
    expires = 2027-12-31
    unit = "patient"                     # or "study", "record"
    adjacency = "add_remove"             # or "replace_one"

    [limit]                              # each patient, all runs together, for ever
    epsilon = 8.0
    delta = 1e-5

    [run]                                # each run
    epsilon = 4.0
    delta = 1e-5
    min_noise_multiplier = 0.5
    min_patients = 100
    max_records_per_patient = 4
    models = ["resnet18"]
    trainable = ["lora", "fusion"]
    apps = ["sha256:..."]

    [purposes]                           # most epsilon by purpose, within the limit
    training = 8.0

    [metrics]                            # how each may leave: "none", "private" or "rounded" (not DP)
    auroc = "private"
"""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import PolicyError, PolicyRefusal
from privacy.ledger import Budget

VERSION = 1
_UNITS = ("patient", "study", "record")  # widest protection first
_ADJACENCIES = ("replace_one", "add_remove")  # dearer first
_METRIC_RULES = ("none", "private", "rounded")  # tightest first
_TOP = {"version", "site", "expires", "unit", "adjacency", "limit", "run", "purposes", "metrics"}
_RUN = {
    "epsilon",
    "delta",
    "min_noise_multiplier",
    "min_patients",
    "max_records_per_patient",
    "models",
    "trainable",
    "apps",
}


@dataclass(frozen=True)
class RunRequest:
    """What a run asks of a site, as the site itself has worked it out.

    Attributes:
        purpose: what the run is for.
        unit: unit of privacy.
        adjacency: neighbouring relation of `epsilon`.
        epsilon: the whole run's epsilon at `delta`.
        delta: its delta.
        noise_multiplier: noise standard deviation over the clipping norm.
        patients: how many patients the site would train on. It never leaves the site.
        records_per_patient: most records of a patient in a step.
        model: the model's name.
        trainable: the trainable set's name.
        app: digest of the application bundle.
        metrics: what the run wants to be told, each with the way it would leave.
    """

    purpose: str
    unit: str
    adjacency: str
    epsilon: float
    delta: float
    noise_multiplier: float
    patients: int
    records_per_patient: int
    model: str
    trainable: str
    app: str
    metrics: Mapping[str, str]


@dataclass(frozen=True)
class SitePolicy:
    """The rules, as in the file. See the module's text."""

    site: str
    expires: datetime.date
    unit: str
    adjacency: str
    limit: Budget
    run: Budget
    min_noise_multiplier: float
    min_patients: int
    max_records_per_patient: int
    models: frozenset[str]
    trainable: frozenset[str]
    apps: frozenset[str]
    purposes: Mapping[str, float]
    metrics: Mapping[str, str]

    @staticmethod
    def parse(text: str) -> SitePolicy:
        """Read a policy file's text.

        Raises:
            PolicyError: it is not TOML, or a key is missing, unknown or out of range.
        """
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"The site policy is not TOML: {error}.") from None
        _keys("the site policy", value, _TOP)
        if value["version"] != VERSION:
            raise PolicyError(f"version must be {VERSION}. Found {value['version']!r}.")
        run, limit = _table(value, "run"), _table(value, "limit")
        _keys("[run]", run, _RUN)
        _keys("[limit]", limit, {"epsilon", "delta"})
        expires = value["expires"]
        if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
            raise PolicyError(f"expires must be a date such as 2027-12-31. Found {expires!r}.")
        metrics, purposes = _table(value, "metrics"), _table(value, "purposes")
        return SitePolicy(
            site=_text("site", value["site"]),
            expires=expires,
            unit=_choice("unit", value["unit"], _UNITS),
            adjacency=_choice("adjacency", value["adjacency"], _ADJACENCIES),
            limit=_budget("limit", limit),
            run=_budget("run", run),
            min_noise_multiplier=_positive("run.min_noise_multiplier", run["min_noise_multiplier"]),
            min_patients=_count("run.min_patients", run["min_patients"]),
            max_records_per_patient=_count("run.max_records_per_patient", run["max_records_per_patient"]),
            models=_names("run.models", run["models"]),
            trainable=_names("run.trainable", run["trainable"]),
            apps=_names("run.apps", run["apps"]),
            purposes={name: _positive(f"purposes.{name}", most) for name, most in purposes.items()},
            metrics={name: _choice(f"metrics.{name}", rule, _METRIC_RULES) for name, rule in metrics.items()},
        )

    def check(self, request: RunRequest, now: float) -> None:
        """Raise PolicyRefusal, naming the first rule that `request` breaks.

        Args:
            request: the run.
            now: seconds since the epoch, from `Ledger.now`, so that turning the clock back revives nothing.
        """
        for rule, allowed, message in self._verdicts(request, now):
            if not allowed:
                raise PolicyRefusal(rule, message)

    def purpose_limit(self, purpose: str) -> Budget:
        """The part of the limit that may be spent on `purpose`. Raises PolicyRefusal if there is none."""
        if purpose not in self.purposes:
            raise PolicyRefusal("purposes", f"allowed are {sorted(self.purposes)}. Found {purpose!r}.")
        return Budget(min(self.purposes[purpose], self.limit.epsilon), self.limit.delta)

    def metric_rule(self, name: str) -> str:
        """How the metric may leave the site: "none", "private" or "rounded"; "none" if it is not named."""
        return self.metrics.get(name, "none")

    def widened_by(self, new: SitePolicy) -> tuple[str, ...]:
        """The rules under which `new` allows something that this policy does not."""
        wider = {
            "site": new.site != self.site,
            "expires": new.expires > self.expires,
            "unit": _UNITS.index(new.unit) > _UNITS.index(self.unit),
            "adjacency": _ADJACENCIES.index(new.adjacency) > _ADJACENCIES.index(self.adjacency),
            "limit.epsilon": new.limit.epsilon > self.limit.epsilon,
            "limit.delta": new.limit.delta > self.limit.delta,
            "run.epsilon": new.run.epsilon > self.run.epsilon,
            "run.delta": new.run.delta > self.run.delta,
            "run.min_noise_multiplier": new.min_noise_multiplier < self.min_noise_multiplier,
            "run.min_patients": new.min_patients < self.min_patients,
            "run.max_records_per_patient": new.max_records_per_patient > self.max_records_per_patient,
            "run.models": not new.models <= self.models,
            "run.trainable": not new.trainable <= self.trainable,
            "run.apps": not new.apps <= self.apps,
            "purposes": any(most > self.purposes.get(name, 0.0) for name, most in new.purposes.items()),
            "metrics": any(_rank(new, name) > _rank(self, name) for name in new.metrics),
        }
        return tuple(rule for rule, is_wider in wider.items() if is_wider)

    def _verdicts(self, request: RunRequest, now: float) -> Iterator[tuple[str, bool, str]]:
        today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
        yield (
            "expires",
            today <= self.expires,
            f"the policy ended on {self.expires}; it needs a new signature.",
        )
        yield "unit", _at_least(_UNITS, request.unit, self.unit), _says(self.unit, request.unit)
        yield (
            "adjacency",
            _at_least(_ADJACENCIES, request.adjacency, self.adjacency),
            _says(self.adjacency, request.adjacency),
        )
        yield "purposes", request.purpose in self.purposes, _says(sorted(self.purposes), request.purpose)
        for rule, value, most in (
            ("run.epsilon", request.epsilon, self.run.epsilon),
            ("run.delta", request.delta, self.run.delta),
            ("run.max_records_per_patient", request.records_per_patient, self.max_records_per_patient),
        ):
            yield rule, 0 < value <= most, f"allowed is at most {most:g}. Found {value:g}."
        for rule, value, least in (
            ("run.min_noise_multiplier", request.noise_multiplier, self.min_noise_multiplier),
            ("run.min_patients", request.patients, self.min_patients),
        ):
            yield rule, value >= least, f"allowed is at least {least:g}. Found {value:g}."
        for rule, name, names in (
            ("run.models", request.model, self.models),
            ("run.trainable", request.trainable, self.trainable),
            ("run.apps", request.app, self.apps),
        ):
            yield rule, name in names, _says(sorted(names), name)
        for name, way in request.metrics.items():
            allowed = self.metric_rule(name)
            yield "metrics", _at_least(_METRIC_RULES, way, allowed), f"{name}: {_says(allowed, way)}"


def _at_least(order: tuple[str, ...], asked: str, allowed: str) -> bool:
    return asked in order and order.index(asked) <= order.index(allowed)


def _rank(policy: SitePolicy, metric: str) -> int:
    return _METRIC_RULES.index(policy.metric_rule(metric))


def _says(allowed: object, found: object) -> str:
    return f"allowed is {allowed}. Found {found!r}."


def _keys(where: str, value: Mapping[str, Any], expected: set[str]) -> None:
    if different := sorted(set(value) ^ expected):
        raise PolicyError(
            f"{where} must have exactly the keys {sorted(expected)}. Missing or unknown: {different}."
        )


def _table(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(value[name], dict):
        raise PolicyError(f"{name} must be a table. Found {value[name]!r}.")
    return value[name]


def _budget(name: str, value: Mapping[str, Any]) -> Budget:
    delta = _positive(f"{name}.delta", value["delta"])
    if delta >= 1:
        raise PolicyError(f"{name}.delta must be below 1. Found {delta!r}.")
    return Budget(_positive(f"{name}.epsilon", value["epsilon"]), delta)


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PolicyError(f"{name} must be a finite number above 0. Found {value!r}.")
    return float(value)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PolicyError(f"{name} must be a whole number, 1 or more. Found {value!r}.")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError(f"{name} must be text that is not empty. Found {value!r}.")
    return value


def _choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise PolicyError(f"{name} must be one of {sorted(choices)}. Found {value!r}.")
    return str(value)


def _names(name: str, value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise PolicyError(f"{name} must be a list of names. Found {value!r}.")
    return frozenset(_text(name, item) for item in value)
