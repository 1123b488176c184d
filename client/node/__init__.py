"""A hospital's machine in a federation: its node, its own runner, its approvals and its audit log."""
