"""Pairs of degraded and clean volumes: their files, what is drawn from them, and what is held out."""
