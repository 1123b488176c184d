"""The fields of a reply, read: typed and bounded before anything of them is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mmmed.config.schema import Scalar
from mmmed.federation.protocol.bounds import (
    MOST_CELLS,
    MOST_COUNT,
    MOST_NUMBER,
    MOST_SCORES,
    MOST_STATED,
    MOST_STATEMENT,
    MOST_TEXT,
    NAME,
    is_name,
    is_number,
)
from mmmed.federation.protocol.records import part
from mmmed.federation.protocol.refusals import Refusal, Refused

PRIVACY = "privacy."  # begins the names of what a site states of its privacy
_STATED_NUMBERS = frozenset(
    PRIVACY + name
    for name in (
        *("epsilon", "planned_epsilon", "delta", "noise_multiplier", "sampling_rate", "steps"),
        "max_grad_norm",
    )
)
_STATED_TEXTS = {f"{PRIVACY}statement": MOST_STATEMENT, f"{PRIVACY}receipt": MOST_TEXT}


def site_of(record: RecordDict) -> tuple[str, dict[str, Scalar]]:
    """Who replies, and what it states: known also of a reply whose other parts cannot be used.

    Raises:
        Refused: the reply names no site, or what it states is not of the form that was agreed.
    """
    return name_of(record), stated_of(record)


def stated_of(record: RecordDict) -> dict[str, Scalar]:
    """What a reply states: `stated_by` of its record."""
    return stated_by(part(record, "site", ConfigRecord))


def name_of(record: RecordDict) -> str:
    """The name that a reply gives.

    Raises:
        Refused: it names no site.
    """
    name = part(record, "site", ConfigRecord).get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused(Refusal.BAD_NAME)
    return name


def stated_by(fields: Mapping[str, Any]) -> dict[str, Scalar]:
    """What a site states, from the fields of its record: all but its name.

    What `client.release.Spending` states has the types that it has there. Of anything else numbers and short texts are
    kept, since another version may state more.

    Raises:
        Refused: a field of `Spending` has another type, or there is more than `MOST_...` allow.
    """
    if len(fields) > MOST_STATED + 1:
        raise Refused(Refusal.OVER_BOUNDS)
    stated: dict[str, Scalar] = {}
    for key, value in fields.items():
        if key == "name":
            continue
        if not is_name(key):
            raise Refused(Refusal.OVER_BOUNDS)
        if key in _STATED_NUMBERS and not (is_number(value) and 0 <= value <= MOST_NUMBER):
            raise Refused(Refusal.BAD_STATEMENT)
        if key in _STATED_TEXTS and not isinstance(value, str):
            raise Refused(Refusal.BAD_STATEMENT)
        if isinstance(value, str) and len(value) > _STATED_TEXTS.get(key, MOST_TEXT):
            raise Refused(Refusal.OVER_BOUNDS)
        if isinstance(value, bool | str) or (is_number(value) and abs(value) <= MOST_NUMBER):
            stated[key] = value
    return stated


def scores_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a reply by name; what is no number, or too large for one that means something, is left out.

    Raises:
        Refused: there are more than `MOST_SCORES`, or a name is not of the form that was agreed.
    """
    if len(values) > MOST_SCORES or not all(map(is_name, values)):
        raise Refused(Refusal.OVER_BOUNDS)
    return {key: float(one) for key, one in values.items() if is_number(one) and abs(one) <= MOST_NUMBER}


def metrics_of(record: RecordDict) -> tuple[float, dict[str, float]]:
    """A reply's weight, and its numbers by name. Raises Refused if one is not of the form that was agreed."""
    values = dict(part(record, "metrics", MetricRecord))
    weight = values.pop("weight", None)
    if not isinstance(weight, int | float) or not 0 < weight <= 1:  # less than others may be said, not more
        raise Refused(Refusal.BAD_WEIGHT)
    return float(weight), scores_of(values)


def histograms_of(record: RecordDict) -> npt.NDArray[np.float64] | None:
    """A reply's noised counts, None if it has none. Raises Refused if they cannot be any."""
    if "tables" not in record:
        return None
    sent = part(record, "tables", ArrayRecord).get("tables")
    if sent is None:
        raise Refused(Refusal.BAD_RECORD)
    if len(sent.data) > 8 * MOST_CELLS + MOST_TEXT:  # before it is decoded
        raise Refused(Refusal.OVER_BOUNDS)
    value = sent.numpy()
    check_histograms(value)
    return value


def check_histograms(value: npt.NDArray[Any]) -> None:
    """Raise Refused unless an array can be what a site releases of its results: 3 axes, float64, finite, in bounds."""
    if value.ndim != 3:
        raise Refused(Refusal.SHAPE_DIFFERS)
    if value.dtype != np.float64:
        raise Refused(Refusal.DTYPE_DIFFERS)
    if not np.isfinite(value).all():
        raise Refused(Refusal.NOT_FINITE)
    if value.size > MOST_CELLS or (np.abs(value) > MOST_COUNT).any():
        raise Refused(Refusal.OVER_BOUNDS)
