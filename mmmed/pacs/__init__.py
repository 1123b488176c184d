"""A PACS as a source: studies found by date, modality and description, and retrieved into a folder for `ingest`."""

from mmmed.pacs.address import Access, open_archive
from mmmed.pacs.fetch import FetchReport, fetch
from mmmed.pacs.query import Query

__all__ = ["Access", "FetchReport", "Query", "fetch", "open_archive"]
