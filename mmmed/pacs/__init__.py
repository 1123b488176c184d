"""A PACS as a source: studies found by date, modality and description, and retrieved into a folder for `ingest`."""

from mmmed.pacs.address import Access as Access
from mmmed.pacs.address import open_archive as open_archive
from mmmed.pacs.fetch import FetchReport as FetchReport
from mmmed.pacs.fetch import fetch as fetch
from mmmed.pacs.query import Query as Query
