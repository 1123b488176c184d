"""Other libraries' log lines and progress bars, silenced in mmmed's own processes and not where it is imported."""

from __future__ import annotations

import functools
import logging
import os
import warnings

_SILENT = logging.CRITICAL + 1
_LEAST = {
    # pydicom repeats malformed values, which may be a name or an id; whatever is wrong with a file reaches the user
    # as a DataError instead. The others log what they send and receive, and that names patients.
    "pydicom": _SILENT,
    "pynetdicom": _SILENT,
    "dicomweb_client": _SILENT,
    "urllib3": _SILENT,
    "python_multipart": _SILENT,  # it repeats what it cannot read of a form, which is a patient's
    "nibabel.global": logging.CRITICAL,  # it prints what it mends in headers
    "flwr": logging.WARNING,  # its account of every step would break progress bars
}


@functools.cache
def quieten() -> None:
    """Silence them in this process and, where the environment says so, in those that it starts.

    Nothing is imported. Each process of mmmed's own calls it first: the command, a simulation's worker, a site's
    runner.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for loading weights would break ours
    for name, least in _LEAST.items():
        logger = logging.getLogger(name)
        logger.setLevel(least)  # and with it its parts' loggers
        logger.addFilter(functools.partial(_reaches, least))  # Flower and pydicom set a level when imported
    warnings.filterwarnings("ignore", module=r"pydicom\b")


def _reaches(least: int, record: logging.LogRecord) -> bool:
    return record.levelno >= least
