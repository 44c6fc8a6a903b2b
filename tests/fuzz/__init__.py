"""Readers of outside bytes, tried on seeded mutations of valid files: `python -m tests.fuzz --help`."""
