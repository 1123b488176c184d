"""The rules of a site's policy, and whether a run keeps them.

A policy is a TOML file. Everything is stated: a key that is missing or unknown refuses the file, a model,
metric or purpose that is not named is not allowed. Three may be left out: `pseudonyms`, which the refusal of a data
set named by other keys tells, and which carries what the most spent patient was spent over to everybody; `[peers]`,
without which no run may share its noise (`privacy.secure_sum`); and `run.patients`, the public number from which
sampling rates follow (`privacy.planning` says why). Without it they are derived from the site's number of patients,
rounded down to a power of two. With it no request to train is refused for the number of patients, since such a refusal
would tell it.

    version = 1
    site = "north"
    expires = 2027-12-31
    unit = "patient"                     # or "study", "record"
    adjacency = "add_remove"             # or "replace_one"

    [limit]                              # each patient, all runs together, for ever
    epsilon = 8.0
    delta = 1e-5

    [period]                             # each patient, all runs of the last so many days together
    days = 365
    epsilon = 4.0
    delta = 1e-5

    [run]                                # each run
    epsilon = 4.0
    delta = 1e-5
    min_noise_multiplier = 0.5
    min_patients = 100
    patients = 200                       # public: sampling rate = batch size / this
    max_records_per_patient = 4
    models = ["resnet10+tiny"]           # encoders of what is read, here images and text
    trainable = ["full"]
    apps = ["installed"]                 # application bundles; "installed": the site's own code alone
    columns = ["finding", "image", "text"]

    [evaluation]                         # each evaluation, of patients who were held out
    min_patients = 200

    [purposes]                           # most epsilon by purpose, within the limit; "tuning": a sweep at the site
    training = 8.0
    evaluation = 1.0

    [metrics]                            # how each may leave: "none", "private" or "rounded" (not DP)
    auroc = "private"
    calibration = "private"

    [peers]                              # runs that share noise: with whom, and how far the others are relied upon
    honest = 3                           # at most so many sites' noise may have to add up to the whole
    colluders = 1                        # at least so many may be with the server
    least_cohort = 4                     # a step of fewer sites is not answered
    repeats = 10                         # at most so many lost steps may be planned
    keys = { north = "3f...", south = "a0..." }  # public key of every site, this one among them
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import PolicyError, PolicyRefusal
from privacy.ledger import Budget, Sublimit
from privacy.planning import delta_is_large
from privacy.secure_sum import PeerRules, SharedNoise, Terms

VERSION = 1
_UNITS = ("patient", "study", "record")  # widest protection first
_ADJACENCIES = ("replace_one", "add_remove")  # dearer first
_METRIC_RULES = ("none", "private", "rounded")  # tightest first
TRAINING, EVALUATION, TUNING = "training", "evaluation", "tuning"  # purposes
_DAY = 86_400.0  # seconds
_TABLES = {
    "limit": {"epsilon", "delta"},
    "period": {"days", "epsilon", "delta"},
    "run": {
        "epsilon",
        "delta",
        "min_noise_multiplier",
        "min_patients",
        "max_records_per_patient",
        "models",
        "trainable",
        "apps",
        "columns",
    },
    "evaluation": {"min_patients"},
}
_TOP = {"version", "site", "expires", "unit", "adjacency", "purposes", "metrics", *_TABLES}
_OPTIONAL, _OPTIONAL_OF_RUN, _PEERS = "pseudonyms", "patients", "peers"
_PEER_COUNTS = ("honest", "colluders", "least_cohort", "repeats")


@dataclass(frozen=True)
class RunRequest:
    """What a run asks of a site, read by the site from the run's configuration before any data are opened.

    Attributes:
        purpose: what the data are used for, "training", "evaluation" or "tuning".
        unit: unit of privacy.
        adjacency: neighbouring relation of `epsilon`.
        epsilon: the whole run's epsilon at `delta` for this purpose; infinite without privacy.
        delta: its delta.
        records_per_patient: most records of a patient in a step.
        model: the model's name.
        former_model: what it was called in policies that were signed before, None if it is new: they go on to allow it.
        shared: how it would share the noise with other sites; None if it does not.
        trainable: the trainable set's name.
        app: digest of the application bundle, or "installed".
        columns: columns of the site's table that are read.
        metrics: the metrics that the run asks for, each with the way it would leave.
    """

    purpose: str
    unit: str
    adjacency: str
    epsilon: float
    delta: float
    records_per_patient: int
    model: str
    trainable: str
    app: str
    columns: frozenset[str]
    metrics: Mapping[str, str]
    former_model: str | None = None
    shared: SharedNoise | None = None


@dataclass(frozen=True)
class SitePolicy:
    """The rules of a site's policy file, see the module's text."""

    site: str
    expires: datetime.date
    unit: str
    adjacency: str
    limit: Budget
    period_days: float
    period: Budget
    run: Budget
    min_noise_multiplier: float
    min_patients: int
    max_records_per_patient: int
    models: frozenset[str]
    trainable: frozenset[str]
    apps: frozenset[str]
    columns: frozenset[str]
    min_evaluation_patients: int
    purposes: Mapping[str, float]
    metrics: Mapping[str, str]
    patients: int | None = None
    pseudonyms: str | None = None
    peers: PeerRules | None = None

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
        pseudonyms, peers = value.pop(_OPTIONAL, None), value.pop(_PEERS, None)
        _keys("the site policy", value, _TOP)
        if value["version"] != VERSION:
            raise PolicyError(f"version must be {VERSION}. Found {value['version']!r}.")
        limit, period, run, evaluation = (dict(_table(value, name)) for name in _TABLES)
        patients = run.pop(_OPTIONAL_OF_RUN, None)
        for (name, keys), table in zip(_TABLES.items(), (limit, period, run, evaluation), strict=True):
            _keys(f"[{name}]", table, keys)
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
            period_days=_positive("period.days", period["days"]),
            period=_budget("period", period),
            run=_budget("run", run),
            min_noise_multiplier=_positive("run.min_noise_multiplier", run["min_noise_multiplier"]),
            min_patients=_count("run.min_patients", run["min_patients"]),
            max_records_per_patient=_count("run.max_records_per_patient", run["max_records_per_patient"]),
            models=_names("run.models", run["models"]),
            trainable=_names("run.trainable", run["trainable"]),
            apps=_names("run.apps", run["apps"]),
            columns=_names("run.columns", run["columns"]),
            min_evaluation_patients=_count("evaluation.min_patients", evaluation["min_patients"]),
            purposes={name: _positive(f"purposes.{name}", most) for name, most in purposes.items()},
            metrics={name: _choice(f"metrics.{name}", rule, _METRIC_RULES) for name, rule in metrics.items()},
            patients=None if patients is None else _count("run.patients", patients),
            pseudonyms=None if pseudonyms is None else _text(_OPTIONAL, pseudonyms),
            peers=None if peers is None else _peers(peers),
        )

    @property
    def largest_delta(self) -> float:
        """The largest delta that a run may ask for; it must be below 1 / patients, whatever delta a run asks for."""
        return self.run.delta

    def large_deltas(self, patients: int) -> dict[str, float]:
        """Deltas of the policy that are above 0.1 / `patients`, by name of their rule."""
        budgets = {"limit": self.limit, "period": self.period, "run": self.run}
        return {
            f"{name}.delta": each.delta
            for name, each in budgets.items()
            if delta_is_large(each.delta, patients)
        }

    def check(self, request: RunRequest, now: float) -> None:
        """Raise PolicyRefusal, naming the first rule that `request` breaks. Needs no data.

        Args:
            request: what is asked.
            now: seconds since the epoch, from `Ledger.now`, so that turning the clock back revives nothing.
        """
        for rule, allowed, message in self._verdicts(request, now):
            if not allowed:
                raise PolicyRefusal(rule, message)
        if request.shared is not None:
            self._peers_of_the_policy().check_counts(request.shared)

    def check_plan(self, purpose: str, noise_multiplier: float, patients: int) -> None:
        """Raise PolicyRefusal if a plan that the site worked out from its own data breaks a rule; before data are used.

        Args:
            purpose: what for.
            noise_multiplier: noise standard deviation over the sensitivity.
            patients: how many patients would be used. It never leaves the site, not even by a refusal to train where
                the policy states a number.
        """
        training = purpose == TRAINING
        least_patients = self.min_patients if training else self.min_evaluation_patients
        if training and self.patients is not None:
            least_patients = 0
        for rule, value, least in (
            ("run.min_noise_multiplier", noise_multiplier, self.min_noise_multiplier),
            ("run.min_patients" if training else "evaluation.min_patients", patients, least_patients),
        ):
            if not value >= least:
                raise PolicyRefusal(rule, f"allowed is at least {least:g}. Found {value:g}.")

    def check_peers(self, terms: Terms) -> None:
        """Raise PolicyRefusal, naming the rule, where a run that shares its noise goes beyond `[peers]`.

        Args:
            terms: the run's, which name all sites that may take part.
        """
        self._peers_of_the_policy().check(terms)

    def _peers_of_the_policy(self) -> PeerRules:
        if self.peers is None:
            raise PolicyRefusal(
                "peers", "the policy has no [peers]: no run may share its noise with other sites."
            )
        return self.peers

    def sublimits(self, purpose: str, now: float) -> tuple[Sublimit, ...]:
        """Parts of the limit that plans for `purpose` must keep `now`. Raises PolicyRefusal if it is not allowed."""
        if purpose not in self.purposes:
            raise PolicyRefusal("purposes", _says(sorted(self.purposes), purpose))
        budget = Budget(min(self.purposes[purpose], self.limit.epsilon), self.limit.delta)
        return (
            Sublimit(f"purposes.{purpose}", budget, purpose=purpose),
            Sublimit("period", self.period, since=now - self.period_days * _DAY),
        )

    def metric_rule(self, name: str) -> str:
        """How the metric may leave the site: "none", "private" or "rounded"; "none" if it is not named."""
        return self.metrics.get(name, "none")

    def widened_by(self, new: SitePolicy) -> tuple[str, ...]:
        """Names of the rules by which `new` allows something that this policy does not."""
        wider = {
            "site": new.site != self.site,
            "expires": new.expires > self.expires,
            "unit": _UNITS.index(new.unit) > _UNITS.index(self.unit),
            "adjacency": _ADJACENCIES.index(new.adjacency) > _ADJACENCIES.index(self.adjacency),
            "limit.epsilon": new.limit.epsilon > self.limit.epsilon,
            "limit.delta": new.limit.delta > self.limit.delta,
            "period.days": new.period_days < self.period_days,
            "period.epsilon": new.period.epsilon > self.period.epsilon,
            "period.delta": new.period.delta > self.period.delta,
            "run.epsilon": new.run.epsilon > self.run.epsilon,
            "run.delta": new.run.delta > self.run.delta,
            "run.min_noise_multiplier": new.min_noise_multiplier < self.min_noise_multiplier,
            "run.min_patients": new.min_patients < self.min_patients,
            # Stated for the first time too: `run.min_patients` then refuses nobody.
            "run.patients": new.patients != self.patients
            and not (self.patients or math.inf) < (new.patients or 0),
            "run.max_records_per_patient": new.max_records_per_patient > self.max_records_per_patient,
            "run.models": not new.models <= self.models,
            "run.trainable": not new.trainable <= self.trainable,
            "run.apps": not new.apps <= self.apps,
            "run.columns": not new.columns <= self.columns,
            "evaluation.min_patients": new.min_evaluation_patients < self.min_evaluation_patients,
            "purposes": any(most > self.purposes.get(name, 0.0) for name, most in new.purposes.items()),
            "peers": new.peers is not None and (self.peers is None or self.peers.widened_by(new.peers)),
            "metrics": any(_rank(new, name) > _rank(self, name) for name in new.metrics),
        }
        return tuple(rule for rule, is_wider in wider.items() if is_wider)

    def _verdicts(self, request: RunRequest, now: float) -> Iterator[tuple[str, bool, str]]:
        today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
        yield (
            "expires",
            today <= self.expires,
            f"the policy ended on {self.expires}, and today is {today}, as far as this site knows: if that is not the "
            "date, mend the clock; else it needs a new signature.",
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
        known = request.model in self.models or request.former_model in self.models
        yield "run.models", known, _says(sorted(self.models), request.model)
        for rule, name, names in (
            ("run.trainable", request.trainable, self.trainable),
            ("run.apps", request.app, self.apps),
        ):
            yield rule, name in names, _says(sorted(names), name)
        unknown = request.columns - self.columns
        yield "run.columns", not unknown, _says(sorted(self.columns), sorted(unknown))
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


def _count(name: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PolicyError(f"{name} must be a whole number, {least} or more. Found {value!r}.")
    return value


def _peers(value: object) -> PeerRules:
    if not isinstance(value, dict):
        raise PolicyError(f"peers must be a table. Found {value!r}.")
    _keys("[peers]", value, {*_PEER_COUNTS, "keys"})
    counts = {
        name: _count(f"peers.{name}", value[name], least=int(name == "honest")) for name in _PEER_COUNTS
    }
    keys = value["keys"]
    if not isinstance(keys, dict) or not keys or len(set(keys.values())) < len(keys):
        raise PolicyError(f"peers.keys must be a table of sites and their different keys. Found {keys!r}.")
    for name, key in keys.items():
        if not (isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key)):
            raise PolicyError(
                f"peers.keys.{name} must be a public key of 64 hexadecimal digits. Found {key!r}."
            )
    return PeerRules(keys, **counts)


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
