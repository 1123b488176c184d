"""The server's half of SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II).

A site's control variate moves by -c - update / (local steps x learning rate): both are known to the server from what
the site released, so it keeps the mean control c itself and no site sends anything more. Made from privatised updates,
the control variates are post-processing: they cost no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.aggregation import mean
from server.checkpoint import Arrays
from server.replies import Answer
from server.spool import Update

_STEPS = "local-steps"
_MAX_STEPS = 1e6


def tells_steps(answer: Answer) -> bool:
    """Whether a site told a believable number of local steps."""
    return 1 <= answer.metrics.get(_STEPS, 0) <= _MAX_STEPS


def next_control(control: Arrays, updates: Sequence[Update], *, asked: int, learning_rate: float) -> Arrays:
    """c after a round: c - |S|/N (c + mean of update / (K lr)), N the sites asked and S those whose update counts."""
    directions = mean([one.scaled(1 / (learning_rate * one.answer.metrics[_STEPS])) for one in updates])
    share = np.float32(len(updates) / asked)
    return {key: control[key] - share * (control[key] + directions[key]) for key in control}
