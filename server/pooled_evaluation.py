"""Results of a round over all sites, from the noised counts that they released."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmmed.federation.protocol import PRIVACY
from mmmed.tasks import Release
from privacy.metrics import release_kind
from server.replies import Answer


def pooled_results(answers: Sequence[Answer], release: Release | None) -> dict[str, Any] | None:
    """Scores of all sites' pooled counts or sums, as JSON; None if no site released any.

    `release` is the task's; without one no tables are taken. Tables of another shape, or whose noise is not stated, are
    left out; `sites` tells whose were used. The noise of independent sites adds up in variance.
    """
    if release is None:
        return None
    kind = release_kind(release.kind, release.size)
    total, variance, sites = np.zeros(kind.shape), 0.0, []
    for answer in answers:
        noise = answer.released.get(f"{PRIVACY}noise_multiplier")
        if (
            answer.histograms is None
            or answer.histograms.shape != kind.shape
            or not isinstance(noise, float)
            or noise <= 0
        ):
            continue
        total += answer.histograms
        variance += (noise * kind.sensitivity) ** 2
        sites.append(answer.site)
    if not sites:
        return None
    return {"sites": sites, **kind.estimate(total, math.sqrt(variance)).to_json()}
