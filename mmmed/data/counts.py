"""Counts as they are shown."""

from __future__ import annotations

import math


def rounded(count: int) -> str:
    """A count to two digits, and nothing exact below ten."""
    if count < 10:
        return "< 10" if count else "0"
    digits = 10 ** max(1, math.floor(math.log10(count)) - 1)
    return f"about {round(count / digits) * digits:,}"
