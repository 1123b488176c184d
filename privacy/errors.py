"""Everything that privacy can refuse.

    PrivacyError
    ├── NoiseError           the noise or a sampling mask cannot be drawn as asked
    ├── AccountingError      an epsilon cannot be computed, or two accountants disagree
    ├── LedgerError          the ledger cannot be trusted, read or written
    └── BudgetExceeded       the budget, or what a plan reserved, does not allow it

Every one of them means: stop, nothing was released.
"""

from __future__ import annotations


class PrivacyError(Exception):
    """Base of everything that privacy refuses."""


class NoiseError(PrivacyError):
    """The noise or a sampling mask cannot be drawn as asked."""


class AccountingError(PrivacyError):
    """An epsilon cannot be computed, or two accountants disagree beyond their known error."""


class LedgerError(PrivacyError):
    """The ledger cannot be trusted, read or written."""


class BudgetExceeded(PrivacyError):
    """The budget, or what is left of a plan, does not allow this."""
