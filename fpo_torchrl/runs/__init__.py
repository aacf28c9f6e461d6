"""One run: its directory, its settings, and how it starts, goes on and ends."""
