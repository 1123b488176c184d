"""A small local web application of server-rendered pages: `create_app` puts sections of pages behind a login."""

from mmmed.dashboard.shell import Forbidden, Section, create_app, form_of, page

__all__ = ["Forbidden", "Section", "create_app", "form_of", "page"]
