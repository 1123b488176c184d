"""Is a data set fit to train on, and what would a model learn from it that it should not?"""

from mmmed.check.gate import check
from mmmed.check.page import write_page
from mmmed.check.result import CheckResult

__all__ = ["CheckResult", "check", "write_page"]
