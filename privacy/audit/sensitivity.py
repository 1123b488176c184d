"""C3, C7: one patient moves the sum by C at most, and nothing else at all."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from privacy.audit.canaries import Game
from privacy.audit.long_run import TOLERANCE
from privacy.audit.releases import quiet_step, rows_of
from privacy.audit.result import Check, certain
from privacy.audit.subject import Subject, seeded
from privacy.clipping.validate import trainable

_LOUD, _LOUDER = 1e3, 1e6  # times the loss: every gradient is clipped, the newcomer's dominates
_BASE_UNITS = (0, 1, 2, 5)


def canary_check(game: Game, noise_multiplier: float) -> Check:
    """C3: canaries that were drawn contribute C at most on average; a one-sided test in the claimed noise."""
    drawn = game.observed[game.present]
    claim = "a canary contributes at most C"
    if drawn.size == 0:
        return Check("C3", claim, "no canary was drawn", 1.0)
    mean = float(drawn.mean())
    deviation = max(noise_multiplier, float(drawn.std()))
    p_value = float(stats.norm.sf((mean - 1) * math.sqrt(drawn.size) / deviation))
    return Check("C3", claim, f"{mean:.3f} C on average over {drawn.size} draws", p_value)


@dataclass(frozen=True)
class _Case:
    """A batch without and with a newcomer: records, their units and the factors of their losses."""

    name: str
    rows: torch.Tensor
    units: torch.Tensor
    factors: torch.Tensor
    newcomer: torch.Tensor  # bool, its records

    def without(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        stay = ~self.newcomer
        return self.rows[stay], self.units[stay], self.factors[stay]


def differential_checks(subject: Subject) -> list[Check]:
    """C7: the released sum with and without one patient; S2: parameters and buffers are left as they were.

    Public random states are set alike and the noise is all but off, so the difference is the patient's doing.
    """
    model = subject.make_model()
    before = copy.deepcopy(model.state_dict())
    size = sum(p.numel() for p in trainable(model).values())
    step, recorder = quiet_step(subject, model)

    def released(rows: torch.Tensor, units: torch.Tensor, factors: torch.Tensor) -> np.ndarray:
        loudness = factors.to(next(model.parameters()).device)
        with seeded(0):
            step(lambda part: subject.losses(model, rows[part]) * loudness[part], units)
        sums = recorder.take(subject)
        return sums.sum(0) if len(sums) else np.zeros(size)

    worst, where, moved = 0.0, "", ""
    known: dict[str, np.ndarray] = {}  # sums of batches that several newcomers join
    for case in _cases(subject):
        rows, units, factors = case.without()
        same = f"{rows.tolist()} {units.unique(return_inverse=True)[1].tolist()} {factors.tolist()}"
        if same not in known:
            known[same] = released(rows, units, factors)
        difference = released(case.rows, case.units, case.factors) - known[same]
        norm = float(np.linalg.norm(difference))
        norm = norm if math.isfinite(norm) else math.inf
        if norm >= worst:
            worst, where = norm, case.name
        moved = moved or _changed(before, model.state_dict())
    return [
        certain(
            "C7",
            "one patient moves the sum by at most C",
            f"{worst:.4f} C ({where})",
            worst <= TOLERANCE,
        ),
        certain(
            "S2", "nothing but the optimiser changes the model", moved or "nothing else changed", not moved
        ),
    ]


def _cases(subject: Subject) -> Iterator[_Case]:
    """Newcomers to batches of several sizes, at a random place: natural, dominant, opposed, with many records."""
    records = rows_of(subject)
    many = max(records, key=len)
    first = records[0][:1]
    for base in _BASE_UNITS:
        others = [r[:1] for r in records[1 : base + 1]]
        alike = [first] * base
        newcomers = [
            ("a natural patient", others, 1.0, first, 1.0),
            ("a patient with a huge gradient", others, _LOUD, first, _LOUDER),
            ("a patient against all others", alike, _LOUD, first, -_LOUDER),
        ]
        if len(many) > 1:
            newcomers += [
                ("a patient with the most records", others, _LOUD, many, _LOUDER),
                ("a patient with the same record twice", others, _LOUD, first.repeat(2), _LOUDER),
            ]
        for name, present, loudness, rows, factor in newcomers:
            yield _case(f"{name} joins {base} others", present, loudness, rows, factor)


def _case(name: str, base: list[torch.Tensor], loudness: float, rows: torch.Tensor, factor: float) -> _Case:
    place = int(torch.randint(len(base) + 1, ()))
    groups = [(r, loudness, False) for r in base]
    groups.insert(place, (rows, factor, True))
    return _Case(
        name,
        torch.cat([r for r, _, _ in groups]),
        torch.cat([torch.full((len(r),), i) for i, (r, _, _) in enumerate(groups)]),
        torch.cat([torch.full((len(r),), f) for r, f, _ in groups]),
        torch.cat([torch.full((len(r),), new) for r, _, new in groups]),
    )


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> str:
    for name, value in after.items():
        if name not in before or not torch.equal(before[name], value):
            return f"{name} changed"
    return ""
