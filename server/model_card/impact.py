"""What of a model card is measured: what the run cost, and scores in groups of patients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmmed.errors import RunError
from mmmed.inference.subgroups import RULE
from server.model_card.blocks import Block, Table, Text

NOT_RECORDED = "not recorded"
_NOT_MEASURED = "not measured: this machine's energy counters could not be read"
_ASSUMED = (
    "what all of the machine's processors took meanwhile by their own counters (Intel RAPL), other programs "
    "included; no memory, disk or graphics processor"
)


def impact(
    cost: Mapping[str, Any] | None, rounds: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> Iterator[Block]:
    """The rows on time and energy.

    Args:
        cost: of cost.json, which a simulation writes: the whole run's. A deployed site tells nothing of its own, since
            that would tell how many patients it has.
        rounds: finished ones.
        environment: of the coordinator.
    """
    seconds = [one["train_seconds"] for one in rounds if "train_seconds" in one]
    processors = f"{environment.get('processors', '?')} processors"
    yield Table(
        ("", ""),
        [
            ("Processor time", _time(cost)),
            ("Energy", _energy(cost)),
            ("Carbon", "not computed: it depends on where the electricity came from"),
            ("Time of a round, longest", f"{max(seconds):g} s" if seconds else NOT_RECORDED),
            ("Coordinator's machine", f"{environment.get('platform', NOT_RECORDED)}, {processors}"),
            ("Sites' machines", NOT_RECORDED if cost is None else "the same: it was a simulation"),
        ],
    )


def groups(told: Mapping[str, Any] | None, file: Path | None) -> Iterator[Block]:
    """Scores in groups of patients, of a file that ``mmmed evaluate --by ... --json`` wrote.

    Raises:
        RunError: the file is none of it.
    """
    if told is None:
        yield Text("Subgroups: no result was released.")
        return
    try:
        if told["version"] != 1:
            raise ValueError(f"version {told['version']!r}")
        score = str(told["score"])
        rows = [
            (
                str(one["by"]),
                str(one["name"]) or "not known",
                _interval(one["score"]),
                _interval(one["gap"], "+"),
            )
            if one["told"]
            else (str(one["by"]), str(one["name"]) or "not known", "not told", "")
            for one in told["groups"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{file}: holds no scores of groups ({error}). "
            f"Make it with `mmmed evaluate RUN --by sex,age_band --json {file}`"
        ) from error
    yield Text(
        "Groups of held-out patients, evaluated where their records are, with 95 % intervals of the patient bootstrap. "
        "They are stated by whoever made this card, computed without noise, and outside the epsilon below. Of several "
        "gaps some leave out zero by chance."
    )
    yield Table(("by", "group", score, "less all others"), rows)
    yield Text(RULE)


def _time(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return NOT_RECORDED
    part = "" if cost["starts"] == cost["ends"] else "; parts of the run that were cut off are not in it"
    return f"{cost['cpu_seconds']:.0f} s of one processor core, coordinator and all sites, measured{part}"


def _energy(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return NOT_RECORDED
    if cost["joules"] is None:
        return _NOT_MEASURED
    return f"an estimate: {cost['joules'] / 3.6e6:.3g} kWh, {_ASSUMED}"


def _interval(one: Mapping[str, Any], sign: str = "") -> str:
    value, low, high = (one[name] for name in ("value", "low", "high"))
    if value is None:
        return "undefined"
    shown = [f"{float(number):{sign}.2f}" for number in (value, low, high) if number is not None]
    if not all(math.isfinite(float(number)) for number in shown):
        raise ValueError("a score is no finite number")
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if len(shown) == 3 else shown[0]
