"""Watch a model in use: a log of its predictions that stays at the site, and what it says of drift and of groups."""

from mmmed.watch.labels import Added, add_labels
from mmmed.watch.log import WatchFolder
from mmmed.watch.record import KNOWN, Watch, known_of
from mmmed.watch.report import Period, Report, prune_log, report

__all__ = [
    "KNOWN",
    "Added",
    "Period",
    "Report",
    "Watch",
    "WatchFolder",
    "add_labels",
    "known_of",
    "prune_log",
    "report",
]
