"""Hospital data in: DICOM, reports and tables become a clean, de-identified local data set."""

from mmmed.data.ingest.deidentified import DeidentifyReport as DeidentifyReport
from mmmed.data.ingest.deidentified import deidentify as deidentify
from mmmed.data.ingest.options import IngestOptions as IngestOptions
from mmmed.data.ingest.options import load_options as load_options
from mmmed.data.ingest.pipeline import ingest as ingest
from mmmed.data.ingest.report import IngestReport as IngestReport
from mmmed.data.ingest.review import Review as Review
from mmmed.data.ingest.review import decide as decide
from mmmed.data.ingest.review import put_in_order as put_in_order
from mmmed.data.ingest.sources import Skipped as Skipped
