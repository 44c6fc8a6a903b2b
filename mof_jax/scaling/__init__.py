"""From the points of a sweep to a scaling law with honest intervals."""
