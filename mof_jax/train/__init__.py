"""State, optimizer rules, one step, one loop, checkpoints, metrics."""
