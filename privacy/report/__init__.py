"""The privacy report of a run: what was spent, by whom, and how anybody can check it."""

from privacy.report.running import EpsilonReport, SiteRound, SiteSpending, shown

__all__ = ["EpsilonReport", "SiteRound", "SiteSpending", "shown"]
