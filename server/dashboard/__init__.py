"""What the consortium sees: its runs, what they cost, who is online, who refused and why as far as they said."""

from server.dashboard.coordinator import coordinator_section as coordinator_section
from server.dashboard.coordinator import is_federation as is_federation
from server.dashboard.pages import consortium_section as consortium_section
