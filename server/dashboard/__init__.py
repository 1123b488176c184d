"""What the consortium sees: its runs, what they cost, who is online, who refused and why as far as they said."""

from server.dashboard.coordinator import coordinator_section, is_federation
from server.dashboard.pages import consortium_section

__all__ = ["consortium_section", "coordinator_section", "is_federation"]
