"""What else is known of a generated study: which opacity, how severe, and how long until the patient came back.

All of it follows from the finding and from what the film shows, and has randomness of its own: film, note and finding
are the same without it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmmed.demo.films import OPACITIES, Opacity

_NOT_LOOKED_AT = 0.15  # share of cells of single opacities that are empty
_GRADES = (2.5, 4.5, 6.5)  # of severity, where grades 1, 2 and 3 begin
_MEAN_DAYS = 400.0  # until the event, at severity 0 and age 60
_OBSERVED = (45.0, 180.0)  # days; observation ends somewhere between


class Outcome(NamedTuple):
    """Columns of the table.

    Attributes:
        consolidation, effusion, nodules: 1 if the finding is this opacity, else 0; "" where nobody looked.
        severity: 0 to 10, one decimal.
        grade: 0 to 3, of the severity.
        days: until the patient came back, or observation ended; one decimal.
        event: 1 if the patient came back, 0 if observation ended before.
    """

    consolidation: int | str
    effusion: int | str
    nodules: int | str
    severity: float
    grade: int
    days: float
    event: int


def draw_outcome(
    opacity: Opacity, strength: float, finding: int, age: int, rng: np.random.Generator
) -> Outcome:
    """What becomes of one study.

    Args:
        opacity: the kind that the film shows.
        strength: of it on the film, 0 to 1.
        finding: whether there is a finding in truth.
        age: in years.
        rng: public randomness.
    """
    looked = rng.random(len(OPACITIES)) >= _NOT_LOOKED_AT
    consolidation, effusion, nodules = (
        finding * int(opacity == one) if there else "" for one, there in zip(OPACITIES, looked, strict=True)
    )
    severity = float(np.clip(1.0 + 4.5 * strength + finding + rng.normal(0, 1.6), 0, 10))
    rate = np.exp(0.35 * severity + 0.02 * (age - 60)) / _MEAN_DAYS
    comes_back, ends = rng.exponential(1 / rate), rng.uniform(*_OBSERVED)
    return Outcome(
        consolidation,
        effusion,
        nodules,
        severity=round(severity, 1),
        grade=int(np.searchsorted(_GRADES, severity, side="right")),
        days=round(float(min(comes_back, ends)), 1),
        event=int(comes_back <= ends),
    )
