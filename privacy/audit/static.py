"""S1: what can be seen without a statistic: the model is one whose per-patient gradients can be bounded."""

from __future__ import annotations

from torch import nn

from privacy.audit.result import Check, certain
from privacy.clipping.validate import validate_model
from privacy.errors import UnsupportedModel


def model_check(model: nn.Module) -> Check:
    """S1: no batch statistics, no running statistics, only dense real parameters."""
    claim = "the model does not mix patients"
    try:
        validate_model(model)
    except UnsupportedModel as error:
        return certain("S1", claim, str(error), False)
    return certain("S1", claim, "no layer does", True)
