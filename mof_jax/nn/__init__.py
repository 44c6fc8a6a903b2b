"""Building blocks: parameters with their logical axes, layers, attention, the layer stack."""
