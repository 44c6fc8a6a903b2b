"""Embedded pictures and drawn worlds, whose facts are known exactly."""
