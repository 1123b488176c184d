"""C11: two whole rounds that differ in one patient, with all public randomness alike.

The batches of both are made by the site's own code, in order, from the data set with and without the patient.
Whatever is drawn for several patients together (which records, which views, a stream that one record moves for all
others) shows as a difference of the sums; in a step that did not draw the patient there must be none.
"""

from __future__ import annotations

import math

import numpy as np

from privacy.audit.long_run import TOLERANCE
from privacy.audit.releases import quiet_step, rows_of
from privacy.audit.result import Check, certain
from privacy.audit.subject import Batches, Subject, seeded
from privacy.clipping.validate import trainable

_UNDRAWN = 1e-3  # C that a patient may move a step that did not draw him: rounding
_LOUDNESS = 1e3  # times the losses, so that every gradient is clipped
_DRAWS = (4, 0, 1, 3, 2)  # other patients in each step; the newcomer is drawn into all but two of them
_ABSENT = (1, 3)


def neighbour_check(subject: Subject) -> Check:
    """C11: compare every step's sum of two rounds of `open_round`, with and without a newcomer, for two newcomers."""
    counts = np.array([len(records) for records in rows_of(subject)])
    newcomers = {int(counts.argmax()), len(counts) // 2}  # one with the most records, one in the middle
    worst, where, stray = 0.0, "", 0.0
    alone, together = _Side(subject), _Side(subject)
    for newcomer in sorted(newcomers):
        others = np.setdiff1d(np.arange(len(counts)), [newcomer])
        generator = np.random.default_rng()
        draws = [np.sort(generator.choice(others, min(size, len(others)), replace=False)) for size in _DRAWS]
        joined = [
            draw if number in _ABSENT else np.sort(np.append(draw, newcomer))
            for number, draw in enumerate(draws)
        ]
        without = alone.sums(subject.round(others), draws)
        differences = together.sums(subject.round(np.arange(len(counts))), joined) - without
        for number, difference in enumerate(differences):
            norm = float(np.linalg.norm(difference))
            norm = norm if math.isfinite(norm) else math.inf
            if number in _ABSENT:
                stray = max(stray, norm)
            elif norm >= worst:
                worst, where = norm, f"with {len(draws[number])} others, step {number + 1}"
    return certain(
        "C11",
        "two rounds that differ in one patient differ by at most C a step",
        f"{worst:.4f} C ({where}), {stray:.4f} C in steps without the patient",
        worst <= TOLERANCE and stray <= _UNDRAWN,
    )


class _Side:
    """A site that takes rounds with a model that does not move, the noise all but off."""

    def __init__(self, subject: Subject) -> None:
        with seeded(0):
            self._model = subject.make_model()
        self._size = sum(p.numel() for p in trainable(self._model).values())
        self._step, self._recorder = quiet_step(subject, self._model)
        self._subject = subject

    def sums(self, batches: Batches, draws: list[np.ndarray]) -> np.ndarray:
        """The sums of one round, float64 [steps, coordinates], in units of C."""
        sums = np.zeros((len(draws), self._size))
        with seeded(0):
            for number, drawn in enumerate(draws):
                losses, units = batches(drawn)
                self._step(lambda part, losses=losses: losses(self._model, part) * _LOUDNESS, units)  # type: ignore[misc]
                released = self._recorder.take(self._subject)
                if len(released):
                    sums[number] = released.sum(0)
        return sums
