"""Two more accountants, independent of the PLD, that must agree with it within their known error.

* RDP (dp-accounting): a looser upper bound. The PLD must not exceed it.
* PRV (Opacus; Gopi et al. 2021, arXiv 2106.02848): tight, within 0.01 of the truth on either side. The PLD, an
  upper bound too, must not lie below what it leaves possible.

The central limit approximation ("GDP accountant") is not an upper bound and is not used.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from privacy.accounting.events import DpSgdEvent, merge
from privacy.errors import AccountingError

PRV_ERROR = 0.01  # asked of the PRV accountant: its answer is at most twice this above the truth
_PRV_TOLERANCE = 0.03
_RDP_TOLERANCE = 1e-3
_RDP_ORDERS = [1.75 + i / 4 for i in range(32)] + [*range(10, 65), 96, 128, 256, 512]


@dataclass(frozen=True)
class CrossCheck:
    """What the other accountants say about the same events and delta.

    Attributes:
        rdp: epsilon by Rényi DP; infinite where no order converges.
        prv: epsilon by privacy random variables, or None where that accountant cannot compute it.
        prv_unavailable: why there is no `prv`, else "".
    """

    rdp: float
    prv: float | None
    prv_unavailable: str


def cross_check(events: Iterable[DpSgdEvent], delta: float, claimed: float, slack: float = 0.0) -> CrossCheck:
    """Compare `claimed`, an epsilon at `delta` by PLD, with RDP and PRV.

    Args:
        events: what the claim covers.
        delta: the claim's delta.
        claimed: the claim.
        slack: known discretisation error of the claim, by which it may exceed RDP.

    Raises:
        AccountingError: the claim is outside [PRV - 0.03, RDP + 0.001 + slack]: do not release it.
    """
    segments = merge(events)
    rdp = _rdp_epsilon(segments, delta)
    prv, reason = _prv_epsilon(segments, delta)
    if claimed > rdp + _RDP_TOLERANCE + slack:
        raise AccountingError(
            f"PLD gives epsilon {claimed:.5f}, above the RDP bound {rdp:.5f}, at delta {delta}."
        )
    if prv is not None and claimed < prv - _PRV_TOLERANCE:
        raise AccountingError(f"PLD gives epsilon {claimed:.5f}, below PRV's {prv:.5f}, at delta {delta}.")
    return CrossCheck(rdp, prv, reason)


def _rdp_epsilon(segments: tuple[DpSgdEvent, ...], delta: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=_RDP_ORDERS)
    with (
        _without_warnings()
    ):  # of orders that do not converge and are left out: the bound is looser, and still one
        for event in segments:
            step = PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(event.noise_multiplier))
            accountant.compose(step, event.steps)
        return float(accountant.get_epsilon(delta))


@contextmanager
def _without_warnings() -> Iterator[None]:
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _prv_epsilon(segments: tuple[DpSgdEvent, ...], delta: float) -> tuple[float | None, str]:
    if not segments:
        return 0.0, ""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in segments]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))
    except (RuntimeError, ValueError, ArithmeticError, MemoryError, IndexError) as error:
        return None, f"{type(error).__name__}: {error}"
    return (value, "") if math.isfinite(value) else (None, "not a finite number")
