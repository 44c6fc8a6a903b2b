"""Figures from arrays: accuracies with intervals, ranks, CIDEr."""
