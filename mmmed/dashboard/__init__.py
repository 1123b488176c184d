"""A small local web application of server-rendered pages: `create_app` puts sections of pages behind a login."""

from mmmed.dashboard.shell import Section, create_app, page

__all__ = ["Section", "create_app", "page"]
