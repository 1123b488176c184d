"""What the sites and the server of a run agree on."""
