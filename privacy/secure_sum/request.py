"""What the server asks of every site of a cohort in one attempt at one step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from privacy.errors import SecureSumRefusal

_LABEL = b"mmmed secure sum: context 1\0"


@dataclass(frozen=True)
class Request:
    """One attempt at one step.

    Args:
        step: from 1; asked again, as another attempt, where an attempt gave no sum.
        attempt: its number among all attempts of the run, from 1: of two requests the later has the larger one.
        cohort: the names of all sites that are asked, sorted.
        model: SHA-256 (32 bytes) of the model that the step starts from, as the site computed it from what it got.

    Raises:
        SecureSumRefusal: a value is of another type, or out of its range.
    """

    step: int
    attempt: int
    cohort: tuple[str, ...]
    model: bytes

    def __post_init__(self) -> None:
        for name, value in (("step", self.step), ("attempt", self.attempt)):
            if type(value) is not int or not 1 <= value <= 1 << 33:
                raise SecureSumRefusal(f"{name}: expected a whole number from 1. Found {value!r:.120}.")
        cohort = self.cohort
        if not (isinstance(cohort, tuple) and all(isinstance(name, str) for name in cohort)):
            raise SecureSumRefusal("cohort: expected the names of sites.")
        if list(cohort) != sorted(set(cohort)):
            raise SecureSumRefusal("cohort: expected every name once, in order.")
        if not (isinstance(self.model, bytes) and len(self.model) == 32):
            raise SecureSumRefusal("model: expected a SHA-256 digest of 32 bytes.")

    def context(self, terms: bytes, bundle: bytes) -> bytes:
        """What every mask of this attempt is bound to, 32 bytes.

        Args:
            terms: digest of the terms.
            bundle: digest of all introductions.
        """
        asked = json.dumps([self.step, self.attempt, self.cohort], separators=(",", ":")).encode("ascii")
        return hashlib.sha256(_LABEL + terms + bundle + self.model + asked).digest()
