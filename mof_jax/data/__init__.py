"""Sources, mixtures and the global cursor: from files to batches."""
