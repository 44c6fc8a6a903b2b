"""Sweeps: from a grid of overrides to runs, each done once, and to the points of a law."""
