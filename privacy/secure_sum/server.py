"""The server's half: it asks a cohort, adds what comes modulo 2^bits, and asks again where somebody is missing.

It holds no secret. What it must get right is for use, not for privacy: sites refuse or garble whatever would be
against them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privacy.errors import SecureSumRefusal, VoidStep
from privacy.secure_sum.keys import Bundle, Introduction
from privacy.secure_sum.request import Request
from privacy.secure_sum.terms import Terms


class Coordinator:
    """One run at the server.

    Args:
        terms: the run's.
        introductions: of all sites that came, checked here too, so that a bad one is named.

    Raises:
        SecureSumRefusal: an introduction is not what it should be, or too few came.
    """

    def __init__(self, terms: Terms, introductions: Sequence[Introduction]) -> None:
        self.terms = terms
        self.names = Bundle(terms, introductions).names
        self._request: Request | None = None
        self._missing: set[str] = set()
        self._total = np.zeros(0, terms.lattice.word)
        self._check_cohort(self.names)

    def ask(self, step: int, cohort: Sequence[str], model: bytes) -> Request:
        """Begin an attempt: the first at `step`, or the next one at it. What the last one gathered is dropped.

        Args:
            step: at least that of the last attempt.
            cohort: names of those who can be reached.
            model: SHA-256 of the model that is sent along.

        Raises:
            SecureSumRefusal: the cohort is too small or the plan has no answers left.
        """
        cohort = tuple(sorted(cohort))
        self._check_cohort(cohort)
        if not set(cohort) <= set(self.names):
            raise SecureSumRefusal(
                f"The cohort names sites without a key: {sorted(set(cohort) - set(self.names))!r:.120}."
            )
        last = self._request
        if not (last.step if last else 1) <= step <= self.terms.steps:
            raise SecureSumRefusal(
                f"step: {step}. Expected no earlier one than before, at most {self.terms.steps}."
            )
        if last and last.attempt >= self.terms.most_answers:
            raise SecureSumRefusal(
                f"All {self.terms.most_answers} attempts of the plan are used ({self.terms.steps} steps and "
                f"{self.terms.repeats} repeats). The run ends here; plan more repeats where sites drop out often."
            )
        request = Request(step, last.attempt + 1 if last else 1, cohort, model)
        self._begin(request)
        return request

    def ask_again(self, request: Request) -> None:
        """Go on from the last request of an earlier process: sites that answered it send the same words again."""
        self._begin(request)

    def add(self, name: str, answer: bytes) -> None:
        """Add one site's words of this attempt.

        Raises:
            SecureSumRefusal: nobody waits for them, or they are not as many as they should be.
        """
        if name not in self._missing:
            raise SecureSumRefusal(f"No words of {name!r:.120} are waited for.")
        word = self.terms.lattice.word
        if len(answer) != self.terms.dimension * word.itemsize:
            raise SecureSumRefusal(
                f"{len(answer)} bytes came from {name!r}. Expected {self.terms.dimension} words of {word.itemsize} "
                "bytes."
            )
        self._total += np.frombuffer(answer, word)
        self._missing.remove(name)

    @property
    def missing(self) -> tuple[str, ...]:
        """Sites of the cohort that have not answered this attempt, sorted."""
        return tuple(sorted(self._missing))

    def total(self) -> np.ndarray:
        """The sum over the cohort, noise included, float64 [d].

        Raises:
            VoidStep: somebody is missing: only a whole cohort's masks cancel. Ask again, without them.
            SecureSumRefusal: the words are garbage.
        """
        if self._request is None or self._missing:
            raise VoidStep(
                f"No words came from {', '.join(self.missing) or 'anybody'}. Ask the others again."
            )
        return self.terms.lattice.decode(self._total)

    def _begin(self, request: Request) -> None:
        self._request, self._missing = request, set(request.cohort)
        self._total = np.zeros(self.terms.dimension, self.terms.lattice.word)

    def _check_cohort(self, cohort: Sequence[str]) -> None:
        if len(cohort) < self.terms.least_cohort:
            raise SecureSumRefusal(
                f"{len(cohort)} sites. The terms ask for {self.terms.least_cohort} or more in a step."
            )
