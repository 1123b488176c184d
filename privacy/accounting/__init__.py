"""Accounting: mechanisms are frozen events, accountants interpret them.

`epsilon` and `delta` are the truth (PLD); `claimed_epsilon` is that, or RDP where no PLD is known; `adaptive_epsilon`
holds when mechanisms were chosen after seeing earlier results; `account` puts everything side by side and raises when
the accountants disagree.
"""

from privacy.accounting.calibrate import (
    calibrate_noise_multiplier,
    calibrate_selection,
    near_noise_multiplier,
)
from privacy.accounting.claim import claimed_epsilon, shown
from privacy.accounting.crosscheck import CrossCheck, cross_check
from privacy.accounting.events import DpSgdEvent, Event, SelectionEvent, event_from_json, merge
from privacy.accounting.pld import Adjacency, delta, discretisation_error, epsilon
from privacy.accounting.rdp import adaptive_epsilon, rdp
from privacy.accounting.report import AccountingReport, account
from privacy.accounting.risk import TradeOff, trade_off

__all__ = [
    "AccountingReport",
    "Adjacency",
    "CrossCheck",
    "DpSgdEvent",
    "Event",
    "SelectionEvent",
    "TradeOff",
    "account",
    "adaptive_epsilon",
    "calibrate_noise_multiplier",
    "calibrate_selection",
    "claimed_epsilon",
    "cross_check",
    "delta",
    "discretisation_error",
    "epsilon",
    "event_from_json",
    "merge",
    "near_noise_multiplier",
    "rdp",
    "shown",
    "trade_off",
]
