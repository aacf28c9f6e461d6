"""Several agents, alike but for their seeds, trained in one process."""
