"""Experiments that are told as a whole: what is trained, what it is compared with, and the table that comes out."""
