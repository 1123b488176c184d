"""Results of a round over all sites, from the noised counts that they released."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmmed.federation.protocol import PRIVACY
from mmmed.tasks import ClassHistograms
from privacy.metrics import estimate, sensitivity, tables_shape
from server.replies import Answer


def pooled_results(answers: Sequence[Answer], release: ClassHistograms | None) -> dict[str, Any] | None:
    """Metrics of all sites' pooled histograms, as JSON; None if no site released any.

    `release` is the task's; without one no tables are taken. Tables of another shape, or whose noise is not stated, are
    left out; `sites` tells whose were used. The noise of independent sites adds up in variance.
    """
    if release is None:
        return None
    shape = tables_shape(release.classes)
    total, variance, sites = np.zeros(shape), 0.0, []
    for answer in answers:
        noise = answer.released.get(f"{PRIVACY}noise_multiplier")
        if (
            answer.histograms is None
            or answer.histograms.shape != shape
            or not isinstance(noise, float)
            or noise <= 0
        ):
            continue
        total += answer.histograms
        variance += (noise * sensitivity(shape[0])) ** 2
        sites.append(answer.site)
    if not sites:
        return None
    return {"sites": sites, **estimate(total, math.sqrt(variance)).to_json()}
