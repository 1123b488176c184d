"""A PACS as a source: studies found by date, modality and description, and retrieved into a folder for `ingest`."""

import logging

from mmmed.pacs.address import Access as Access
from mmmed.pacs.address import open_archive as open_archive
from mmmed.pacs.fetch import FetchReport as FetchReport
from mmmed.pacs.fetch import fetch as fetch
from mmmed.pacs.query import Query as Query

# Both libraries log what they send and receive, and that names patients.
for _name in ("pynetdicom", "dicomweb_client", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
