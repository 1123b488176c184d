"""``python -m simulations.soak``: a federation that runs for real while something breaks every few seconds."""
