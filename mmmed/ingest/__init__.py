"""Hospital data in: DICOM, reports and tables become a clean, de-identified local data set."""

from mmmed.ingest.deidentified import DeidentifyReport as DeidentifyReport
from mmmed.ingest.deidentified import deidentify as deidentify
from mmmed.ingest.options import IngestOptions as IngestOptions
from mmmed.ingest.options import load_options as load_options
from mmmed.ingest.outcome import IngestReport as IngestReport
from mmmed.ingest.pipeline import ingest as ingest
from mmmed.ingest.review import Review as Review
from mmmed.ingest.review import decide as decide
from mmmed.ingest.review import put_in_order as put_in_order
from mmmed.ingest.sources import Skipped as Skipped
