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


def choose(cost: Cost, kept: int, held: int, room: int) -> Way:
    """
    Args:
        cost: of each way, per unit.
        kept: bytes of the units' gradients.
        held: bytes of what they are made of, which the other two ways hold.
        room: bytes that keeping may still take beyond that.
    """
    ways: dict[Way, float] = {"recompute": cost.gradient + 0.8 * cost.keep, "ghost": cost.ghost}
    if kept - held <= room:
        ways["keep"] = cost.keep
    return min(reversed(ways), key=lambda way: ways[way])
