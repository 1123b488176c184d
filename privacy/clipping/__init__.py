"""Clip each privacy unit's gradient and sum: three engines with one contract (`ClippingEngine`).

`bookkeeping` is ours: one forward and one backward pass. `hooks` and `ghost` are Opacus' own.
"""

from privacy.clipping.parameter import per_record

__all__ = ["per_record"]
