"""What one message may hold: all that another party can make this one store, in count, length and size.

Tensors are bounded by the model's shapes, where those are known.
"""

from __future__ import annotations

import math
import re

MOST_CONFIG = 128 * 1024  # characters of a run's configuration
MOST_PARTS = 64  # frozen parts of a model, with their digests
MOST_TERMS = 4 * 1024 * 1024  # bytes of its terms, and of its keys
MOST_SCORES = 256  # numbers of a reply, by name
MOST_STATED = 64  # entries of what a site states
MOST_NUMBER = 1e12  # size of a number
MOST_NAME = 100  # characters of a number's or entry's name
MOST_TEXT = 1000  # characters of a text that a site states, a receipt among them
MOST_STATEMENT = 64 * 1024  # characters of a signed statement; `privacy.report.MAX_BYTES`
MOST_CELLS = 10_000  # of noised counts, and what one may hold:
MOST_COUNT = 1e9
MOST_KEY = 4096  # characters or bytes of a site's key of a run

CODE = re.compile(r"[a-z][a-z0-9-]{0,39}")
NAME = re.compile(r"[^\W_][\w .-]{0,63}")
RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
RULE = re.compile(r"[a-z_]{1,30}(\.[a-z_]{1,30})?")


def is_name(key: object) -> bool:
    """Whether it can name a number or an entry: some printable characters."""
    return isinstance(key, str) and 0 < len(key) <= MOST_NAME and key.isprintable()


def is_number(value: object) -> bool:
    """Whether it is a number with a size: no truth value, NaN or infinity."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
