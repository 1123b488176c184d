"""The coordinator's machine: certificates, sites, the SuperLink and what is published of it."""
