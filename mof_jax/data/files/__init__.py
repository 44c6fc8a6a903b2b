"""Formats of files, read so that nothing is lost: tables, lines, tars, arrays."""
