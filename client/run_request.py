"""What a run's configuration asks of a site, in the terms of the site's policy. Reads no data."""

from __future__ import annotations

import math

from mmmed.config import RunConfig
from mmmed.modalities import MODALITIES
from mmmed.models.names import former_policy_name, policy_name
from privacy.policy import EVALUATION, TRAINING, TUNING, RunRequest
from privacy.secure_sum import SharedNoise

UNIT, ADJACENCY = "patient", "add_remove"  # what client.training does, whatever is asked
INSTALLED = "installed"  # the site's own code, no bundle
_SITES_OWN = ("source", "table", "patient", "study", "site")  # a run's words for these are not read


def run_request(config: RunConfig, purpose: str, app: str) -> RunRequest:
    """The request that `config` makes.

    Args:
        config: the run's configuration, as the server sent it.
        purpose: "training", "evaluation" or "tuning", which does both many times within the same epsilons.
        app: digest of the application bundle that brought it, "installed" for none.
    """
    training, privacy = config.training, config.privacy
    return RunRequest(
        purpose=purpose,
        unit=UNIT,
        adjacency=ADJACENCY,
        epsilon=_epsilon(config, purpose),
        delta=privacy.delta,
        records_per_patient=1 if purpose == EVALUATION else training.records_per_patient,
        model=policy_name(config),
        former_model=former_policy_name(config),
        trainable=config.model.trainable,
        app=app,
        columns=_columns(config),
        metrics=dict.fromkeys(config.task.target().told, privacy.metrics) if purpose == EVALUATION else {},
        shared=_shared(config) if purpose == TRAINING else None,
    )


def purposes(config: RunConfig) -> tuple[str, ...]:
    """What a run wants the data for: to train, and to evaluate if results are to leave."""
    return (TRAINING,) if config.privacy.metrics == "none" else (TRAINING, EVALUATION)


def _shared(config: RunConfig) -> SharedNoise | None:
    federation = config.federation
    if federation.release != "secure-steps":
        return None
    colluders = federation.min_sites - federation.honest
    return SharedNoise(federation.honest, colluders, federation.min_sites, federation.repeats)


def _epsilon(config: RunConfig, purpose: str) -> float:
    privacy = config.privacy
    if not privacy.enabled:
        return math.inf
    asked = {TRAINING: privacy.target_epsilon, EVALUATION: privacy.metrics_epsilon}
    return max(asked.values()) if purpose == TUNING else asked[purpose]


def _columns(config: RunConfig) -> frozenset[str]:
    """Every name in the data section that is not the site's to choose: a key that is added later counts as well.

    Of a modality's keys only those that it says name columns: others may name what is inside a file, as a lead.
    """
    named = [*config.task.columns.values()]
    inside = {
        key for one in MODALITIES.values() for key in one.data_keys.model_fields if key not in one.column_keys
    }
    for key, value in config.data.model_dump().items():
        if key not in {*_SITES_OWN, *inside} and not isinstance(value, bool | int | float):
            named += [value] if isinstance(value, str) else [one for one in value if isinstance(one, str)]
    return frozenset(column for column in named if column)
