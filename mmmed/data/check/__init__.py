"""Is a data set fit to train on, and what would a model learn from it that it should not?"""

from mmmed.data.check.gate import check as check
from mmmed.data.check.page import write_page as write_page
from mmmed.data.check.result import CheckResult as CheckResult
