"""Results under differential privacy: what a site releases of its held-out patients, and what follows from it.

`kinds` lists what there is: counts by label and score (`release`, with `estimate`), sums of errors (`errors`),
counts by time and risk (`concordance`), and sums of a share that a record has right (`agreement`). The mechanism runs
at the site; what is estimated is post-processing, wherever the releases are pooled.
"""

from privacy.metrics.calibration import Calibration, calibrate
from privacy.metrics.estimate import Estimate, estimate
from privacy.metrics.kinds import ReleaseKind, kind_of_sums, release_kind
from privacy.metrics.release import BINS, EQUAL_BINS, evaluation_event, sensitivity
from privacy.metrics.scores import ScoreEstimate, main_score

__all__ = [
    "BINS",
    "EQUAL_BINS",
    "Calibration",
    "Estimate",
    "ReleaseKind",
    "ScoreEstimate",
    "calibrate",
    "estimate",
    "evaluation_event",
    "kind_of_sums",
    "main_score",
    "release_kind",
    "sensitivity",
]
