"""A PACS as a source: studies found by date, modality and description, and retrieved into a folder for `ingest`."""

from mmmed.data.pacs.address import Access as Access
from mmmed.data.pacs.address import open_archive as open_archive
from mmmed.data.pacs.fetch import FetchReport as FetchReport
from mmmed.data.pacs.fetch import fetch as fetch
from mmmed.data.pacs.query import Query as Query
