"""A small local web application of server-rendered pages: `create_app` puts sections of pages behind a login."""

from mmmed.web.shell import Section as Section
from mmmed.web.shell import create_app as create_app
from mmmed.web.shell import page as page
