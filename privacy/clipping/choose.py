"""How a use's per-unit norms are found: the cheapest way that its shapes and the memory left allow.

keep        make each unit's gradient, keep it, and sum the kept gradients once the factors are known.
ghost       the norm from Gram matrices (Li et al. 2022, "Large Language Models Can Be Strong Differentially
            Private Learners", section 4); then one ordinary, weighted gradient.
recompute   make each unit's gradient in parts, take its norm and drop it; then one ordinary, weighted gradient.

"Mixed ghost clipping" chooses between the first two per layer (Bu et al. 2022, "Scalable and Efficient Training
of Large Convolutional Neural Networks with Differential Privacy"); the third keeps memory bounded.
"""

from __future__ import annotations

from typing import Literal

from privacy.clipping.use import Cost

Way = Literal["keep", "ghost", "recompute"]

# A multiply-add of a matrix product is so many times cheaper than moving one number to memory and back twice.
# Measured on CPUs; the choice is broad, so that a factor of two either way hardly matters.
_MOVE = 60.0
_SMALL_PRODUCTS = 1.5  # Gram matrices are small, so their products run at a lower rate


def choose(cost: Cost, numel: int, units: int, itemsize: int, room: int) -> Way:
    """
    Args:
        cost: multiply-adds per unit.
        numel: numbers in one unit's gradient.
        units: P.
        itemsize: bytes of a number.
        room: bytes that may still be kept.
    """
    ways: dict[Way, float] = {
        "ghost": _SMALL_PRODUCTS * cost.gram,
        "recompute": cost.gradient + _MOVE / 2 * numel,
    }
    if numel * units * itemsize <= room:
        ways["keep"] = _MOVE * numel
    return min(ways, key=lambda way: ways[way])
