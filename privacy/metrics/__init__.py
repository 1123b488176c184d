"""Results under differential privacy: what a site releases of its held-out patients, and what follows from it.

`release` is the mechanism, at the site; `estimate` is post-processing, wherever the releases are pooled.
"""

from privacy.metrics.estimate import Estimate, estimate
from privacy.metrics.release import (
    BINS,
    EQUAL_BINS,
    evaluation_event,
    private_tables,
    sensitivity,
    tables_shape,
)

__all__ = [
    "BINS",
    "EQUAL_BINS",
    "Estimate",
    "estimate",
    "evaluation_event",
    "private_tables",
    "sensitivity",
    "tables_shape",
]
