"""Accounting: mechanisms are frozen events, accountants interpret them.

`epsilon` and `delta` are the truth (PLD); `adaptive_epsilon` holds when mechanisms were chosen after seeing
earlier results; `account` puts everything side by side and raises when the accountants disagree.
"""

from privacy.accounting.calibrate import calibrate_noise_multiplier
from privacy.accounting.crosscheck import CrossCheck, cross_check
from privacy.accounting.events import DpSgdEvent, merge
from privacy.accounting.pld import Adjacency, delta, discretisation_error, epsilon
from privacy.accounting.rdp import adaptive_epsilon, rdp
from privacy.accounting.report import AccountingReport, account
from privacy.accounting.risk import TradeOff, trade_off

__all__ = [
    "AccountingReport",
    "Adjacency",
    "CrossCheck",
    "DpSgdEvent",
    "TradeOff",
    "account",
    "adaptive_epsilon",
    "calibrate_noise_multiplier",
    "cross_check",
    "delta",
    "discretisation_error",
    "epsilon",
    "merge",
    "rdp",
    "trade_off",
]
