"""Documents of several kinds, packed into rows of a fixed shape."""
