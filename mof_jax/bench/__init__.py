"""Measurements: each module times one part of the framework against the form one would otherwise use."""
