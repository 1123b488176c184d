"""What a hospital sees of its own site: budget, runs, refusals with their reasons, progress. It stays at the site."""

from client.dashboard.pages import deployed_section as deployed_section
from client.dashboard.pages import is_site as is_site
from client.dashboard.pages import is_state as is_state
from client.dashboard.pages import site_section as site_section
