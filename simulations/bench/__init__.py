"""Benchmarks: ``python -m simulations.bench NAME [--json FILE]``. Each prints a table of what it measured."""
