"""The factor that each unit's gradient is multiplied by."""

from __future__ import annotations

from typing import Literal

import torch

Clipping = Literal["flat", "automatic"]

AUTO_S_STABILITY = 0.01


def clip_factors(norms: torch.Tensor, max_grad_norm: float, clipping: Clipping) -> torch.Tensor:
    """Factors c [P] such that ||c_u g_u|| <= max_grad_norm, from the norms [P].

    flat: min(1, C / ||g||) (Abadi et al. 2016, "Deep Learning with Differential Privacy", Alg. 1).
    automatic: C / (||g|| + 0.01) (Bu et al. 2023, "Automatic Clipping", AUTO-S).

    A unit whose norm is not finite gets 0: it must not decide what is released.
    """
    if clipping == "automatic":
        factors = max_grad_norm / (norms + AUTO_S_STABILITY)
    else:
        factors = max_grad_norm / norms.clamp(min=max_grad_norm)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))
