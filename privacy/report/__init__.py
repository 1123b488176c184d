"""The privacy report of a run: what was spent, by whom, and how anybody can check it."""

from privacy.report.build import RunFacts, build_report
from privacy.report.evaluations import Pooled
from privacy.report.page import render_report, write_report
from privacy.report.rounding import mechanism_cells, run_cell, shown
from privacy.report.statement import MAX_BYTES, Asked, Shared, Statement, read_statement, sign_statement
from privacy.report.sweeps import sweep_statements
from privacy.report.verify import unfinished, verify_report
from privacy.versions import versions

__all__ = [
    "MAX_BYTES",
    "Asked",
    "Pooled",
    "RunFacts",
    "Shared",
    "Statement",
    "build_report",
    "mechanism_cells",
    "read_statement",
    "render_report",
    "run_cell",
    "shown",
    "sign_statement",
    "sweep_statements",
    "unfinished",
    "verify_report",
    "versions",
    "write_report",
]
