"""Papers judged: what is claimed, runs with seeds, paired intervals, and one table of verdicts."""
