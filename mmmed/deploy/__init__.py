"""What the coordinator's and the hospital's machines have in common: certificates, start-up kits, processes."""
