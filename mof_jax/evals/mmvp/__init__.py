"""MMVP and MMVP-VLM (arXiv 2401.06209): their files, scores and correlations."""
