"""The privacy report of a run: what was spent, by whom, and how anybody can check it."""

from privacy.report.running import EpsilonReport, SiteRound, SiteSpending, shown
from privacy.report.statement import Statement, read_statement, sign_statement

__all__ = [
    "EpsilonReport",
    "SiteRound",
    "SiteSpending",
    "Statement",
    "read_statement",
    "shown",
    "sign_statement",
]
