"""What a hospital sees of its own site: budget, runs, refusals with their reasons, progress. It stays at the site."""

from client.dashboard.pages import deployed_section, is_site, is_state, site_section

__all__ = ["deployed_section", "is_site", "is_state", "site_section"]
