"""Numbers as the report prints them: always rounded up, so that no risk looks smaller than it is."""

from __future__ import annotations

import math


def shown(epsilon: float) -> str:
    """An epsilon with three digits, rounded up: what is printed is never below what was spent."""
    return f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"


def percent(probability: float) -> str:
    """A probability in per cent with one decimal, rounded up, with a space that does not break."""
    return f"{math.ceil(probability * 1000 - 1e-9) / 10:g}\u00a0%"
