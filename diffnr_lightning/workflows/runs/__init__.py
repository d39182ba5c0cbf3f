"""The folder of a run: what made it, how far it is, and what it found."""
