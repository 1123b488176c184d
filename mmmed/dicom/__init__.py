"""DICOM: opening hostile files safely, pixels as a display would show them, series as volumes, SR as text."""

import logging
import warnings

# pydicom repeats malformed values in its warnings and log lines, and such a value may be a name or an id.
# Whatever is wrong with a file reaches the user as a DataError instead.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom\b")
