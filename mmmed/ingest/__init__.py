"""Hospital data in: DICOM, reports and tables become a clean, de-identified local data set."""

from mmmed.ingest.deidentified import DeidentifyReport, deidentify
from mmmed.ingest.options import IngestOptions, load_options
from mmmed.ingest.outcome import IngestReport
from mmmed.ingest.pipeline import ingest
from mmmed.ingest.review import Review, decide, put_in_order
from mmmed.ingest.sources import Skipped

__all__ = [
    "DeidentifyReport",
    "IngestOptions",
    "IngestReport",
    "Review",
    "Skipped",
    "decide",
    "deidentify",
    "ingest",
    "load_options",
    "put_in_order",
]
