"""A run that stays one run: through signals, hangs, losses that jump, and other processes."""
