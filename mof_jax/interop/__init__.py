"""Weights to and from Hugging Face and OpenCLIP, by declarative maps that work in both directions."""
