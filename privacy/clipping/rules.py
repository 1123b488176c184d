"""The factor that each unit's gradient is multiplied by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from privacy.errors import StepError

Clipping = Literal["flat", "automatic", "per-group"]

AUTO_S_STABILITY = 0.01
_SMALLEST = 2.0**-100


class Groups:
    """Parts of a model that are clipped apart (McMahan et al. 2018, arXiv 1710.06963, section 2.3).

    Group g is clipped to C_g = C sqrt(share_g). The shares sum to 1, so the whole gradient is bounded by C: noise
    and accounting are those of flat clipping.
    """

    def __init__(self, names: Iterable[str], shares: Mapping[str, float] | None = None) -> None:
        """
        Args:
            names: of the trainable parameters.
            shares: each group's share of C^2 by the prefix of its parameters' names ("text" holds "text.layer.0"
                and "text", not "textual"). By default, an equal share for each first part of a name: for each
                child of the model.

        Raises:
            StepError: a share is not above 0, they do not sum to 1, or a parameter is in no group or in several.
        """
        names = list(names)
        if shares is None:
            prefixes = list(dict.fromkeys(name.partition(".")[0] for name in names))
            shares = dict.fromkeys(prefixes, 1 / len(prefixes))
        if not all(share > 0 for share in shares.values()) or not math.isclose(
            math.fsum(shares.values()), 1.0, rel_tol=1e-9
        ):
            raise StepError(f"The groups' shares of C^2 must be above 0 and sum to 1. Found {dict(shares)}.")
        self.shares = tuple(shares.values())
        self.of: dict[str, int] = {}  # group by parameter name
        for name in names:
            found = [i for i, prefix in enumerate(shares) if f"{name}.".startswith(f"{prefix}.")]
            if len(found) != 1:
                raise StepError(
                    f"{name} must be in exactly one group. Found {len(found)} among {list(shares)}."
                )
            self.of[name] = found[0]

    @property
    def count(self) -> int:
        return len(self.shares)


def group_factors(norms: torch.Tensor, max_grad_norm: float, groups: Groups) -> torch.Tensor:
    """Factors min(1, C_g / ||g||) [G, P] from the groups' norms [G, P]; 0 for a unit as in `clip_factors`."""
    bounds = (
        max_grad_norm * torch.tensor(groups.shares, dtype=norms.dtype, device=norms.device).sqrt()[:, None]
    )
    factors = bounds / torch.maximum(norms, bounds)
    return torch.where(_usable(norms, factors).all(0), factors, torch.zeros_like(factors))


def clip_factors(norms: torch.Tensor, max_grad_norm: float, clipping: Clipping) -> torch.Tensor:
    """Factors c [P] such that ||c_u g_u|| <= max_grad_norm, from the norms [P].

    flat: min(1, C / ||g||) (Abadi et al. 2016, "Deep Learning with Differential Privacy", Alg. 1).
    automatic: C / (||g|| + 0.01) (Bu et al. 2023, "Automatic Clipping", AUTO-S).

    A unit whose norm is not finite gets 0: it must not decide what is released. So does one whose factor would be below
    2^-100, where float32 loses precision.
    """
    if clipping == "automatic":
        factors = max_grad_norm / (norms + AUTO_S_STABILITY)
    else:
        factors = max_grad_norm / norms.clamp(min=max_grad_norm)
    return torch.where(_usable(norms, factors), factors, torch.zeros_like(factors))


def _usable(norms: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(norms) & (factors >= _SMALLEST)
